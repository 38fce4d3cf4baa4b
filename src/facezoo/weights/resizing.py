"""Interpolate position weights of checkpoints for another image or window size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from facezoo.ops import resize_grid
from facezoo.weights.errors import CheckpointError

POSITIONS = "stem.positions"  # (rows · columns, C), row by row; a class token's own position is another tensor
BIAS_TABLE = ".attention.bias_table"  # Swin: ((2 · window − 1)², heads)


def resize_positions(
    model: nn.Module,
    converted: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    img_size: tuple[int, int] | None,
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Resize position embeddings and tables of relative positions in ``converted``; also returns one line per kind resized.

    Tensors that cannot be resized are left unchanged, so that the check of shapes reports them.

    Args:
        model: the network.
        converted: the checkpoint with facezoo's names.
        target: the network's state dict.
        img_size: height and width of the checkpoint's images in pixels; None: the grid is the network's if the number of cells
            is the same, else a square.

    Raises:
        CheckpointError: ``img_size`` contradicts the number of positions.
    """
    resized, lines = dict(converted), []
    stem: Any = getattr(model, "stem", None)
    if _fits(POSITIONS, converted, target) and hasattr(stem, "grid"):
        positions, new = converted[POSITIONS], stem.grid
        old = _grid(positions.shape[0], new, stem.conv.kernel_size[0], img_size)
        if old is not None and old != new:
            resized[POSITIONS] = resize_grid(positions, old, new)
            lines.append(f"position embedding resized {_times(old)} → {_times(new)}")
    tables: Counter[tuple[int, int]] = Counter()
    for key in converted:
        if key.endswith(BIAS_TABLE) and _fits(key, converted, target):
            sides = (math.isqrt(converted[key].shape[0]), math.isqrt(target[key].shape[0]))
            if sides[0] != sides[1] and sides[0] % 2 and sides[0] ** 2 == converted[key].shape[0]:
                # As in the paper's fine-tuning for other windows, without averaging over offsets.
                resized[key] = resize_grid(converted[key], (sides[0],) * 2, (sides[1],) * 2, antialias=False)
                tables[sides] += 1
    for (old_side, new_side), count in tables.items():
        lines.append(f"{count} tables of relative positions resized {old_side}×{old_side} → {new_side}×{new_side}")
    return resized, tuple(lines)


def _fits(key: str, converted: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> bool:
    """Whether both have ``key`` as values per cell with the same width."""
    if key not in converted or key not in target or converted[key].dim() != 2:
        return False
    return converted[key].shape[1] == target[key].shape[1]


def _grid(cells: int, own: tuple[int, int], patch: int, img_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns of the checkpoint's positions; None if unknown."""
    if img_size is not None:
        grid = (img_size[0] // patch, img_size[1] // patch)
        if grid[0] * grid[1] != cells:
            raise CheckpointError(
                f"images of {_times(img_size)} pixels have {_times(grid)} patches of {patch}×{patch}, but the checkpoint has "
                f"{cells} positions: img_size (or the size in its record) is not that of its images"
            )
        return grid
    if cells == own[0] * own[1]:
        return own
    side = math.isqrt(cells)
    return (side, side) if side * side == cells else None


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
