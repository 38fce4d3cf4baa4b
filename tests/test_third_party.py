"""A package of somebody else is listed, profiled, trained, evaluated and exported, by name, without facezoo knowing of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from facezoo.registry import Plugins, PluginWarning
from tiny_faces import write_faces

HERE = Path(__file__).parent
PACKAGE = HERE / "third_party"


def install(site: Path, name: str, entry_points: str) -> None:
    """What an installer leaves beside a package for ``importlib.metadata``."""
    folder = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (folder / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    site, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    shutil.copytree(PACKAGE / "facezoo_example", site / "facezoo_example")
    project = (PACKAGE / "pyproject.toml").read_text()
    group, entry = re.search(r'\[project\.entry-points\."(.*?)"\]\n(.*)\n', project).groups()
    install(site, "facezoo-example", f"[{group}]\n{entry.replace(chr(34), '')}\n")
    (site / "facezoo_broken.py").write_text("import facezoo\nraise RuntimeError('needs facezoo 9')\n")
    install(site, "facezoo-broken", "[facezoo.plugins]\nbroken = facezoo_broken\n")
    faces = write_faces(work / "faces")
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{site}", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(PACKAGE / "whole_life.py"), str(faces), str(work)]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.ci
def test_it_is_found_on_the_first_look_up_that_needs_it(life: dict[str, Any]) -> None:
    assert not life["loaded by facezoo's own names"]
    assert life["loaded by a list"]
    assert [row["name"] for row in life["models"]] == ["sandglassnet_pico", "sandglassnet_small"]
    assert [row["name"] for row in life["small models"]] == ["sandglassnet_pico"]
    assert (life["margins"], life["losses"]) == (["li_arcface"], ["uniformity"])


@pytest.mark.ci
def test_a_broken_plugin_is_named_and_breaks_nothing(life: dict[str, Any]) -> None:
    (warning,) = life["warnings"]
    assert warning.startswith("PluginWarning: the plugin 'broken' of facezoo-broken 0.1.0 (module facezoo_broken)")
    assert warning.endswith("RuntimeError: needs facezoo 9")


@pytest.mark.ci
def test_it_is_profiled(life: dict[str, Any]) -> None:
    profile = life["profile"]
    assert profile["params"] == life["params"]
    # By hand, for 16×16 images: the stem's 3×3 convolution from 3 to 8 channels.
    assert profile["stages"][0]["macs"] == 256 * 9 * 3 * 8
    # Its first sandglass, 8 to 16 channels with 4 in the middle, stride 2 at the end.
    assert profile["stages"][1]["macs"] == 256 * (9 * 8 + 8 * 4 + 4 * 16) + 64 * 9 * 16
    assert profile["training_bytes"] > profile["inference_bytes"] > 0
    assert "sandglassnet_pico: sandglass blocks" in life["info"]
    assert "2 × sandglass (attention='se')" in life["info"]


@pytest.mark.ci
def test_its_block_gets_stochastic_depth(life: dict[str, Any]) -> None:
    # Of three blocks only the last has a shortcut; it is dropped with the full rate.
    assert life["drops"][:2] == ["", ""]
    assert "0.5" in life["drops"][2]


@pytest.mark.ci
def test_it_is_trained_and_evaluated(life: dict[str, Any]) -> None:
    losses = life["losses of epochs"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert life["head"] == "li_arcface"
    assert 0 <= life["evaluation"]["dev"]["accuracy"] <= 1
    assert 0 <= life["evaluation"]["val_pairs"]["metrics"]["eer"] <= 1


@pytest.mark.ci
def test_it_is_exported(life: dict[str, Any]) -> None:
    assert life["difference"] < 1e-5
    assert life["exported model"] == "sandglassnet_pico"
    assert "onnx, float32" in life["export"]


# -- how plugins are loaded ---------------------------------------------------------------------------------------------------


def entry_point(name: str, value: str) -> metadata.EntryPoint:
    return metadata.EntryPoint(name, value, "facezoo.tests")


def test_plugins_are_imported_once_in_order_and_may_look_names_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins = Plugins("facezoo.tests")
    order: list[str] = []
    monkeypatch.setattr("builtins._plugin_order", order, raising=False)
    monkeypatch.setattr("builtins._plugins_again", plugins.load, raising=False)
    for name in ("first", "second"):
        (tmp_path / f"plugin_{name}.py").write_text(
            f"import builtins\nbuiltins._plugins_again()\nbuiltins._plugin_order.append('{name}')\n"
        )
        monkeypatch.delitem(sys.modules, f"plugin_{name}", raising=False)
    asked: list[str] = []

    def entry_points(*, group: str) -> list[metadata.EntryPoint]:
        asked.append(group)
        return [entry_point("b", "plugin_second"), entry_point("a", "plugin_first")]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    plugins.load()
    plugins.load()
    assert order == ["first", "second"]
    assert asked == ["facezoo.tests"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module_of_a_plugin", "ModuleNotFoundError: No module named 'no_such_module_of_a_plugin'"),
        ("json:loads", "ValueError: an entry of facezoo.tests is a module"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [entry_point("mine", value)])
    with pytest.warns(PluginWarning, match=f"the plugin 'mine' .module {value}.*{message}"):
        Plugins("facezoo.tests").load()
