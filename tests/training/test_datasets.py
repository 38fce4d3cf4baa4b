from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from facezoo.data import open_face_data, train_transform
from facezoo.models import Preprocessing
from facezoo.training import Trainer, run_data
from facezoo.training.datasets import labels_of

IMAGES, LABELS = torch.randn(24, 3, 16, 16), torch.arange(24) % 4


class Labeled(Dataset):
    def __init__(self, attribute: str, values: object, train: object = None) -> None:
        setattr(self, attribute, values)
        if train is not None:
            self.train = train  # a flag, as in torchvision's MNIST

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return IMAGES[index], int(LABELS[index])


TARGETS = Labeled("targets", LABELS.tolist(), train=True)
DATASETS = {
    "targets": TARGETS,
    "labels": Labeled("labels", LABELS),
    "samples": Labeled("samples", [(f"{index}.jpg", int(label)) for index, label in enumerate(LABELS)]),
    "subset": Subset(TARGETS, list(range(16, 24)) + list(range(16))),
    "concat": ConcatDataset([Subset(TARGETS, range(10)), Subset(TARGETS, range(10, 24))]),
}


@pytest.mark.parametrize("kind", DATASETS)
def test_any_map_style_dataset_is_enough(config, kind):
    dataset = DATASETS[kind]
    assert labels_of(dataset).tolist() == [label for _, label in (dataset[index] for index in range(24))]
    result = Trainer(config(data=None, epochs=1, init_head="class_means"), data=dataset).fit()
    assert result.finished
    assert result.best_metric == "last"


def test_what_is_no_dataset_is_refused(config):
    with pytest.raises(ValueError, match="TensorDataset has no labels: give it `targets` or `labels`"):
        Trainer(config(), data=TensorDataset(IMAGES, LABELS))
    with pytest.raises(
        ValueError, match=r"Labeled\.targets must hold one whole number per image \(24\); got shape \(3,\)"
    ):
        run_data(Labeled("targets", [0, 1, 2]))
    with pytest.raises(TypeError, match="map-style dataset"):
        run_data(iter(()))
    with pytest.raises(ValueError, match=r"2\.jpg has label 2, but there are 2 classes \(labels 0 to 1\)"):
        run_data(SimpleNamespace(train=DATASETS["samples"], classes=("a", "b")))


def test_images_that_the_network_cannot_take_are_named_at_the_start(config, faces):
    with pytest.raises(
        TypeError, match=r"gives images as JpegImageFile, not normalized float tensors; give the dataset transform"
    ):
        Trainer(config(), data=open_face_data(faces))
    transform = train_transform(Preprocessing(img_size=(24, 24)))
    with pytest.raises(ValueError, match=r"shape \(3, 24, 24\), the network takes \(3, 16, 16\)"):
        Trainer(config(), data=open_face_data(faces, transform, transform))
