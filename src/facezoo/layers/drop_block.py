"""DropBlock as a module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facezoo.ops.drop_block import drop_block


class DropBlock2d(nn.Module):
    """:func:`facezoo.ops.drop_block` with a scheduled probability.

    Args:
        drop_prob: final fraction of activations to drop, in [0, 1).
        block_size: side of a block in cells.

    The current fraction, ``progress * drop_prob``, is a buffer, so that a schedule neither recompiles the graph nor
    synchronizes. It is not part of the state dict. It starts at ``drop_prob``, also after a construction on the meta device and
    ``to_empty``.
    """

    current: Tensor

    def __init__(self, drop_prob: float, block_size: int = 7) -> None:
        super().__init__()
        if not 0.0 <= drop_prob < 1.0:
            raise ValueError(f"drop_prob is a probability in [0, 1), got {drop_prob}")
        self.drop_prob = drop_prob
        self.block_size = block_size
        self.progress = 1.0
        self.register_buffer("current", torch.tensor(drop_prob), persistent=False)

    def set_progress(self, progress: float) -> None:
        """Use ``progress * drop_prob`` from now on; the paper lets ``progress`` grow linearly from 0 to 1 over the training."""
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress is a fraction in [0, 1], got {progress}")
        self.progress = progress
        self.current.fill_(progress * self.drop_prob)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DropBlock2d:
        empty = self.current.is_meta
        super()._apply(fn, recurse)
        if empty and not self.current.is_meta:
            self.current.fill_(self.progress * self.drop_prob)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        return drop_block(x, self.current, self.block_size, training=self.training) if self.training else x

    def extra_repr(self) -> str:
        """Show probability and block size."""
        return f"drop_prob={self.drop_prob}, block_size={self.block_size}"
