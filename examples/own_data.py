"""Training on a dataset of your own: anything with a length, indexing and labels.

    python examples/own_data.py

A `Trainer` takes a map-style dataset that yields (image, label): torchvision's, a `Subset`, a `ConcatDataset`, or one like this.
The labels come from `targets`, `labels` or `samples`, so that no image has to be read to know them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from facezoo.training import TrainConfig, Trainer, TrainResult


class Patterns(Dataset[tuple[Tensor, int]]):
    """Pictures of 32 pixels: each identity is a pattern, each image it plus noise."""

    def __init__(self, identities: int = 8, images: int = 16, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        patterns = torch.randn(identities, 3, 4, 4, generator=torch.Generator().manual_seed(99))
        self.targets = [identity for identity in range(identities) for _ in range(images)]
        self.classes = [f"person{identity}" for identity in range(identities)]
        clean = patterns.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)[self.targets]
        self.images = clean + 0.5 * torch.randn(clean.shape, generator=generator)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """A float image (3, 32, 32), normalized as the network wants it, and the number of its identity."""
        return self.images[index], self.targets[index]


def train(out: Path, *, epochs: int = 4) -> TrainResult:
    """Train a small network on patterns."""
    train_images = ConcatDataset([Patterns(seed=0), Subset(Patterns(seed=1), range(0, 128, 2))])
    # With held-out images there is an accuracy; with `val_pairs`, a facezoo.data.PairList, there are verification figures.
    data = SimpleNamespace(train=train_images, dev=Patterns(seed=2), classes=Patterns().classes)
    config = TrainConfig.from_options(
        model="mobilefacenet",
        img_size=32,
        embedding_dim=64,
        margin_options={"scale": 16.0, "margin": 0.2},
        epochs=epochs,
        batch_size=32,
        lr=0.05,
        best_metric="accuracy",
        num_workers=0,
        out=str(out),
        progress=False,
    )
    return Trainer(config, data=data).fit()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        result = train(Path(folder) / "run")
        print(f"accuracy on held-out images: {result.best_value:.1%} after {result.updates} updates (chance: 12.5 %)")
