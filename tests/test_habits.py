"""The files beside the code say what is true: versions, commands, paths."""

from __future__ import annotations

import importlib
import re
import stat
from pathlib import Path

import pytest
import yaml

import facezoo

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == facezoo.__version__
    assert citation["license"] == "Apache-2.0"


def test_hosted_checks_run_the_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    lowest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert lowest is not None
    assert lowest[1] in job["strategy"]["matrix"]["python"]
    assert (ROOT / ".ci" / "run").stat().st_mode & stat.S_IXUSR


def test_hooks_are_those_of_lint() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"] for repository in config["repos"] for hook in repository["hooks"]}
    assert {"ruff", "ruff-format", "mypy"} <= hooks
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    assert re.findall(r"\$\(BIN\)/(\S+)", lint[1]) == ["ruff", "ruff", "mypy"]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md", ".ci/run"])
def test_make_targets_that_are_named_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(r"^ *make ([a-z-]+)|`make ([a-z-]+)|\bmake ([a-z-]+) VENV", (ROOT / page).read_text(), re.MULTILINE)
    )
    assert {name for names in named for name in names if name} <= targets


def test_what_contributing_names_is_there() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:src|tests|examples|benchmarks)/[\w/.]*)`", page):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(facezoo\.[\w.]+)`", page):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize(
    ("register", "registry"),
    [
        ("facezoo.blocks.register_block", "facezoo.blocks.BLOCKS"),
        ("facezoo.margins.register_margin", "facezoo.margins.margin.MARGINS"),
        ("facezoo.margins.register_negatives", "facezoo.margins.negatives.NEGATIVES"),
        ("facezoo.losses.register_loss", "facezoo.losses.LOSSES"),
        ("facezoo.data.sources.SOURCES", "facezoo.data.sources.SOURCES"),
        ("facezoo.training.optimizers.register_optimizer", "facezoo.training.optimizers.OPTIMIZERS"),
        ("facezoo.training.schedules.register_schedule", "facezoo.training.schedules.SCHEDULES"),
        ("facezoo.evaluation.protocols.PROTOCOLS", "facezoo.evaluation.protocols.PROTOCOLS"),
    ],
)
def test_what_was_added_lies_in_one_file_where_contributing_says(register: str, registry: str) -> None:
    (row,) = re.findall(rf"^\|.*`{re.escape(register)}`.*$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    places = tuple(re.findall(r"`(src/[\w/.]+)`", row))
    module, _, attribute = registry.rpartition(".")
    entries = getattr(importlib.import_module(module), attribute)
    for name in entries.list():
        maker = getattr(entries[name], "run", entries[name])  # a protocol is a record with functions
        if maker.__module__.startswith("facezoo."):
            file = "src/" + maker.__module__.replace(".", "/")
            assert f"{file}.py".startswith(places), (name, file)
