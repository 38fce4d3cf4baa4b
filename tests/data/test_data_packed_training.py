"""The trainer on packed faces: the same images, the loader of blocks, bit for bit for any number of threads and after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from facezoo.data import PackOptions, open_face_data, open_source, pack
from facezoo.data import loader as loader_module
from facezoo.training import TrainConfig, Trainer
from tiny_faces import write_faces


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("packed")
    faces = write_faces(root / "faces")
    pack(open_source(faces), root / "packed", PackOptions(size=(16, 16), images_per_shard=16))
    return faces, root / "packed"


def train(data: Path, out: Path, *, resume: bool = False, **fields: Any) -> dict[str, torch.Tensor]:
    settings = {
        "data": str(data), "out": str(out), "model": "tiny_face", "img_size": 16, "embedding_dim": 8, "epochs": 2,
        "batch_size": 8, "lr": 0.05, "num_workers": 0, "progress": False, "device": "cpu",
        "margin_options": {"scale": 16.0, "margin": 0.2}, "log_interval": 1,
    }  # fmt: skip
    Trainer(TrainConfig.from_options(**{**settings, **fields})).fit(resume=resume)
    return load_file(out / "last.safetensors")


@pytest.mark.parametrize("augment", ["none", "standard", "strong"])
def test_packed_and_files_train_alike(folders: tuple[Path, Path], tmp_path: Path, augment: str) -> None:
    faces, packed = folders
    one, other = (train(data, tmp_path / data.name, augment=augment) for data in folders)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(other[name], value), name
    dev, val_pairs = (getattr(open_face_data(packed), name) for name in ("dev", "val_pairs"))
    assert len(dev) == len(open_face_data(faces).dev)  # type: ignore[arg-type]
    assert len(val_pairs) == 12


def test_threads_and_a_stop_in_mid_epoch_change_nothing(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    real = loader_module.batches_ahead

    def counted(*arguments: Any, **options: Any) -> Any:
        used.append(options["threads"])
        return real(*arguments, **options)

    monkeypatch.setattr(loader_module, "batches_ahead", counted)
    whole = train(folders[1], tmp_path / "whole", augment="standard")
    threads = train(folders[1], tmp_path / "threads", augment="standard", num_workers=2)
    train(folders[1], tmp_path / "stopped", augment="standard", stop_after=3, num_workers=1)
    resumed = train(folders[1], tmp_path / "stopped", augment="standard", resume=True)
    assert used == [0, 0, 2, 2, 1, 0, 0]
    for name, value in whole.items():
        assert torch.equal(threads[name], value), name
        assert torch.equal(resumed[name], value), name
