"""CBAM: attention over channels, then over positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.layers.conv_norm_act import ConvNormAct
from facezoo.layers.squeeze_excite import squeeze_width


class ChannelAttention(nn.Module):
    """Scale every channel by a gate computed from the means and the maxima of all channels, through the same two layers.

    Args:
        channels: channels of the map.
        ratio: width between the layers over ``channels``.
        divisor: that width is a multiple of it; 1 is the paper's.
    """

    def __init__(self, channels: int, *, ratio: float = 1 / 16, divisor: int = 1) -> None:
        super().__init__()
        width = squeeze_width(channels, ratio, divisor)
        self.fc1 = nn.Conv2d(channels, width, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(width, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        mean = self.fc2(self.act(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        peak = self.fc2(self.act(self.fc1(x.amax(dim=(2, 3), keepdim=True))))
        return x * (mean + peak).sigmoid()


class SpatialAttention(nn.Module):
    """Scale every position by a gate computed from the means and maxima over the channels around it.

    Args:
        kernel_size: side of the neighborhood in cells.
    """

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = ConvNormAct(2, 1, kernel_size, act="none")

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        summary = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * self.conv(summary).sigmoid()


class CBAM(nn.Module):
    """Convolutional block attention, 1807.06521: :class:`ChannelAttention`, then :class:`SpatialAttention`.

    Args:
        channels: channels of the map.
        ratio: width of the channel attention's inner layer over ``channels``.
        divisor: that width is a multiple of it; 1 is the paper's.
        kernel_size: side of the spatial attention's kernel in cells.
    """

    def __init__(self, channels: int, *, ratio: float = 1 / 16, divisor: int = 1, kernel_size: int = 7) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, ratio=ratio, divisor=divisor)
        self.spatial = SpatialAttention(kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        return self.spatial(self.channel(x))
