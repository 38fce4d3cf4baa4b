"""Post-activation residual blocks: BasicBlock and Bottleneck. Deep Residual Learning, 1512.03385."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.blocks.attention import ATTENTIONS
from facezoo.layers import ConvNormAct, DropBlock2d, StochasticDepth, create_activation
from facezoo.registry import unknown_name_message

SHORTCUTS = ("projection", "pooled", "subsample")


def projection_shortcut(in_chans: int, out_chans: int, stride: int) -> nn.Module:
    """The identity where the shapes allow it, else a strided 1×1 convolution with batch norm (option B of the paper)."""
    if stride == 1 and in_chans == out_chans:
        return nn.Identity()
    return ConvNormAct(in_chans, out_chans, 1, stride=stride, act="none")


class PooledProjection(nn.Sequential):
    """The mean over each cell of ``stride``×``stride``, then a 1×1 convolution with batch norm: no activation goes unseen.

    ResNet-D, 1812.01187, section 4.2. A last odd row or column is a smaller cell of its own.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.project = ConvNormAct(in_chans, out_chans, 1, act="none")


def create_shortcut(name: str, in_chans: int, out_chans: int, stride: int) -> nn.Module:
    """The shortcut called ``name``; where the shapes allow it, it is the identity.

    ``"projection"``: a strided 1×1 convolution (:func:`projection_shortcut`). ``"pooled"``: the mean of each cell first
    (:class:`PooledProjection`). ``"subsample"``: a projection where the widths differ, else every ``stride``-th position as it is.

    Raises:
        ValueError: unknown name.
    """
    if name not in SHORTCUTS:
        raise ValueError(unknown_name_message("shortcut", name, SHORTCUTS))
    if name == "pooled" and (stride != 1 or in_chans != out_chans):
        return PooledProjection(in_chans, out_chans, stride)
    if name == "subsample" and stride != 1 and in_chans == out_chans:
        return nn.MaxPool2d(1, stride)
    return projection_shortcut(in_chans, out_chans, stride)


@register_block("basic")
class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut: conv-BN-act, conv-BN, attention, + shortcut, act.

    Args:
        in_chans: input channels.
        out_chans: output channels, also those of the first convolution.
        stride: step of the first convolution.
        dilation: dilation of both convolutions.
        act: activation.
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
        stride: int = 1,
        dilation: int = 1,
        act: str = "relu",
        attention: str = "none",
        se_ratio: float = 1 / 16,
        se_divisor: int = 8,
        shortcut: str = "projection",
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_chans, out_chans, 3, stride=stride, dilation=dilation, act=act)
        self.conv2 = ConvNormAct(out_chans, out_chans, 3, dilation=dilation, act="none")
        self.attention = ATTENTIONS[attention](out_chans, se_ratio, se_divisor)
        self.shortcut = create_shortcut(shortcut, in_chans, out_chans, stride)
        self.drop_block = DropBlock2d(drop_block, drop_block_size) if drop_block else nn.Identity()
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()
        self.act = create_activation(act, out_chans)

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the residual branch; an initialization may start it at zero."""
        return self.conv2.norm

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        branch = self.drop_block(self.conv1(x))
        branch = self.attention(self.drop_block(self.conv2(branch)))
        return self.act(self.drop_path(branch) + self.shortcut(x))


@register_block("bottleneck")
class Bottleneck(nn.Module):
    """1×1 reduce, 3×3, 1×1 expand beside a shortcut; the stride is in the 3×3, as in today's ResNets, or in the first 1×1.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        expansion: ``out_chans`` over the width of the 3×3 convolution.
        groups: groups of the 3×3 convolution.
        stride: step of the 3×3 convolution, or of the first one.
        dilation: dilation of the 3×3 convolution.
        act: activation.
        attention: attention on the residual branch, see :func:`facezoo.blocks.create_attention`.
        se_ratio: width of the squeeze over ``out_chans``.
        se_divisor: the width of the squeeze is a multiple of it.
        shortcut: kind of shortcut where the shapes change, see :func:`facezoo.blocks.create_shortcut`.
        stride_first: the step is that of the first 1×1 convolution, as in the paper (1512.03385).
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
        groups: int = 1,
        stride: int = 1,
        dilation: int = 1,
        act: str = "relu",
        attention: str = "none",
        se_ratio: float = 1 / 16,
        se_divisor: int = 8,
        shortcut: str = "projection",
        stride_first: bool = False,
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ) -> None:
        super().__init__()
        width = out_chans // expansion
        first, second = (stride, 1) if stride_first else (1, stride)
        self.conv1 = ConvNormAct(in_chans, width, 1, stride=first, act=act)
        self.conv2 = ConvNormAct(width, width, 3, stride=second, dilation=dilation, groups=groups, act=act)
        self.conv3 = ConvNormAct(width, out_chans, 1, act="none")
        self.attention = ATTENTIONS[attention](out_chans, se_ratio, se_divisor)
        self.shortcut = create_shortcut(shortcut, in_chans, out_chans, stride)
        self.drop_block = DropBlock2d(drop_block, drop_block_size) if drop_block else nn.Identity()
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()
        self.act = create_activation(act, out_chans)

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the residual branch; an initialization may start it at zero."""
        return self.conv3.norm

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        branch = self.drop_block(self.conv1(x))
        branch = self.drop_block(self.conv2(branch))
        branch = self.attention(self.drop_block(self.conv3(branch)))
        return self.act(self.drop_path(branch) + self.shortcut(x))
