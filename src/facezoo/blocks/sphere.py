"""The residual unit of SphereFace, 1704.08063: convolutions with PReLU, without any norm."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, ConvNormAct, StochasticDepth


@register_block("sphere")
class SphereBlock(nn.Module):
    """Two 3×3 convolutions, each with an activation, + shortcut; if the shapes change, preceded by a third convolution.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        stride: step of the convolution before the unit.
        dilation: dilation of the unit's convolutions.
        act: activation.
        drop_path: probability of dropping the branch.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        act: ActivationName = "prelu",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        changes = stride != 1 or in_chans != out_chans
        self.entry = ConvNormAct(in_chans, out_chans, stride=stride, norm="none", act=act) if changes else nn.Identity()
        self.conv1 = ConvNormAct(out_chans, out_chans, dilation=dilation, norm="none", act=act)
        self.conv2 = ConvNormAct(out_chans, out_chans, dilation=dilation, norm="none", act=act)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        x = self.entry(x)
        return x + self.drop_path(self.conv2(self.conv1(x)))
