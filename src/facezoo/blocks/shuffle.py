"""The shuffle unit. ShuffleNet V2, 1807.11164; with PReLU, ShuffleFaceNet (10.1109/ICCVW.2019.00333)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, DepthwiseConv, PointwiseConv
from facezoo.ops import channel_shuffle


@register_block("shuffle")
class ShuffleUnit(nn.Module):
    """1×1, 3×3 depthwise, 1×1 on half of the channels; the two halves are concatenated and shuffled.

    If stride and width do not change, the other half is the identity. Otherwise both branches get all channels, and the other
    one is a depthwise and a 1×1 convolution.

    Args:
        in_chans: input channels.
        out_chans: output channels, even.
        stride: step of the depthwise convolutions.
        dilation: their dilation.
        act: activation after every 1×1 convolution.
    """

    def __init__(
        self, in_chans: int, out_chans: int, *, stride: int = 1, dilation: int = 1, act: ActivationName = "relu"
    ) -> None:
        super().__init__()
        if out_chans % 2:
            raise ValueError(f"a shuffle unit has an even number of output channels, got {out_chans}")
        half = out_chans // 2
        self.splits = stride == 1 and in_chans == out_chans
        self.shortcut: nn.Module = nn.Identity()
        if not self.splits:
            self.shortcut = nn.Sequential(
                DepthwiseConv(in_chans, 3, stride=stride, dilation=dilation, act="none"),
                PointwiseConv(in_chans, half, act=act),
            )
        self.expand = PointwiseConv(half if self.splits else in_chans, half, act=act)
        self.depthwise = DepthwiseConv(half, 3, stride=stride, dilation=dilation, act="none")
        self.project = PointwiseConv(half, half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        kept, changed = x.chunk(2, dim=1) if self.splits else (x, x)
        branch = self.project(self.depthwise(self.expand(changed)))
        return channel_shuffle(torch.cat((self.shortcut(kept), branch), dim=1), 2)
