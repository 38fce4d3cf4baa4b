"""Ten real kill -9, spread over what a run may have: each goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facezoo.data import ImageFolder
from facezoo.training import Trainer
from facezoo.weights import read_file

COMMON = {"augment": "strong", "epochs": 3, "checkpoint_updates": 3, "drop_rate": 0.2}
KINDS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "freezing": ({"freeze": ["stem", "stages.0"], "unfreeze": {"stages.0": 2}}, (4, 7)),
    "two heads": (
        {"margin": "linear", "margin_options": {}, "joint": {"arcface": {"weight": 1.5, "lr_scale": 0.5}}},
        (5, 11),
    ),
    "distillation": ({"distill": {"cosine": 5.0, "margin": 0.5}}, (6, 13)),
    "EMA": ({"ema_decay": 0.9, "recalibrate": 2}, (8, 14)),
    "SWA and AdamW": ({"swa_start": 2, "optimizer": "adamw", "lr": 1e-2, "schedule": "plateau"}, (9, 12)),
}


@pytest.mark.ci
@pytest.mark.parametrize("kind", KINDS)
def test_killed_twice_and_resumed_equals_a_whole_run(config, environment, faces, tmp_path, kind):
    own, kills = {**COMMON, **KINDS[kind][0]}, KINDS[kind][1]
    if "distill" in own:
        names = ImageFolder(faces / "cls_data" / "train").names
        table = np.random.default_rng(0).normal(size=(len(names), 6)).astype(np.float32)
        np.savez(tmp_path / "teacher.npz", embeddings=table, names=names)
        own["teacher"] = str(tmp_path / "teacher.npz")
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    settings = config(**own, out=str(tmp_path / "killed"))
    settings.save(tmp_path / "settings.json")
    command = [sys.executable, "-m", "facezoo", "--import", "tiny_faces", "train", "--resume", "--config"]
    for update in kills:
        killed = _run([*command, str(tmp_path / "settings.json")], {**environment, "FACEZOO_TEST_KILL_AT": str(update)})
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    resumed = Trainer(settings).fit(resume=True)
    for name in ("last.safetensors", "best.safetensors"):
        _same(resumed.folder / name, whole.folder / name)
    times = {"train_seconds", "eval_seconds", "images_per_second"}
    for mine, theirs in zip(resumed.history, whole.history, strict=True):
        assert {k: v for k, v in mine.items() if k not in times} == {k: v for k, v in theirs.items() if k not in times}


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, env=environment, capture_output=True, timeout=900, check=False)


def _same(mine: Path, theirs: Path) -> None:
    expected, got = read_file(theirs)[0], read_file(mine)[0]
    assert expected.keys() == got.keys()
    assert [name for name, value in expected.items() if not torch.equal(value, got[name])] == []
