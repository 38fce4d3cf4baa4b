"""Resampling of whole batches in torch, on any device."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from facezoo.data.augment_plan import Floats


def on_device(device: torch.device, values: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of the host as a tensor on the device. A GPU is not waited for, as it would be for a copy of pageable memory."""
    tensor = torch.tensor(np.asarray(values), dtype=dtype)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@functools.lru_cache(maxsize=64)
def constant_on(device: torch.device, values: tuple[Any, ...]) -> Tensor:
    """Numbers that are the same for every batch: copied once. Nobody may change the tensor."""
    with torch.inference_mode(False):  # it outlives the mode of its first use
        return on_device(device, values)


def sampled(
    batch: Tensor,
    maps: Floats,
    size: tuple[int, int],
    interpolated: NDArray[np.bool_] | None = None,
    inside: NDArray[np.bool_] | None = None,
) -> Tensor:
    """Take each pixel of the result from where a map sends it. Padded with 0.

    Args:
        batch: (N, C, H, W), of the size of the result.
        maps: (N, 3, 3), as ``Plan.matrix``.
        size: height and width of the result.
        interpolated: bool (N,): bilinear, else the nearest pixel, which is exact for whole pixels. None: all are bilinear.
        inside: bool (N,), as ``Plan.inside``: not padded, the outer half of the outermost pixels has their color.
    """
    grid = _grid(maps, size, batch.device)
    if inside is not None and inside.any():  # no position lies beyond the centers of the outermost pixels
        furthest = constant_on(batch.device, (1 - 1 / size[1], 1 - 1 / size[0]))
        rows = on_device(batch.device, np.flatnonzero(inside), torch.int64)
        grid[rows] = torch.minimum(torch.maximum(grid[rows], -furthest), furthest)
    if interpolated is None or interpolated.all():
        return F.grid_sample(batch, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    result = F.grid_sample(batch, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    if interpolated.any():
        chosen = on_device(batch.device, np.flatnonzero(interpolated), torch.int64)
        result[chosen] = F.grid_sample(
            batch[chosen], grid[chosen], mode="bilinear", padding_mode="zeros", align_corners=False
        )
    return result


def _grid(maps: Floats, size: tuple[int, int], device: torch.device) -> Tensor:
    """The source position of each pixel of the result, (N, H, W, 2), in units of ``grid_sample``: -1 to 1 from edge to edge."""
    height, width = size
    matrix = on_device(device, maps)
    x = torch.arange(width, device=device, dtype=torch.float32)
    y = torch.arange(height, device=device, dtype=torch.float32).unsqueeze(1)
    # from pixels to grid_sample's units
    units = constant_on(device, ((2 / width, 0, 1 / width - 1), (0, 2 / height, 1 / height - 1), (0, 0, 1)))
    matrix = (units.unsqueeze(-1) * matrix.unsqueeze(1)).sum(dim=2)
    by_x, by_y, constant = (
        torch.view_as_complex(column.contiguous()) for column in matrix[:, :2].transpose(1, 2).unbind(1)
    )
    # x and y as one complex number: a single addition writes both
    grid = torch.view_as_real((by_x[:, None] * x + constant[:, None]).unsqueeze(1) + by_y[:, None, None] * y)
    perspective = bool(maps[:, 2, :2].any())  # asked of the plan: an answer of the device would have to be waited for
    if perspective:
        below = (matrix[:, 2, 0, None] * x + matrix[:, 2, 2, None]).unsqueeze(1) + matrix[:, 2, 1, None, None] * y
        grid = grid / below.unsqueeze(-1)
    return grid
