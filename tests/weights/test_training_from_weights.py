"""A training starts from registered weights, from a Hub on loopback or from the user's download."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import HubServer

import facezoo
import tiny_faces
from facezoo.training import TrainConfig, Trainer
from facezoo.weights import CheckpointError, push_to_hub, records, register_weights

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def start(hub: HubServer) -> Iterator[Any]:
    """A published network with its own mean, and what the Hub has of it."""
    torch.manual_seed(7)
    model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
    model.preprocessing = dataclasses.replace(model.preprocessing, mean=(0.1, 0.2, 0.3))
    about = {"license": "apache-2.0", "source": "the tests: noise", "description": "Trained on nothing."}
    record = push_to_hub(model, "me/start", tag="start", **about)
    register_weights(record)
    yield model
    records.WEIGHTS.unregister(record.name)


def settings(tmp_path: Path, **fields: Any) -> TrainConfig:
    faces = tmp_path / "faces"
    if not faces.exists():
        tiny_faces.write_faces(faces)
    own = {"data": str(faces), "out": str(tmp_path / "run"), "model": "tiny_face", "img_size": 16, "embedding_dim": 8}
    own |= {"augment": "none", "epochs": 1, "batch_size": 8, "num_workers": 0, "progress": False, "device": "cpu"}
    return TrainConfig.from_options(**{**own, "init_pretrained": "start", **fields})


def differing(trainer: Trainer, model: Any) -> set[str]:
    own = trainer.objective.model.state_dict()
    return {name for name, value in model.state_dict().items() if not torch.equal(own[name], value)}


def test_registered_weights_with_their_preprocessing(start, tmp_path):
    trainer = Trainer(settings(tmp_path, freeze=["stem"], init_head="class_means"))
    assert differing(trainer, start) == set()
    assert trainer.objective.model.preprocessing == start.preprocessing
    shown = trainer.data.train[0][0].mean(dim=(1, 2))
    plain = Trainer(settings(tmp_path, init_pretrained=None)).data.train[0][0].mean(dim=(1, 2))
    assert not torch.allclose(shown, plain)  # the images are prepared as the weights know them
    trained = facezoo.training.load_trained(trainer.fit().last)
    assert trained.preprocessing == start.preprocessing
    assert not any(name.startswith("stem") for name in differing(trainer, start))
    assert differing(trainer, start)
    Trainer(settings(tmp_path, freeze=["stem"], init_head="class_means")).fit(resume=True)


def test_another_embedding_is_new(start, tmp_path):
    trainer = Trainer(settings(tmp_path, embedding_dim=6))
    own, theirs = trainer.objective.model.state_dict(), start.state_dict()
    same = {name for name in theirs if own[name].shape == theirs[name].shape and torch.equal(own[name], theirs[name])}
    assert {name for name in theirs if name.startswith(("stem", "stages"))} <= same


def test_the_users_download(start, hub, tmp_path):
    _, files = hub.files("me/start")
    path = tmp_path / "download.safetensors"
    path.write_bytes(files["model.safetensors"])
    trainer = Trainer(settings(tmp_path, init_checkpoint=str(path)))
    assert differing(trainer, start) == set()
    assert trainer.objective.model.preprocessing == start.preprocessing
    path.write_bytes(files["model.safetensors"] + b" ")
    with pytest.raises(CheckpointError, match=r"download\.safetensors"):
        Trainer(settings(tmp_path, init_checkpoint=str(path)))
    with pytest.raises(CheckpointError, match="is not a file; it should be the download of the weights"):
        Trainer(settings(tmp_path, init_checkpoint=str(tmp_path / "gone")))
