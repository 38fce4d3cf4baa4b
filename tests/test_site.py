"""What the site makes from the package: tables, pictures and links, without building the whole of it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import math
import pydoc
import re
import sys
import xml.dom.minidom
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))

from making import api, measured, networks, results, search, text, zoo  # noqa: E402

import facezoo  # noqa: E402
from facezoo.cli.table import read_table  # noqa: E402


def test_figures_of_the_readme_are_those_of_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert results.readme_figures() in readme, "run python docs/making/measured.py"


@pytest.mark.parametrize(("page", "name", "make"), measured.PASSAGES, ids=[name for _, name, _ in measured.PASSAGES])
def test_measured_passages_of_the_guides_are_those_of_the_results(
    page: str, name: str, make: Callable[[], str]
) -> None:
    content = (ROOT / page).read_text(encoding="utf-8")
    assert measured.passage(name, make) in content, "run python docs/making/measured.py"
    assert content.count(measured.mark(name)) == 1


def test_the_counts_of_the_readme_are_those_of_the_package() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    counts = re.findall(r"\*\*(\d+) (backbones|margin-softmax heads|metric losses)\*\*", readme)
    assert {what: int(number) for number, what in counts} == {
        "backbones": len(read_table()),  # tests register networks of their own
        "margin-softmax heads": len(facezoo.list_margins()),
        "metric losses": len(facezoo.list_losses()),
    }


SPEED = re.compile(
    r"[\d.,]+ ?(?:img/s|images (?:a|per) second|ms\b|MiB|milliseconds|seconds)|[\d.,]+ ?(?:×|x|times)(?! ?\d)(?: as| the| faster)"
)


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
)
def test_no_page_has_a_measured_figure_that_somebody_typed(page: str) -> None:
    """Speed and memory stand between marks, where they are compared with benchmarks/results."""
    content = (ROOT / page).read_text(encoding="utf-8")
    outside = re.sub(r"<!-- measured: .*?<!-- end of measured -->", "", content, flags=re.DOTALL)
    outside = re.sub(r"```.*?```", "", outside, flags=re.DOTALL)
    assert not SPEED.findall(outside), "put it into docs/making/measured.py"


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


def test_settings_of_a_result_stand_behind_a_fold() -> None:
    shown = "\n".join(results.section("real_faces"))
    assert '??? note "Settings"' in shown
    assert "Settings: {" not in shown
    assert '     "arcface": {' in shown


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


def test_jedi_completes_every_option_with_its_default() -> None:
    """What editors without a language server of their own, IPython and Jupyter ask."""
    import jedi

    from facezoo.models.network import DEFAULTS

    code = 'import facezoo\nmodel = facezoo.create_model("resnet50", )\nmodel.em'
    script = jedi.Script(code, project=jedi.Project(str(ROOT), added_sys_path=[str(ROOT / "src")]))
    inside = len('model = facezoo.create_model("resnet50", ')
    offered = {completion.name for completion in script.complete(2, inside)}
    assert {f"{name}=" for name in DEFAULTS} <= offered
    first = script.get_signatures(2, inside)[0]
    shown = {parameter.name: parameter.description for parameter in first.params}
    for name, default in DEFAULTS.items():
        kind, _, value = shown[name].removeprefix("param ").partition("=")
        assert ": " in kind, f"{name} has no type"
        assert ast.literal_eval(value) == default
    assert "embed" in {completion.name for completion in script.complete(3, len("model.em"))}


def test_help_shows_every_option_with_its_default() -> None:
    from facezoo.models.network import DEFAULTS

    shown = pydoc.plain(pydoc.render_doc(facezoo.create_model))
    for name, default in DEFAULTS.items():
        assert re.search(rf"\b{name}: [^=]+ = {re.escape(repr(default))}", shown), name


def test_search_ranks_titles_and_boosts() -> None:
    sections: list[search.Section] = [
        {"location": "changelog/", "title": "Changelog", "text": "equal error rate, equal error rate", "boost": 0.3},
        {
            "location": "evaluation/#figures",
            "title": "The figures",
            "text": "the <b>equal</b> error rate (EER)",
            "boost": 3,
        },
        {"location": "losses/", "title": "Losses", "text": "an error, and nothing equal"},
    ]  # type: ignore[typeddict-item]
    assert search.ranked("Equal error rate", sections) == ["evaluation/", "changelog/", "losses/"]
    assert search.ranked("losses", sections) == ["losses/"]
    assert search.ranked("nobody wrote this", sections) == []


def test_a_build_whose_search_leads_elsewhere_says_so(tmp_path: Path) -> None:
    index = tmp_path / "search_index.json"
    entries = [{"location": page, "title": query, "text": "", "boost": 1} for query, page in search.EXPECTED.items()]
    index.write_text(json.dumps({"docs": entries}))
    assert search.misled(index) == []
    entries[0]["location"] = "elsewhere/"
    index.write_text(json.dumps({"docs": entries}))
    (complaint,) = search.misled(index)
    assert complaint.startswith("a search for 'equal error rate' finds elsewhere/")


def test_the_lines_of_the_first_hour_are_counted_as_said(tmp_path: Path) -> None:
    """The table beside other libraries is made from programs that lie in the repository."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import first_hour
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    program = tmp_path / "program.py"
    program.write_text(
        '"""Not\ncounted."""\n\n# job: one\nimport os  # counted\n# not\n\nx = [\n    1,\n]\n\n\n# job: two\ndef f():\n'
        '    """Not."""\n    return x\n'
    )
    assert first_hour.lines_of(program) == {"one": 4, "two": 2}
    for path in first_hour.PROGRAMS.glob("*.py"):
        assert set(first_hour.lines_of(path)) <= set(first_hour.JOBS)
    shown = (ROOT / "benchmarks" / "results" / "first_hour.md").read_text(encoding="utf-8")
    assert first_hour.counted() in shown, "run python benchmarks/first_hour.py"
