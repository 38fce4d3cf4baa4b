"""The blocks of Light CNN, 1511.02683: every convolution is followed by a max-feature-map, and none by a norm."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ConvNormAct, StochasticDepth


class _MaxFeatureConv(ConvNormAct):
    """A convolution to twice the channels, followed by a max-feature-map."""

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, *, dilation: int = 1) -> None:
        super().__init__(in_chans, 2 * out_chans, kernel_size, dilation=dilation, norm="none", act="mfm")


class MaxPlusMeanPool(nn.Module):
    """Maximum plus mean of every ``stride``×``stride`` cells; incomplete cells at the lower right are ignored."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H // stride, W // stride)``."""
        return F.max_pool2d(x, self.stride) + F.avg_pool2d(x, self.stride)


def _pool(kind: str, stride: int) -> nn.Module:
    if kind not in ("max", "max_plus_mean"):
        raise ValueError(f"pool is 'max' or 'max_plus_mean', got {kind!r}")
    if stride == 1:
        return nn.Identity()
    return nn.MaxPool2d(stride, ceil_mode=True) if kind == "max" else MaxPlusMeanPool(stride)


@register_block("mfm_stem")
class MaxFeatureStem(nn.Module):
    """A convolution with max-feature-map, then a pool of ``stride``×``stride``: ``"max"``, or ``"max_plus_mean"``."""

    def __init__(
        self, in_chans: int, out_chans: int, *, kernel_size: int = 5, stride: int = 1, pool: str = "max"
    ) -> None:
        super().__init__()
        self.rounds_down = pool == "max_plus_mean"
        self.conv = _MaxFeatureConv(in_chans, out_chans, kernel_size)
        self.pool = _pool(pool, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``; with ``"max_plus_mean"`` rounded down."""
        return self.pool(self.conv(x))


@register_block("mfm_group")
class MaxFeatureGroup(nn.Module):
    """1×1, then 3×3, each with max-feature-map, then a pool of ``stride``×``stride``: ``"max"``, or ``"max_plus_mean"``."""

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 1, dilation: int = 1, pool: str = "max") -> None:
        super().__init__()
        self.rounds_down = pool == "max_plus_mean"
        self.conv1 = _MaxFeatureConv(in_chans, in_chans, 1)
        self.conv2 = _MaxFeatureConv(in_chans, out_chans, 3, dilation=dilation)
        self.pool = _pool(pool, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``; with ``"max_plus_mean"`` rounded down."""
        return self.pool(self.conv2(self.conv1(x)))


@register_block("mfm_residual")
class MaxFeatureResidual(nn.Module):
    """Two 3×3 convolutions with max-feature-map, + shortcut.

    Args:
        in_chans: input channels; equal to ``out_chans``, since the shortcut is the identity.
        out_chans: output channels.
        dilation: dilation of both convolutions.
        drop_path: probability of dropping the branch.
    """

    def __init__(self, in_chans: int, out_chans: int, *, dilation: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        if in_chans != out_chans:
            raise ValueError(
                f"this block keeps its width, got {in_chans} -> {out_chans}; give the stage transition='mfm_group'"
            )
        self.conv1 = _MaxFeatureConv(in_chans, out_chans, 3, dilation=dilation)
        self.conv2 = _MaxFeatureConv(out_chans, out_chans, 3, dilation=dilation)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        return x + self.drop_path(self.conv2(self.conv1(x)))
