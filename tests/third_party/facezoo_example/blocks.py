"""The sandglass block of MobileNeXt, 2007.02269: a bottleneck whose shortcut joins the wide ends."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.blocks import create_attention, register_block
from facezoo.layers import DepthwiseConv, PointwiseConv, StochasticDepth


@register_block("sandglass")
class Sandglass(nn.Module):
    """3×3 depthwise, 1×1 reduce, 1×1 expand, 3×3 depthwise, attention; a shortcut where stride 1 and equal widths allow one.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        reduction: ``in_chans`` over the width in the middle.
        stride: step of the second depthwise convolution.
        dilation: dilation of both.
        act: activation behind the first depthwise and the second 1×1 convolution; the other two are linear.
        attention: attention on the branch, see :func:`facezoo.blocks.create_attention`.
        drop_path: probability of dropping the branch.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        reduction: int = 4,
        stride: int = 1,
        dilation: int = 1,
        act: str = "relu6",
        attention: str = "none",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.enter = DepthwiseConv(in_chans, dilation=dilation, act=act)
        self.reduce = PointwiseConv(in_chans, max(in_chans // reduction, 4), act="none")
        self.expand = PointwiseConv(max(in_chans // reduction, 4), out_chans, act=act)
        self.leave = DepthwiseConv(out_chans, stride=stride, dilation=dilation, act="none")
        self.attention = create_attention(attention, out_chans)
        self.has_shortcut = stride == 1 and in_chans == out_chans
        self.drop_path = StochasticDepth(drop_path) if drop_path and self.has_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        branch = self.attention(self.leave(self.expand(self.reduce(self.enter(x)))))
        return x + self.drop_path(branch) if self.has_shortcut else branch
