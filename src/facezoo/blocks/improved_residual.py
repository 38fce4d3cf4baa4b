"""The improved residual block of IResNet, as ArcFace's networks use it (1801.07698, section 3.1; 1610.02915)."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.blocks.attention import ATTENTIONS, AttentionName
from facezoo.blocks.residual import Residual, ShortcutName, create_shortcut
from facezoo.layers import ActivationName, ConvNormAct


@register_block("ir")
class IRBlock(Residual):
    """BN, 3×3, BN, PReLU, 3×3 with the stride, BN, attention, + shortcut; no activation after the sum.

    Args:
        in_chans: input channels.
        out_chans: output channels, also those of the first convolution.
        stride: step of the second convolution.
        dilation: dilation of the second convolution.
        act: activation between the convolutions.
        attention: attention on the residual branch, see :func:`facezoo.blocks.create_attention`.
        se_ratio: width of the squeeze over ``out_chans``.
        se_divisor: the width of the squeeze is a multiple of it.
        shortcut: kind of shortcut if the shapes change, see :func:`facezoo.blocks.create_shortcut`.
        inner_norm: whether a norm follows the first convolution; not in face.evoLVe's networks.
        drop_path: probability of dropping the branch.
        drop_block: final fraction that DropBlock drops after every convolution's norm.
        drop_block_size: side of its blocks in cells.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        act: ActivationName = "prelu",
        attention: AttentionName = "none",
        se_ratio: float = 1 / 16,
        se_divisor: int = 8,
        shortcut: ShortcutName = "projection",
        inner_norm: bool = True,
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_chans)
        self.conv1 = ConvNormAct(in_chans, out_chans, 3, norm="batch" if inner_norm else "none", act=act, bias=False)
        self.conv2 = ConvNormAct(out_chans, out_chans, 3, stride=stride, dilation=dilation, act="none")
        self.attention = ATTENTIONS[attention](out_chans, se_ratio, se_divisor)
        self.set_tail(
            create_shortcut(shortcut, in_chans, out_chans, stride),
            drop_path=drop_path,
            drop_block=drop_block,
            drop_block_size=drop_block_size,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        return self.drop_path(self.branch(self.norm(x))) + self.shortcut(x)


@register_block("ir_bottleneck")
class IRBottleneck(Residual):
    """BN, 1×1 reduce, BN, PReLU, 3×3, BN, PReLU, 1×1 with the stride, BN, attention, + shortcut; no activation after it.

    The block of AdaFace's and CVLface's IR-152 and IR-200.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        expansion: ``out_chans`` over the width of the 3×3 convolution.
        stride: step of the last convolution.
        dilation: dilation of the 3×3 convolution.
        act: activation between the convolutions.
        attention: attention on the residual branch, see :func:`facezoo.blocks.create_attention`.
        se_ratio: width of the squeeze over ``out_chans``.
        se_divisor: the width of the squeeze is a multiple of it.
        shortcut: kind of shortcut where the shapes change, see :func:`facezoo.blocks.create_shortcut`.
        drop_path: probability of dropping the branch.
        drop_block: final fraction that DropBlock drops after every convolution's norm.
        drop_block_size: side of its blocks in cells.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        expansion: int = 4,
        stride: int = 1,
        dilation: int = 1,
        act: ActivationName = "prelu",
        attention: AttentionName = "none",
        se_ratio: float = 1 / 16,
        se_divisor: int = 8,
        shortcut: ShortcutName = "projection",
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ) -> None:
        super().__init__()
        width = out_chans // expansion
        self.norm = nn.BatchNorm2d(in_chans)
        self.conv1 = ConvNormAct(in_chans, width, 1, act=act)
        self.conv2 = ConvNormAct(width, width, 3, dilation=dilation, act=act)
        self.conv3 = ConvNormAct(width, out_chans, 1, stride=stride, act="none")
        self.attention = ATTENTIONS[attention](out_chans, se_ratio, se_divisor)
        self.set_tail(
            create_shortcut(shortcut, in_chans, out_chans, stride),
            drop_path=drop_path,
            drop_block=drop_block,
            drop_block_size=drop_block_size,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        return self.drop_path(self.branch(self.norm(x))) + self.shortcut(x)
