"""The block of RegNet-Y: a grouped bottleneck of constant width, with squeeze-and-excitation. 2003.13678."""

from __future__ import annotations

from torch import Tensor

from facezoo.blocks._registry import register_block
from facezoo.blocks.residual import Residual, projection_shortcut
from facezoo.layers import ActivationName, ConvNormAct, SqueezeExcite, create_activation


@register_block("regnet_y")
class RegNetYBlock(Residual):
    """1×1, grouped 3×3 with the stride, squeeze-and-excitation, 1×1 beside a shortcut; all of width ``out_chans``.

    Args:
        in_chans: input channels.
        out_chans: output channels, also those inside; a multiple of ``group_width``.
        group_width: channels of a group of the 3×3 convolution.
        se_ratio: width of the squeeze over ``in_chans``.
        stride: step of the 3×3 convolution.
        dilation: dilation of the 3×3 convolution.
        act: activation.
        drop_path: probability of dropping the branch.
        drop_block: final fraction that DropBlock drops after every convolution's norm.
        drop_block_size: side of its blocks in cells.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        group_width: int = 8,
        se_ratio: float = 0.25,
        stride: int = 1,
        dilation: int = 1,
        act: ActivationName = "relu",
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ) -> None:
        super().__init__()
        if out_chans % group_width:
            raise ValueError(f"{out_chans} channels are not a multiple of group_width={group_width}")
        groups = out_chans // group_width
        self.conv1 = ConvNormAct(in_chans, out_chans, 1, act=act)
        self.conv2 = ConvNormAct(out_chans, out_chans, 3, stride=stride, dilation=dilation, groups=groups, act=act)
        self.attention = SqueezeExcite(out_chans, width=round(se_ratio * in_chans), act=act)
        self.conv3 = ConvNormAct(out_chans, out_chans, 1, act="none")
        self.set_tail(
            projection_shortcut(in_chans, out_chans, stride),
            drop_path=drop_path,
            drop_block=drop_block,
            drop_block_size=drop_block_size,
            act=create_activation(act, out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        return self.act(self.drop_path(self.branch(x)) + self.shortcut(x))

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch, with the attention before the last convolution."""
        branch = self.drop_block(self.conv1(x))
        branch = self.attention(self.drop_block(self.conv2(branch)))
        return self.drop_block(self.conv3(branch))
