"""What the site makes from the package: tables, pictures and links, without building the whole of it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
import sys
import xml.dom.minidom
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from making import api, networks, results, text, zoo  # noqa: E402

import facezoo  # noqa: E402


def test_figures_of_the_readme_are_those_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.readme_figures() in readme, "run python docs/making/results.py"


def test_the_benchmarks_page_has_every_result_with_its_machine() -> None:
    page = results.benchmarks_page()
    for path in results.RESULTS.glob("*.md"):
        assert f"From `benchmarks/results/{path.stem}`." in page
    titles = [path.read_text(encoding="utf-8").split("\n")[0] for path in results.RESULTS.glob("*.md")]
    assert sorted(f"#{title}" for title in titles) == sorted(re.findall(r"^## .*$", page, flags=re.MULTILINE))
    for path in results.RESULTS.glob("*.json"):
        found = results.read(path.stem)
        assert found["date"] in page
        assert found["machine"]["cpu"] in page


def test_long_tables_are_folded_and_nothing_is_lost() -> None:
    shown = "\n".join(results.section("params_flops"))
    original = (results.RESULTS / "params_flops.md").read_text(encoding="utf-8")
    assert "??? note" in shown
    for line in original.split("\n"):
        if line.startswith("|"):
            assert line in shown


@pytest.mark.parametrize(
    ("value", "words"), [(999, "999"), (2_153_180, "2.15 M"), (31_500_000, "31.5 M"), (4_091_699_200, "4.09 G")]
)
def test_amounts(value: int, words: str) -> None:
    assert text.amount(value) == words


def test_every_setting_is_in_the_table() -> None:
    from facezoo.training.config import SECTIONS
    from facezoo.training.settings import flat_name

    page = zoo.settings_page()
    for kind in SECTIONS.values():
        for entry in dataclasses.fields(kind):
            name = (
                "DATA" if flat_name(entry) == "data" else f"--{flat_name(entry).replace('_', '-')}"
            )  # the one without a flag
            assert f"| `{name}`" in page


def test_every_network_is_in_the_table_with_exact_numbers() -> None:
    table = zoo.models_table()
    assert "<code>resnet50</code>" in table
    assert 'title="25,557,032">25.6 M</td>' in table  # ImageNet form, torchvision's number


def test_roles_become_links_or_code() -> None:
    linked = "see [`facezoo.create_model`][facezoo.models.factory.create_model]"
    assert api.with_links("see :func:`facezoo.create_model`") == linked
    assert api.with_links(":class:`ValueError` or :func:`_hidden`") == "`ValueError` or `_hidden`"
    scope = "facezoo.training.config.TrainConfig.save"
    assert api.with_links("as :meth:`to_dict`", scope) == "as [`to_dict`][facezoo.training.config.TrainConfig.to_dict]"


def test_pictures_are_well_formed_and_show_what_is_computed() -> None:
    block = networks.block_picture("se_resnet50")
    xml.dom.minidom.parseString(re.search(r"<svg.*</svg>", block, re.DOTALL)[0])
    shown = re.findall(r">([^<>]+)</text>", block)
    assert shown[:4] == ["input", "1 × 1 conv → 128", "batch norm", "ReLU"]
    assert shown[-3:] == ["×", "+", "ReLU"]
    assert block.count("fz-skip") == 2  # the gate of the squeeze, and the shortcut
    whole = networks.network_picture("se_resnet50")
    assert "2048 × 7 × 7" in whole
    assert "6 × bottleneck" in whole
    assert "\n\n" not in block + whole  # Markdown would end the HTML there


def test_curves_are_the_margins_formulas() -> None:
    angles = torch.tensor([0.2, 1.0, 2.0])
    cosine = angles.double().cos()
    assert torch.allclose(zoo.target_curve("cosface", angles), cosine - 0.35, atol=1e-6) or torch.allclose(
        zoo.target_curve("cosface", angles), cosine - 0.4, atol=1e-6
    )
    assert torch.allclose(zoo.target_curve("arcface", angles), (angles.double() + 0.5).cos(), atol=1e-6)
    assert math.isclose(float(zoo.target_curve("normface", angles)[0]), math.cos(0.2), rel_tol=1e-6)


def test_editors_and_help_see_every_option_with_its_default() -> None:
    """``help`` reads the signature; jedi reads the first overload, pyright any of them."""
    from facezoo.models.network import DEFAULTS

    shown = inspect.signature(facezoo.create_model).parameters
    assert {name: shown[name].default for name in DEFAULTS} == DEFAULTS
    source = ast.parse((ROOT / "src/facezoo/models/factory.py").read_text(encoding="utf-8"))
    first = next(node for node in source.body if isinstance(node, ast.FunctionDef) and node.name == "create_model")
    pairs = zip(first.args.kwonlyargs, first.args.kw_defaults, strict=True)
    written = {
        argument.arg: (ast.unparse(argument.annotation), ast.literal_eval(default)) for argument, default in pairs
    }
    for name, default in DEFAULTS.items():
        assert written[name] == (shown[name].annotation, default)
    assert set(facezoo.__all__) == set(dir(facezoo))
