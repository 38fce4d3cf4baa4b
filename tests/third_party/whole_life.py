"""The life of a third-party network, in an interpreter of its own: ``python whole_life.py FACES WORK``.

Prints one JSON object; tests/test_third_party.py says what has to be in it.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import facezoo
from facezoo.cli import main
from facezoo.deploy import ExportedNetwork
from facezoo.training import load_trained

NAME = "sandglassnet_pico"


def run(*arguments: str) -> str:
    """What ``facezoo`` prints."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main(["--traceback", *arguments])
    assert status == 0, output.getvalue()
    return output.getvalue()


def loaded() -> bool:
    return "facezoo_example" in sys.modules


def life(faces: str, work: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    facezoo.create_model("mobilefacenet", img_size=32)
    found["loaded by facezoo's own names"] = loaded()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found["models"] = json.loads(run("models", "sandglass*", "--json"))
    found["loaded by a list"] = loaded()
    found["warnings"] = [f"{warning.category.__name__}: {warning.message}" for warning in caught]
    found["small models"] = json.loads(run("models", "sandglass*", "--max-params", "100K", "--json"))
    found["margins"], found["losses"] = facezoo.list_margins("li_*"), facezoo.list_losses("uniform*")
    found["info"] = run("info", NAME)
    found["profile"] = json.loads(run("profile", NAME, "--img-size", "16", "--embedding-dim", "8", "--json"))
    model = facezoo.create_model(NAME, img_size=16, embedding_dim=8, drop_path_rate=0.5)
    found["params"] = sum(parameter.numel() for parameter in model.parameters())
    found["drops"] = [block.drop_path.extra_repr() for stage in model.stages for block in stage.blocks]

    folder = work / "run"
    settings = [
        "--img-size",
        "16",
        "--embedding-dim",
        "8",
        "--batch-size",
        "8",
        "--num-workers",
        "0",
        "--device",
        "cpu",
    ]
    margin = ["--margin", "li_arcface", "--margin-options", "scale=16", "margin=0.2", "--joint", "uniformity=0.01"]
    run("train", faces, "--out", str(folder), "--model", NAME, *margin, *settings, "--epochs", "3", "--no-progress")
    found["losses of epochs"] = [
        float(line.split(",")[index])
        for lines in [(folder / "epochs.csv").read_text().splitlines()]
        for index in [lines[0].split(",").index("train_loss")]
        for line in lines[1:]
    ]
    found["evaluation"] = json.loads(run("evaluate", str(folder), faces, "--json", "--device", "cpu"))

    found["export"] = run("export", str(folder), "--out", str(work / "net.onnx"))
    trained, exported = load_trained(folder), ExportedNetwork(work / "net.onnx")
    images = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = trained.model(images).numpy()
    found["difference"] = float(np.abs(exported(images).numpy() - expected).max() / np.abs(expected).max())
    found["exported model"] = exported.metadata["model"]["name"]
    found["head"] = trained.head.name
    return found


if __name__ == "__main__":
    print(json.dumps(life(sys.argv[1], Path(sys.argv[2]))))
