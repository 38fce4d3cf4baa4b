"""Runs of the first edition load and go on: flat settings, -1, 0 and "" for none, a state without the newer entries."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from facezoo.training import TrainConfig, Trainer
from facezoo.training.config import NONE_BEFORE, PLACES

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "before_second_edition"
CLOCK = ("images_per_second", "train_seconds", "eval_seconds")
NEW = {"dev_loss", "combined"}  # columns that the first edition did not have


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if name not in CLOCK} for row in csv.DictReader(file)]


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(faces, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(FIXTURES / "run_stopped_after_7", out)
    config = TrainConfig.load(out / "config.json").replace(data=str(faces), out=str(out), stop_after=None)
    assert config.optimization.clip_grad_norm is None
    assert config.model.drop_rate is None
    result = Trainer(config).fit(resume=True)
    assert result.finished
    expected, got = rows(FIXTURES / "epochs_uninterrupted.csv"), rows(out / "epochs.csv")
    assert [row.keys() - NEW for row in got] == [row.keys() for row in expected]
    for mine, theirs in zip(got, expected, strict=True):
        for name, value in theirs.items():  # another processor may round otherwise
            assert float(mine[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_every_old_setting_has_its_place():
    old = json.loads((FIXTURES / "run_stopped_after_7" / "config.json").read_text())
    assert set(old) - set(PLACES) == {"tensorboard"}
    config = TrainConfig.from_dict({**old, "tensorboard": True, "max_params": 30e6, "drop_rate": 0.25})
    assert config.output.loggers == ("tensorboard",)
    assert (config.model.max_params, config.model.drop_rate) == (30e6, 0.25)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_meant_none_is_none():
    words = {"data": "", "init_checkpoint": "", "drop_rate": -1.0, "head_weight_decay": -0.5}
    old = {name: words.get(name, 0) for name in NONE_BEFORE}
    config = TrainConfig.from_dict(old)
    assert [name for name in NONE_BEFORE if config.option(name) is not None] == []


def test_none_is_written_as_none_on_the_command_line():
    from facezoo.cli import build_parser, train_config

    def parsed(*arguments: str) -> TrainConfig:
        return train_config(build_parser().parse_args(["train", "faces", *arguments]))

    assert parsed("--checkpoint-minutes", "none").output.checkpoint_minutes is None
    assert parsed("--tensorboard").output.loggers == ("tensorboard",)
    assert parsed("--freeze", "stem,stages.0", "head").model.freeze == ("stem", "stages.0", "head")
    with pytest.raises(ValueError, match="clip_grad_norm must be above 0 or none; got 0"):
        parsed("--clip-grad-norm", "0")
