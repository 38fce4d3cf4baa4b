"""DropBlock: drop contiguous squares of a feature map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def drop_block(x: Tensor, drop_prob: float | Tensor, block_size: int, *, training: bool = True) -> Tensor:
    """Zero square blocks of every channel and rescale the rest so that the mean activation stays the same.

    DropBlock, 1810.12890. A block never crosses the border. For a map smaller than the block the block has the map's size, so any
    map size works.

    Args:
        x: feature map, ``(N, C, H, W)``.
        drop_prob: fraction of the activations to drop, in [0, 1): a number, or a 0-dim tensor (then it can follow a
            schedule without recompiling the graph). The realized fraction is a little lower, since blocks overlap.
        block_size: side of a block in cells of the map.
        training: if False, ``x`` is returned unchanged.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: ``x`` is not 4-dimensional, ``drop_prob`` a number outside [0, 1), or ``block_size`` below 1.
    """
    if x.dim() != 4:
        raise ValueError(f"drop_block expects a (N, C, H, W) map, got shape {tuple(x.shape)}")
    if block_size < 1:
        raise ValueError(f"block_size is at least 1, got {block_size}")
    if not isinstance(drop_prob, Tensor) and not 0.0 <= drop_prob < 1.0:
        raise ValueError(f"drop_prob is a probability in [0, 1), got {drop_prob}")
    if not training or (not isinstance(drop_prob, Tensor) and drop_prob == 0.0):
        return x
    n, c, height, width = x.shape
    block_h, block_w = min(block_size, height), min(block_size, width)
    rows, cols = height - block_h + 1, width - block_w + 1  # possible positions of a block's upper left corner
    gamma = drop_prob * (height * width) / (block_h * block_w * rows * cols)
    corners = (torch.rand((n, c, rows, cols), device=x.device) < gamma).to(x.dtype)
    padded = F.pad(corners, (block_w - 1, block_w - 1, block_h - 1, block_h - 1))
    keep = 1.0 - F.max_pool2d(padded, (block_h, block_w), stride=1)
    return x * keep * (keep.numel() / keep.sum(dtype=torch.float32).clamp(min=1.0)).to(x.dtype)
