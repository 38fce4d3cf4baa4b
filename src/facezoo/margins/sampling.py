"""Sampled classes (PartialFC, 2010.05222, 2203.15565): a step takes the classes of the batch and a random share of the others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BITS = (1 << 31) - 1


@dataclass(frozen=True)
class PresentClasses:
    """The classes that this process computes with in one step.

    Attributes:
        rows: their rows in the tensors of the head, ascending, ``(k,)``; None for all.
        labels: position of each sample's class among them, -1 where it is not, ``(N,)``.
        total: how many there are over all processes.
    """

    rows: Tensor | None
    labels: Tensor
    total: int

    def of(self, per_class: Tensor) -> Tensor:
        """The rows of a tensor with one row per class; the tensor itself if all are present."""
        return per_class if self.rows is None else per_class.index_select(0, self.rows)


class ClassSampler(nn.Module):
    """Draws the classes of each step. What it draws is a function of its two buffers, so a continued run draws the same.

    A class takes part if it is the class of a sample, or if the hash of (seed, step, class) is among the smallest. The number of
    classes depends on sizes only: no device has to be asked.

    Args:
        rate: share of the classes, in (0, 1).
    """

    step: Tensor
    seed: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.randint(_BITS, ()))

    def count(self, classes: int, samples: int) -> int:
        """How many of ``classes`` take part: the share, but no fewer than the samples may need."""
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
        # The smallest keys win. A label's key is below all hashes; the extra place takes the labels of other processes.
        keys = torch.cat([keys, keys.new_zeros(1)])
        keys.index_fill_(0, torch.where(labels < 0, classes, labels), -1)
        # A class's own number in the lower half makes the order of equal hashes certain.
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
