"""The blocks of Light CNN, 1511.02683: every convolution is followed by a max-feature-map, and none by a norm."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ConvNormAct, StochasticDepth


class _MaxFeatureConv(ConvNormAct):
    """A convolution to twice the channels, of which the larger of each pair remains."""

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, *, dilation: int = 1) -> None:
        super().__init__(in_chans, 2 * out_chans, kernel_size, dilation=dilation, norm="none", act="mfm")


def _max_pool(stride: int) -> nn.Module:
    return nn.MaxPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()


@register_block("mfm_stem")
class MaxFeatureStem(nn.Module):
    """A convolution with max-feature-map, then a max-pool of ``stride``×``stride``."""

    def __init__(self, in_chans: int, out_chans: int, *, kernel_size: int = 5, stride: int = 1) -> None:
        super().__init__()
        self.conv = _MaxFeatureConv(in_chans, out_chans, kernel_size)
        self.pool = _max_pool(stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        return self.pool(self.conv(x))


@register_block("mfm_group")
class MaxFeatureGroup(nn.Module):
    """1×1, then 3×3, each with max-feature-map, then a max-pool of ``stride``×``stride``."""

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = _MaxFeatureConv(in_chans, in_chans, 1)
        self.conv2 = _MaxFeatureConv(in_chans, out_chans, 3, dilation=dilation)
        self.pool = _max_pool(stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        return self.pool(self.conv2(self.conv1(x)))


@register_block("mfm_residual")
class MaxFeatureResidual(nn.Module):
    """Two 3×3 convolutions with max-feature-map, + shortcut.

    Args:
        in_chans: input channels; equal to ``out_chans``, since the block only knows the identity shortcut.
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
