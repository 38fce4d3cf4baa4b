"""Receivers of the gradient of the class centers, block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class GradientSink(Protocol):
    """Takes the gradient of the centers during the backward pass, a block of rows at a time, each row once and complete.

    Rows are those of ``weight.view(-1, D)``: classes, or sub-centers, with those of a class adjacent.
    """

    def buffer(self, rows: slice, dtype: torch.dtype) -> Tensor | None:
        """A contiguous ``(rows, D)`` tensor with this dtype for the gradient, or None: the kernel then allocates its own."""
        ...

    def accept(self, rows: slice, gradient: Tensor) -> None:
        """Take the gradient of these rows, ``(rows, D)``: the tensor of :meth:`buffer` or another, which may be overwritten."""
        ...

    def result(self) -> Tensor | None:
        """After the last block: the gradient of ``weight`` for autograd; None for no gradient."""
        ...


# Called at the beginning of a backward pass with the weight whose gradient is needed.
SinkFactory = Callable[[Tensor], GradientSink]


class DenseGradient:
    """Collects the rows in one tensor of the shape of ``weight``, which becomes its gradient."""

    def __init__(self, weight: Tensor) -> None:
        self._gradient = torch.empty_like(weight, memory_format=torch.contiguous_format)
        self._rows = self._gradient.view(-1, weight.shape[-1])

    def buffer(self, rows: slice, dtype: torch.dtype) -> Tensor | None:
        """The rows themselves, if they have the dtype."""
        return self._rows[rows] if self._rows.dtype == dtype else None

    def accept(self, rows: slice, gradient: Tensor) -> None:
        """Copy, unless the gradient was computed in place."""
        own = self._rows[rows]
        if gradient.data_ptr() != own.data_ptr():
            own.copy_(gradient)

    def result(self) -> Tensor | None:
        """The whole gradient."""
        return self._gradient
