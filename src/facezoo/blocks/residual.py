"""Post-activation residual blocks: BasicBlock and Bottleneck. Deep Residual Learning, 1512.03385."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.blocks.attention import ATTENTIONS, AttentionName
from facezoo.layers import ActivationName, ConvNormAct, DropBlock2d, StochasticDepth, create_activation
from facezoo.registry import unknown_name_message

SHORTCUTS = ("projection", "pooled", "subsample")
ShortcutName: TypeAlias = Annotated[str, SHORTCUTS]


def projection_shortcut(in_chans: int, out_chans: int, stride: int) -> nn.Module:
    """The identity if the shapes allow it, else a strided 1×1 convolution with batch norm (option B of the paper)."""
    if stride == 1 and in_chans == out_chans:
        return nn.Identity()
    return ConvNormAct(in_chans, out_chans, 1, stride=stride, act="none")


class PooledProjection(nn.Sequential):
    """The mean over each ``stride``×``stride`` cell, then a 1×1 convolution with batch norm, so that no activation is ignored.

    ResNet-D, 1812.01187, section 4.2. An odd last row or column is a separate, smaller cell.
    """

    def __init__(self, in_chans: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True) if stride > 1 else nn.Identity()
        self.project = ConvNormAct(in_chans, out_chans, 1, act="none")


def create_shortcut(name: str, in_chans: int, out_chans: int, stride: int) -> nn.Module:
    """The shortcut called ``name``; the identity if the shapes allow it.

    ``"projection"``: a strided 1×1 convolution (:func:`projection_shortcut`). ``"pooled"``: mean pooling first
    (:class:`PooledProjection`). ``"subsample"``: a projection if the widths differ, else every ``stride``-th position.

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


class Residual(nn.Module):
    """Base class of residual blocks: DropBlock after each convolution, attention, drop path, and the sum with a shortcut.

    A block creates its layers in the order of execution: convolutions called ``conv1``, ``conv2``, …, then :meth:`set_tail`.
    """

    attention: nn.Module

    def set_tail(
        self,
        shortcut: nn.Module,
        *,
        drop_path: float,
        drop_block: float,
        drop_block_size: int,
        act: nn.Module | None = None,
    ) -> None:
        """Create the shortcut, both drops, and the activation after the sum (None for none)."""
        self.convs = tuple(name for name, part in self.named_children() if isinstance(part, ConvNormAct))
        self.shortcut = shortcut
        self.drop_block = DropBlock2d(drop_block, drop_block_size) if drop_block else nn.Identity()
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()
        if act is not None:
            self.act = act

    @property
    def last_norm(self) -> nn.Module:
        """The last norm of the residual branch; an initialization may set its weight to zero."""
        return getattr(self, self.convs[-1]).norm

    def branch(self, x: Tensor) -> Tensor:
        """The residual branch, without drop path."""
        for name in self.convs:
            x = self.drop_block(getattr(self, name)(x))
        return self.attention(x)


@register_block("basic")
class BasicBlock(Residual):
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
        act: ActivationName = "relu",
        attention: AttentionName = "none",
        se_ratio: float = 1 / 16,
        se_divisor: int = 8,
        shortcut: ShortcutName = "projection",
        drop_path: float = 0.0,
        drop_block: float = 0.0,
        drop_block_size: int = 7,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_chans, out_chans, 3, stride=stride, dilation=dilation, act=act)
        self.conv2 = ConvNormAct(out_chans, out_chans, 3, dilation=dilation, act="none")
        self.attention = ATTENTIONS[attention](out_chans, se_ratio, se_divisor)
        self.set_tail(
            create_shortcut(shortcut, in_chans, out_chans, stride),
            drop_path=drop_path,
            drop_block=drop_block,
            drop_block_size=drop_block_size,
            act=create_activation(act, out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        return self.act(self.drop_path(self.branch(x)) + self.shortcut(x))


@register_block("bottleneck")
class Bottleneck(Residual):
    """1×1 reduce, 3×3, 1×1 expand beside a shortcut; the stride is in the 3×3, as in current ResNets, or in the first 1×1.

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
        stride_first: whether the first 1×1 convolution has the stride, as in the paper (1512.03385).
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
        act: ActivationName = "relu",
        attention: AttentionName = "none",
        se_ratio: float = 1 / 16,
        se_divisor: int = 8,
        shortcut: ShortcutName = "projection",
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
        self.set_tail(
            create_shortcut(shortcut, in_chans, out_chans, stride),
            drop_path=drop_path,
            drop_block=drop_block,
            drop_block_size=drop_block_size,
            act=create_activation(act, out_chans),
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        return self.act(self.drop_path(self.branch(x)) + self.shortcut(x))
