"""The examples run, and the plain loop computes what the trainer computes."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from facezoo.blocks import BLOCKS
from facezoo.margins.margin import MARGINS
from facezoo.models.factory import MODELS
from facezoo.training import Trainer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trainer_equals_the_plain_loop_bit_for_bit(config, faces, capsys):
    """Over 200 updates with augmentation: every loss, and the weights at the end."""
    settings = config(epochs=40, augment="light", device="cpu", weight_decay=1e-3)
    trainer = Trainer(settings)
    result = trainer.fit()
    model, head, losses = example("train_loop").train(
        faces,
        model_name="tiny_face",
        img_size=16,
        embedding_dim=8,
        scale=16.0,
        margin=0.2,
        augment="light",
        epochs=40,
        batch_size=8,
        lr=0.05,
        warmup_epochs=0.5,
        weight_decay=1e-3,
        workers=0,
    )
    assert len(losses) == result.updates == 200
    with (result.folder / "steps.csv").open() as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == losses
    for mine, theirs in ((trainer.objective.model, model), (trainer.objective.head, head)):
        own = mine.state_dict()
        assert [name for name, value in theirs.state_dict().items() if not torch.equal(own[name], value)] == []
    assert "dev accuracy" in capsys.readouterr().out


def test_own_data(tmp_path):
    result = example("own_data").train(tmp_path / "run", epochs=2)
    assert result.best_metric == "accuracy"
    assert result.best_value > 0.2  # chance: 0.125
    assert math.isfinite(result.history[-1]["train_loss"])


def test_own_backbone_and_own_margin(capsys):
    try:
        assert example("own_backbone").main().shape == (2, 128)
        assert example("own_margin").main() < 1e-5
    finally:  # other tests list what is registered
        for registry, name in ((MODELS, "wide_net"), (BLOCKS, "wide"), (MARGINS, "soft_arc")):
            registry.unregister(name)
    assert "wide_net: " in capsys.readouterr().out


@pytest.mark.parametrize("name", [path.stem for path in sorted(EXAMPLES.glob("*.py"))])
def test_examples_say_how_they_are_run(name):
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert any(f"python examples/{name}.py" in line for line in lines[:8])
    assert len(lines) <= 130
