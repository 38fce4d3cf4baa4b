"""Interpolation of weights per grid cell to another grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_grid(values: Tensor, old: tuple[int, int], new: tuple[int, int], *, antialias: bool = True) -> Tensor:
    """Bicubic interpolation of one vector per cell, as for ViT's positions with another image size (2010.11929, section 3.2).

    Args:
        values: ``(rows · columns, C)`` of the grid ``old``, row by row.
        old: rows and columns of ``values``.
        new: rows and columns of the result.
        antialias: whether a coarser grid averages over the cells in between.

    Returns:
        ``(rows · columns, C)`` of the grid ``new``: ``values`` itself if the grids are equal, else float32 (float64 stays).

    Raises:
        ValueError: ``values`` has another number of cells than ``old``.
    """
    if values.dim() != 2 or values.shape[0] != old[0] * old[1]:
        raise ValueError(
            f"a grid of {old[0]}×{old[1]} cells needs values ({old[0] * old[1]}, C), got {tuple(values.shape)}"
        )
    if old == new:
        return values
    exact = values.to(torch.promote_types(values.dtype, torch.float32))
    grid = exact.t().unflatten(1, old)[None]
    resized = F.interpolate(grid, size=new, mode="bicubic", align_corners=False, antialias=antialias)
    return resized[0].flatten(1).t().contiguous()
