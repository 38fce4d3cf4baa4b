"""Sampled classes (PartialFC, 2010.05222, 2203.15565): a step uses the classes of the batch and a random sample of the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BITS = (1 << 31) - 1


@dataclass(frozen=True)
class PresentClasses:
    """The classes that this process uses in one step.

    Attributes:
        rows: their rows in the tensors of the head, ascending, ``(k,)``; None for all.
        labels: position of each sample's class among them, or -1, ``(N,)``.
        total: number of these classes over all processes.
    """

    rows: Tensor | None
    labels: Tensor
    total: int

    def of(self, per_class: Tensor) -> Tensor:
        """The selected rows of a tensor with one row per class; the tensor itself if all classes are present."""
        return per_class if self.rows is None else per_class.index_select(0, self.rows)


class ClassSampler(nn.Module):
    """Draws the classes of each step. The draw depends only on its two buffers, so a resumed run draws the same classes.

    A class is selected if it is the class of a sample, or if the hash of (seed, step, class) is among the smallest. The number of
    classes depends only on sizes, so there is no device sync.

    Args:
        rate: fraction of the classes, in (0, 1).
    """

    step: Tensor
    seed: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.randint(_BITS, ()))

    def count(self, classes: int, samples: int) -> int:
        """Number of selected classes: the fraction, but at least as many as the samples may have."""
        return min(classes, max(math.ceil(self.rate * classes), samples))

    @torch.no_grad()
    def draw(self, labels: Tensor, *, classes: int, first: int = 0) -> tuple[Tensor, Tensor]:
        """Draw for the next step.

        Args:
            labels: rows of this process, or -1, ``(N,)``.
            classes: number of classes of this process.
            first: index of its first class among those of all processes.

        Returns:
            ``(rows, labels)``: the classes drawn, ascending, ``(k,)``, and the labels as positions in them, ``(N,)``.
        """
        count = self.count(classes, len(labels))
        keys = _mixed(
            torch.arange(first, first + classes, device=labels.device) ^ _mixed(_mixed(self.seed) ^ self.step)
        )
        self.step.add_(1)
        # The smallest keys are selected. A label's key is below all hashes; the extra entry is for the labels of other processes.
        keys = torch.cat([keys, keys.new_zeros(1)])
        keys.index_fill_(0, torch.where(labels < 0, classes, labels), -1)
        # The class number in the lower half makes the order of equal hashes deterministic.
        keys = (keys[:classes] << 32) + torch.arange(classes, device=labels.device)
        rows = keys.topk(count, largest=False, sorted=False).indices.sort().values
        positions = torch.searchsorted(rows, labels)
        return rows, torch.where(labels < 0, -1, positions)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"


def _mixed(x: Tensor) -> Tensor:
    """A hash of the low 31 bits of int64 numbers, 31 bits: Wellons' lowbias32 with its products kept below 2^63."""
    x = x & _BITS
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _BITS
    x = ((x ^ (x >> 15)) * 0x046CA68B) & _BITS
    return x ^ (x >> 16)
