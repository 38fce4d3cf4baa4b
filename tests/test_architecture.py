"""Imports run one way. Every import of every module is read from its source, those inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import facezoo

PACKAGE = Path(facezoo.__file__).parent

# The order of the parts, lowest first. A part may import what stands on a lower row; the files of the second row each other too.
ORDER: tuple[tuple[str, ...], ...] = (
    ("ops", "_version"),
    (
        "registry",
        "files",
        "arrays",
        "moved",
        "renamed",
        "modes",
        "preprocessing",
        "counting",
        "checks",
        "columns",
        "devices",
    ),
    ("layers",),
    ("blocks",),
    ("weights",),
    ("models",),
    ("margins", "losses"),
    ("profile", "data", "synthetic"),
    ("evaluation",),
    ("deploy",),
    ("training",),
    ("courses",),
    ("cli",),
)
ROW = {part: row for row, parts in enumerate(ORDER) for part in parts}
ENTRY_POINTS = {"__init__", "__main__"}  # they may import everything, and nothing imports them


def may_import(part: str, other: str) -> bool:
    return other in ROW and (part == other or ROW[other] < ROW[part] or ROW[other] == ROW[part] == 1)


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
            if not may_import(part, imported):
                found.append(f"{path.relative_to(root)}:{line} imports facezoo{'.' * bool(imported)}{imported}")
    return found


def test_imports_run_one_way() -> None:
    assert violations(PACKAGE) == []


def test_every_part_has_its_place_in_the_order() -> None:
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")}
    assert parts <= ROW.keys() | ENTRY_POINTS, "a new part of the package needs its place in ORDER above"


def imports_between_files(root: Path) -> dict[str, set[str]]:
    """Module -> modules that it names in an import, inside functions and for type checkers too."""
    files = {
        ".".join(["facezoo", *path.relative_to(root).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in root.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, path in files.items():
        graph[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                named = [
                    inner if (inner := f"{node.module}.{alias.name}") in files else node.module for alias in node.names
                ]
            else:
                continue
            graph[module] |= {name for name in named if name in files}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One way along the imports that comes back to its start; empty if there is none."""
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module not in done:
            for other in sorted(graph[module]):
                if found := walk(other, [*way, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def test_there_is_no_circle_between_files() -> None:
    assert " -> ".join(circle(imports_between_files(PACKAGE))) == ""


def test_a_circle_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import os\nfrom facezoo.b import x")
    (tmp_path / "b.py").write_text("def f():\n    from facezoo import c")
    (tmp_path / "c.py").write_text("from facezoo.a import y")
    (tmp_path / "d.py").write_text("from facezoo.a import y")
    graph = imports_between_files(tmp_path)
    assert circle(graph) == ["facezoo.a", "facezoo.b", "facezoo.c", "facezoo.a"]
    graph["facezoo.c"].clear()
    assert circle(graph) == []


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
        ("models/a.py", "from facezoo.courses import x", "facezoo.courses"),
        ("evaluation/a.py", "from facezoo.cli import main", "facezoo.cli"),
        ("losses/a.py", "from facezoo.margins import x", "facezoo.margins"),
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


def test_files_and_functions_stay_short() -> None:
    """A file that reads top to bottom has at most 500 lines, a function at most 60."""
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 500:
            long.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 60:  # type: ignore[operator]
                long.append(f"{path.name}: {node.name}")
    assert long == []
