"""Weight files of other libraries on the command line: what they need to be told, and what is done with it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import facezoo
from facezoo.cli import main
from facezoo.cli.foreign import network_arguments
from facezoo.data import eval_transform
from facezoo.weights import Preprocessing

FORM = ["--model", "mobilefacenet_paper", "--embedding-dim", "16", "--img-size", "112x96"]
IMAGES = ["--mean", "0.4,0.5,0.6", "--std", "0.25", "--channel-order", "bgr", "--crop", "0,8,112,104"]
PREPROCESSING = Preprocessing((112, 96), (0.4, 0.5, 0.6), (0.25,) * 3, "bgr", crop=(0, 8, 112, 104))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("foreign")
    torch.manual_seed(0)
    model = facezoo.create_model("mobilefacenet_paper", embedding_dim=16, img_size=(112, 96)).eval()
    torch.save({"net": model.state_dict()}, folder / "a.ckpt")
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        Image.fromarray(draw.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return {"weights": str(folder / "a.ckpt"), "images": [str(folder / "a.png"), str(folder / "b.png")], "model": model}


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_what_is_said_is_done(files: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "e.safetensors")
    status, _, errors = run(capsys, "embed", files["weights"], *FORM, *IMAGES, *files["images"], "--out", out)
    assert status == 0, errors
    transform = eval_transform(PREPROCESSING)
    inputs = torch.stack([transform(Image.open(path)) for path in files["images"]])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(files["model"](inputs))
    (got,) = (value for value in load_file(out).values() if value.is_floating_point())
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_it_travels_into_an_exported_file(
    files: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    out = str(tmp_path / "a.pt2")
    status, _, errors = run(capsys, "export", files["weights"], *FORM, *IMAGES, "--out", out)
    assert status == 0, errors
    assert facezoo.deploy.ExportedNetwork(out).preprocessing == PREPROCESSING


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--model", "mobilefacenet_paper"], "--embedding-dim 16 --img-size 112x96"),
        ([], "--model"),
        ([*FORM, "--mean", "0.5,0.5"], "--mean has 2 values for 3 channels"),
        ([*FORM, "--std", "0"], "std is positive"),
    ],
)
def test_what_is_missing_or_wrong_is_told(
    files: dict[str, Any], arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, errors = run(capsys, "verify", files["weights"], *arguments, *files["images"])
    assert status == 2
    assert told in errors


def test_no_embedding_is_said_by_zero() -> None:
    given = argparse.Namespace(embedding_dim=0, img_size=None)
    assert network_arguments(given) == {"embedding_dim": None}


@pytest.mark.parametrize("arguments", [["--crop", "0,8,112"], ["--mean", "x"], ["--img-size", "112y"]])
def test_values_that_are_none(files: dict[str, Any], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", files["weights"], *FORM, *arguments, *files["images"]])
    assert "such as" in capsys.readouterr().err


def test_a_network_that_describes_itself_is_not_contradicted(
    files: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facezoo.weights.save_pretrained(files["model"], tmp_path / "net", card=False)
    status, _, errors = run(
        capsys, "verify", f"local-dir:{tmp_path / 'net'}", "--crop", "0,8,112,104", *files["images"]
    )
    assert status == 2
    assert "describes itself" in errors
    status, output, errors = run(capsys, "verify", f"local-dir:{tmp_path / 'net'}", "--json", *files["images"])
    assert status == 0, errors
    assert -1 <= json.loads(output)["cosine"] <= 1
