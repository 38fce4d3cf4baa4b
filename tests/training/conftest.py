from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from facezoo.training import TrainConfig
from tiny_faces import write_faces


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture
def config(faces: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """Settings of a training that takes a second; fields by keyword."""

    def make(**fields: Any) -> TrainConfig:
        settings = {
            "data": str(faces),
            "out": str(tmp_path / "run"),
            "model": "tiny_face",
            "img_size": 16,
            "embedding_dim": 8,
            "margin_options": {"scale": 16.0, "margin": 0.2},
            "augment": "none",
            "epochs": 2,
            "batch_size": 8,
            "lr": 0.05,
            "warmup_epochs": 0.5,
            "num_workers": 0,
            "log_interval": 1,
            "progress": False,
            "device": "cpu",
        }
        return TrainConfig.from_options(**{**settings, **fields})

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def environment() -> dict[str, str]:
    """For subprocesses: the package and tests/tiny_faces.py importable, one thread."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root / "src"), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
