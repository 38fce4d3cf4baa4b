"""Global pooling as modules, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facezoo.ops.pooling import generalized_mean_pool
from facezoo.registry import Registry

# A pooling is a callable `(channels, map_size) -> module` for a module from maps to vectors. If the width of the vector differs
# from the channels, the module has `out_features`; if it only accepts maps of `map_size`, it has `fixed_map = True`.
POOLS: Registry[Callable[[int, tuple[int, int]], nn.Module]] = Registry(
    "global_pool", listed_by="facezoo.layers.POOLS.list()"
)
register_pool = POOLS.register


class GlobalPool(nn.Module):
    """Base class of the three plain poolings, which have no parameters and accept maps of any size."""

    def __init__(self, channels: int = 0, map_size: tuple[int, int] = (0, 0)) -> None:
        super().__init__()


@register_pool("avg")
class GlobalAvgPool(GlobalPool):
    """The mean over the map."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)``."""
        return x.mean(dim=(2, 3))


@register_pool("max")
class GlobalMaxPool(GlobalPool):
    """The maximum over the map."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)``."""
        return x.amax(dim=(2, 3))


@register_pool("avgmax")
class GlobalAvgMaxPool(GlobalPool):
    """Half the mean and half the maximum over the map."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)``."""
        return 0.5 * (x.mean(dim=(2, 3)) + x.amax(dim=(2, 3)))


class GeMPool(nn.Module):
    """Generalized-mean pooling with a learned exponent, 1711.02512: ``(N, C, H, W) -> (N, C)``."""

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)``."""
        return generalized_mean_pool(x, self.p, eps=self.eps)


@register_pool("gdc")
class GlobalDepthwiseConv(nn.Module):
    """One filter of the map's own size per channel (GDC of MobileFaceNet, 1804.07573): ``(N, C, H, W) -> (N, C)``.

    Every position has its own weight, so the map must have exactly ``map_size``.
    """

    fixed_map = True

    def __init__(self, channels: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, map_size, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C)`` with (H, W) = ``map_size``."""
        return self.norm(self.conv(x)).flatten(1)


@register_pool("flatten")
class FlattenPool(nn.Flatten):
    """Flatten the map in (C, H, W) order, as in insightface's checkpoints."""

    fixed_map = True

    def __init__(self, channels: int, map_size: tuple[int, int]) -> None:
        super().__init__(1)
        self.out_features = channels * map_size[0] * map_size[1]


@register_pool("avg7x7")
class GridPool(nn.Sequential):
    """The mean over each cell of a 7×7 grid, for maps of any size, as in torchvision's VGG."""

    def __init__(self, channels: int, map_size: tuple[int, int]) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(7), nn.Flatten(1))
        self.out_features = channels * 49


register_pool("gem", lambda channels, map_size: GeMPool())


def create_pool(name: str, channels: int, map_size: tuple[int, int]) -> tuple[nn.Module, int]:
    """The pooling called ``name``, and the width of its output for a ``(channels, *map_size)`` map.

    Raises:
        UnknownNameError: no such pooling.
    """
    pool = POOLS[name](channels, map_size)
    return pool, int(getattr(pool, "out_features", channels))
