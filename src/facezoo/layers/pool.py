"""Global pooling as modules, by name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.ops.pooling import generalized_mean_pool, global_avg_max_pool, global_avg_pool, global_max_pool
from facezoo.registry import unknown_name_message

POOLS = ("avg", "max", "avgmax", "gem", "gdc", "flatten", "avg7x7")
_FUNCTIONS = {"avg": global_avg_pool, "max": global_max_pool, "avgmax": global_avg_max_pool}


class GlobalPool(nn.Module):
    """Mean, maximum or half of each: ``(N, C, H, W) -> (N, C)``."""

    def __init__(self, kind: str = "avg") -> None:
        super().__init__()
        if kind not in _FUNCTIONS:
            raise ValueError(unknown_name_message("pooling", kind, _FUNCTIONS))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)``."""
        return _FUNCTIONS[self.kind](x)

    def extra_repr(self) -> str:
        """Show the kind."""
        return repr(self.kind)


class GeMPool(nn.Module):
    """Generalized-mean pooling with a learned exponent, 1711.02512: ``(N, C, H, W) -> (N, C)``."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)``."""
        return generalized_mean_pool(x, self.p, eps=self.eps)


class GlobalDepthwiseConv(nn.Module):
    """One filter of the map's own size per channel (GDC of MobileFaceNet, 1804.07573): ``(N, C, H, W) -> (N, C)``.

    Every position has its own weight, so the map must have exactly ``map_size``.
    """

    def __init__(self, channels: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, map_size, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)`` with (H, W) = ``map_size``."""
        return self.norm(self.conv(x)).flatten(1)


def create_pool(name: str, channels: int, map_size: tuple[int, int]) -> tuple[nn.Module, int]:
    """The pooling called ``name`` and the width of the vector that it makes of a ``(channels, *map_size)`` map.

    Raises:
        ValueError: unknown name; :data:`POOLS` lists the known ones.
    """
    if name in _FUNCTIONS:
        return GlobalPool(name), channels
    if name == "gem":
        return GeMPool(), channels
    if name == "gdc":
        return GlobalDepthwiseConv(channels, map_size), channels
    if name == "flatten":
        return nn.Flatten(1), channels * map_size[0] * map_size[
            1
        ]  # (C, H, W) order, as insightface's checkpoints have it
    if name == "avg7x7":  # torchvision's VGG: the mean over each cell of a grid, of a map of any size
        return nn.Sequential(nn.AdaptiveAvgPool2d(7), nn.Flatten(1)), channels * 49
    raise ValueError(unknown_name_message("global_pool", name, POOLS))
