"""SeededDataset with facezoo's transforms: whole batches, and the same images as one by one and as packed, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from facezoo.data import (
    AUGMENT_RECIPES,
    AugmentConfig,
    ImageDecodeError,
    ImageFolder,
    LabeledFiles,
    PackedFaces,
    PackOptions,
    ResumableSampler,
    SeededDataset,
    TrainTransform,
    augment_recipe,
    eval_transform,
    make_loader,
    open_source,
    train_transform,
)
from facezoo.data.loader import BatchMaker
from facezoo.data.sources import SourceDataset
from facezoo.preprocessing import Preprocessing
from small_packs import packed, write_pictures

PREPROCESSING = Preprocessing(img_size=(48, 40), mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
ALL = list(range(14))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("seeded") / "faces")


@pytest.fixture(scope="module")
def packs(faces: Path) -> tuple[Path, Path]:
    """Pixels, and files as they were."""
    return packed(faces), packed(faces, "kept", PackOptions(keep_files=True))


def stacked(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, list[int]]:
    return torch.stack([image for image, _ in items]), [label for _, label in items]


@pytest.mark.parametrize("name", list(AUGMENT_RECIPES))
def test_every_data_set_gives_what_packed_faces_give(faces: Path, packs: tuple[Path, Path], name: str) -> None:
    transform = train_transform(PREPROCESSING, augment_recipe(name))
    kept = PackedFaces(packs[0])
    expected, labels, _ = BatchMaker(kept, transform, seed=3).prepare(np.arange(14), 2)
    sets: list[Any] = [
        ImageFolder(faces, transform),
        SourceDataset(open_source(faces), transform),
        PackedFaces(packs[0], transform=transform),
        PackedFaces(packs[1], transform=transform),
    ]
    for data in sets:
        seeded = SeededDataset(data, seed=3)
        seeded.set_epoch(2)
        images, found = stacked(seeded.__getitems__(ALL))
        assert torch.equal(images, expected)
        assert found == labels.tolist()


@settings(deadline=None, max_examples=30)
@given(
    indices=st.lists(st.integers(0, 13), min_size=1, max_size=20),
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 100),
    name=st.sampled_from(["standard", "adaface", "strong"]),
)
def test_an_image_depends_on_seed_epoch_and_index_only(
    faces: Path, indices: list[int], seed: int, epoch: int, name: str
) -> None:
    data = SeededDataset(ImageFolder(faces, train_transform(PREPROCESSING, augment_recipe(name))), seed)
    data.set_epoch(epoch)
    state = torch.get_rng_state()
    for (image, label), index in zip(data.__getitems__(indices), indices, strict=True):
        alone, own = data[index]
        assert torch.equal(image, alone)
        assert label == own
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_and_epoch_matter(faces: Path) -> None:
    transform = train_transform(PREPROCESSING, AugmentConfig(brightness=0.5))
    first = SeededDataset(ImageFolder(faces, transform), 0)
    expected = stacked(first.__getitems__(ALL))[0]
    other = stacked(SeededDataset(ImageFolder(faces, transform), 1).__getitems__(ALL))[0]
    first.set_epoch(1)
    later = stacked(first.__getitems__(ALL))[0]
    for index in ALL:
        assert not torch.equal(expected[index], other[index])
        assert not torch.equal(expected[index], later[index])


def test_parts_of_data_sets(faces: Path) -> None:
    """Below torch's Subset and ConcatDataset; an image's numbers are those of its place in the whole."""
    transform = train_transform(PREPROCESSING, AugmentConfig(horizontal_flip=0.5, crop_padding=5, rotation=5))
    folder = ImageFolder(faces, transform)
    nested = ConcatDataset([Subset(folder, [4, -1, 7]), folder, Subset(Subset(folder, ALL[::-1]), [0, 1])])
    places = [4, 13, 7, *ALL, 13, 12]
    seeded = SeededDataset(nested, 5)
    images, labels = stacked(seeded.__getitems__(range(19)))
    drawn = transform.draw(5, 0, np.arange(19))
    assert torch.equal(images, transform.batch([folder.load(place)[0] for place in places], drawn))
    assert labels == [folder.load(place)[1] for place in places]
    assert torch.equal(seeded[17][0], images[17])


def test_parts_with_transforms_of_their_own(faces: Path) -> None:
    plain = ImageFolder(faces, eval_transform(PREPROCESSING))
    moved = ImageFolder(faces, train_transform(PREPROCESSING, AugmentConfig(crop_padding=5)))
    both = SeededDataset(ConcatDataset([plain, moved]), 5)
    images, _ = stacked(both.__getitems__([0, 14, 13, 27]))
    assert torch.equal(images[0], plain[0][0])
    assert torch.equal(images[2], plain[13][0])
    assert torch.equal(images[1], both[14][0])
    assert torch.equal(images[3], both[27][0])
    assert not torch.equal(images[1], plain[0][0])


class Own(LabeledFiles):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        return super().__getitem__(index)[0] + 10, -1


class OwnTransform(TrainTransform):
    def forward(self, image: Any) -> Tensor:
        return super().forward(image) + 10


class Other(Dataset[Any]):
    """It has a transform, as most data sets have, and no ``load``."""

    def __init__(self, folder: ImageFolder) -> None:
        self.folder, self.transform = folder, folder.transform

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> Any:
        return self.folder[index][0] + 10, -1


@pytest.mark.parametrize("kind", [Own, OwnTransform, Other])
def test_what_others_have_changed_is_called(faces: Path, kind: Any) -> None:
    transform = train_transform(PREPROCESSING, AugmentConfig(crop_padding=5))
    folder = ImageFolder(faces, transform)
    data: Any = {
        Own: lambda: Own(faces, folder.names, folder.labels.tolist(), folder.classes, transform),
        OwnTransform: lambda: ImageFolder(faces, OwnTransform(PREPROCESSING, AugmentConfig(crop_padding=5))),
        Other: lambda: Other(folder),
    }[kind]()
    seeded = SeededDataset(data, 0)
    images, labels = stacked(seeded.__getitems__([3, 9]))
    assert images.min() > 5
    assert (labels == [-1, -1]) == (kind is not OwnTransform)
    assert torch.equal(seeded[9][0], images[1])


def test_a_transform_of_ones_own_is_no_transform_of_packed_faces(packs: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="OwnTransform has a forward of its own"):
        BatchMaker(PackedFaces(packs[0]), OwnTransform(PREPROCESSING, AugmentConfig()))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_of_batches(faces: Path, workers: int) -> None:
    data = SeededDataset(ImageFolder(faces, train_transform(PREPROCESSING)), 7)
    loader = make_loader(data, 4, sampler=ResumableSampler(14, seed=1), num_workers=workers)
    order = ResumableSampler(14, seed=1).order().tolist()
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = list(loader)
        assert [len(images) for images, _ in batches] == [4, 4, 4, 2]
        images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
        assert labels.dtype == torch.int64
        expected, classes = stacked([data[index] for index in order])
        assert torch.equal(images, expected)
        assert labels.tolist() == classes


def test_an_image_that_cannot_be_read_is_named(faces: Path, tmp_path: Path) -> None:
    folder = ImageFolder(faces, train_transform(PREPROCESSING))
    broken = tmp_path / "p0" / "broken.jpg"
    broken.parent.mkdir()
    broken.write_bytes(b"\xff\xd8 no")
    data = ConcatDataset([folder, ImageFolder(tmp_path, folder.transform)])
    with pytest.raises(ImageDecodeError, match=r"p0/broken\.jpg"):
        SeededDataset(data, 0).__getitems__([0, 14])
    assert SeededDataset(data, 0).__getitems__([]) == []
