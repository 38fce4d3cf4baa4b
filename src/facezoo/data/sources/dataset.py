"""A source as a data set of torch, to train on it as it lies."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facezoo.data.image import Pixels, transformed
from facezoo.data.sources.source import Source


class SourceDataset(Dataset[tuple[Any, int]]):
    """The labeled images of one split of a source, read when they are asked for: for sets that one does not want to pack.

    Args:
        source: from :func:`open_source`, such as tar shards.
        transform: from a uint8 array (H, W, 3), or a PIL image for a transform that is not facezoo's; None gives the array.
        split: ``"train"``, ``"dev"`` or ``"test"``.

    Attributes:
        source: as given.
        indices: numbers of the images in it, int64 (N,).
        labels: class index of every image, int64 (N,).
        classes: names of the identities by class index.

    Raises:
        ValueError: the split holds no labeled image.
    """

    def __init__(self, source: Source, transform: Any = None, split: str = "train") -> None:
        chosen = (source.labels >= 0) & (np.array(source.splits) == split)
        self.source, self.transform, self.indices = source, transform, np.flatnonzero(chosen)
        if not len(self.indices):
            raise ValueError(f"{source.root.as_posix()!r} holds no labeled image in the split {split[:50]!r}")
        self.labels: Tensor = torch.from_numpy(source.labels[self.indices])
        self.classes = source.identities

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Image ``index``, transformed, and its class index."""
        pixels, label = self.load(index)
        return transformed(pixels, self.transform), label

    def load(self, index: int) -> tuple[Pixels, int]:
        """Image ``index`` as it is, uint8 (H, W, 3), and its class index."""
        return self.source.pixels(int(self.indices[index])), int(self.labels[index])


class SourceImages(Dataset[Any]):
    """All images of a source in their order, transformed; ``transform`` as in :class:`SourceDataset`."""

    def __init__(self, source: Source, transform: Any) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        """Image ``index``, transformed."""
        return transformed(self.source.pixels(index), self.transform)
