"""Imports run one way. Every import of every module is read from its source, those inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import facezoo

PACKAGE = Path(facezoo.__file__).parent

# What each part of the package may import of the package, besides itself and `_version`.
FOUNDATION = {"registry", "files", "modes", "counting", "ops", "layers", "blocks", "weights", "models"}
ALLOWED: dict[str, set[str]] = {
    "_version": set(),
    "registry": set(),
    "files": set(),
    "modes": set(),
    "counting": {"modes"},
    "ops": set(),
    "layers": {"registry", "ops"},
    "blocks": {"registry", "ops", "layers"},
    "weights": {"registry", "files", "modes", "counting", "ops", "layers", "blocks"},
    "models": {"registry", "files", "modes", "counting", "ops", "layers", "blocks", "weights"},
    "profile": FOUNDATION,
    "margins": {"registry", "ops"},
    "losses": {"registry", "ops"},
    "data": FOUNDATION,
    "evaluation": FOUNDATION | {"data"},
    "deploy": FOUNDATION | {"data", "evaluation"},
    "training": FOUNDATION | {"profile", "margins", "losses", "data", "evaluation"},
}
ENTRY_POINTS = {"__init__", "__main__", "cli", "demo"}  # they may import everything, and nothing above imports them


def part_of(path: Path, root: Path = PACKAGE) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def imported_parts(source: str, module: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """The parts of facezoo that a module imports, with line numbers; "" is the top-level package itself."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*anchor, base]).rstrip(".")
            names = [f"facezoo.{alias.name}" for alias in node.names] if base == "facezoo" else [base]
        else:
            continue
        for name in names:
            if name == "facezoo" or name.startswith("facezoo."):
                yield [*name.split("."), ""][1], node.lineno


def violations(root: Path) -> list[str]:
    found = []
    for path in sorted(root.rglob("*.py")):
        part = part_of(path, root)
        if part in ENTRY_POINTS:
            continue
        is_package = path.name == "__init__.py"
        module = ".".join(["facezoo", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__")
        for imported, line in imported_parts(path.read_text(), module, is_package):
            if imported not in ALLOWED.get(part, set()) | {part, "_version"}:
                found.append(f"{path.relative_to(root)}:{line} imports facezoo{'.' * bool(imported)}{imported}")
    return found


def test_imports_run_one_way() -> None:
    assert violations(PACKAGE) == []


def test_every_part_has_its_place_in_the_order() -> None:
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts <= ALLOWED.keys() | ENTRY_POINTS, "a new part of the package needs its place in ALLOWED above"


def test_the_table_itself_has_no_cycle() -> None:
    order = list(ALLOWED)
    for part, allowed in ALLOWED.items():
        assert all(order.index(name) < order.index(part) for name in allowed), part


@pytest.mark.parametrize(
    ("file", "source", "caught"),
    [
        ("ops/a.py", "from facezoo.registry import Registry", "facezoo.registry"),
        ("ops/a.py", "def f():\n    import facezoo.layers.norm", "facezoo.layers"),
        ("models/a.py", "from facezoo import margins", "facezoo.margins"),
        ("models/a.py", "from ..training.config import TrainConfig", "facezoo.training"),
        ("models/__init__.py", "from ..training import config", "facezoo.training"),
        ("data/deep/a.py", "from ...evaluation import metrics", "facezoo.evaluation"),
        ("data/a.py", "import facezoo", "facezoo"),
        ("margins/a.py", "from facezoo.models.spec import ModelSpec", "facezoo.models"),
        ("evaluation/a.py", "from facezoo.cli import main", "facezoo.cli"),
        ("layers/a.py", "from .. import blocks", "facezoo.blocks"),
    ],
)
def test_the_reader_sees_every_form_of_import(tmp_path: Path, file: str, source: str, caught: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(source)
    assert [line.split(" imports ")[1] for line in violations(tmp_path)] == [caught]


def test_allowed_imports_pass(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text(
        "import os, facezoo.registry\nfrom facezoo.blocks import x\nfrom .spec import y\nfrom facezoo._version import z\n"
        "from facezootools import w\n"
    )
    assert violations(tmp_path) == []
