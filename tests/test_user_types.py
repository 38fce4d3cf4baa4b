"""A user's script under ``mypy --strict``: what the public functions return is known, nothing is ``Any``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SCRIPT = """
from pathlib import Path

import torch

import facezoo
from facezoo.data import read_pairs
from facezoo.evaluation import evaluate_pairs
from facezoo.training import TrainConfig, Trainer

model = facezoo.create_model("resnet18", num_classes=10)
features = facezoo.create_model("resnet18", features_only=True, out_indices=(1, 2))
head = facezoo.create_margin("arcface", embedding_dim=512, num_classes=10)
criterion = facezoo.create_loss("triplet")
images, labels = torch.zeros(2, 3, 112, 112), torch.tensor([0, 1])
reveal_type(model)  # facezoo.models.network.FaceNetwork
reveal_type(model(images))  # torch._tensor.Tensor
reveal_type(model.embed(images))  # torch._tensor.Tensor
reveal_type(features)  # facezoo.models.network.FeatureNetwork
reveal_type(features(images))  # list[torch._tensor.Tensor]
reveal_type(head)  # facezoo.margins.head.MarginHead
reveal_type(head(model.embed(images), labels))  # torch._tensor.Tensor
reveal_type(head.logits(model.embed(images)))  # torch._tensor.Tensor
reveal_type(criterion(model.embed(images), labels))  # torch._tensor.Tensor
result = Trainer(TrainConfig.from_options(data="faces", out="runs/a")).fit()
reveal_type(result)  # facezoo.training.result.TrainResult
reveal_type(result.history)  # tuple[dict[str, float], ...]
evaluation = evaluate_pairs(model, read_pairs(Path("pairs.txt"), Path("images")))
reveal_type(evaluation)  # facezoo.evaluation.pairs.PairEvaluation
reveal_type(evaluation.metrics)  # facezoo.evaluation.metrics.VerificationMetrics | None
"""


@pytest.mark.ci
def test_nothing_is_any(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "user.py"
    script.write_text(SCRIPT)
    found, errors, code = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(script)])
    assert code == 0, found + errors
    revealed = re.findall(r'Revealed type is "(.*)"', found)
    assert revealed == re.findall(r"reveal_type\(.*  # (.*)", SCRIPT)
