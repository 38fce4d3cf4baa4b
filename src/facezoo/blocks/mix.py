"""Convolutions of mixed kernel sizes, and the block of MixFaceNets. MixConv, 1907.09595; MixFaceNets, 2107.13046."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, SqueezeExcite, StochasticDepth, create_activation
from facezoo.ops import channel_shuffle


class MixConvNormAct(nn.Module):
    """Groups of channels with separate convolutions, whose results are concatenated; batch norm, activation.

    Args:
        in_chans: input channels; the remainder of the division by the number of groups goes to the first group.
        out_chans: output channels, divided in the same way.
        kernel_sizes: side of the kernel of each group.
        depthwise: one filter per channel instead of a full convolution inside each group.
        stride: step of the kernels.
        act: activation.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_sizes: tuple[int, ...],
        *,
        depthwise: bool = False,
        stride: int = 1,
        act: ActivationName = "relu",
    ) -> None:
        super().__init__()
        self.widths = _split(in_chans, len(kernel_sizes))
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=inputs if depthwise else 1, bias=False)
            for inputs, outputs, side in zip(
                self.widths, _split(out_chans, len(kernel_sizes)), kernel_sizes, strict=True
            )
        )
        self.norm = nn.BatchNorm2d(out_chans)
        self.act = create_activation(act, out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        groups = x.split(self.widths, dim=1)
        mixed = torch.cat([conv(group) for conv, group in zip(self.convs, groups, strict=True)], dim=1)
        return self.act(self.norm(mixed))


@register_block("mix")
class MixBlock(nn.Module):
    """Expand, mixed depthwise kernels of 3×3, 5×5, …, attention, linear project, + shortcut if possible, optional shuffle.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        expansion: inner width over ``in_chans``; with 1 there is no expanding convolution.
        expand_groups: groups of the expanding 1×1 convolution.
        kernels: number of depthwise kernel sizes, from 3×3 upwards.
        project_groups: groups of the projecting 1×1 convolution.
        squeeze_ratio: inner width of a squeeze-and-excitation is ``in_chans // squeeze_ratio``; 0 for none.
        shuffle: whether the channels are shuffled at the end, with two groups (ShuffleMixFaceNet).
        stride: step of the depthwise convolutions.
        act: activation, of the squeeze too.
        drop_path: probability of dropping the branch; a block without a shortcut never drops it.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        expansion: int = 6,
        expand_groups: int = 1,
        kernels: int = 1,
        project_groups: int = 1,
        squeeze_ratio: int = 0,
        shuffle: bool = False,
        stride: int = 1,
        act: ActivationName = "silu",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        inner = expansion * in_chans
        self.expand: nn.Module = nn.Identity()
        if expansion > 1:
            self.expand = MixConvNormAct(in_chans, inner, (1,) * expand_groups, act=act)
        sides = tuple(3 + 2 * index for index in range(kernels))
        self.depthwise = MixConvNormAct(inner, inner, sides, depthwise=True, stride=stride, act=act)
        self.attention: nn.Module = nn.Identity()
        if squeeze_ratio:
            self.attention = SqueezeExcite(inner, width=inner // (expansion * squeeze_ratio), act=act)
        self.project = MixConvNormAct(inner, out_chans, (1,) * project_groups, act="none")
        self.has_shortcut = stride == 1 and in_chans == out_chans
        self.drop_path = StochasticDepth(drop_path) if drop_path and self.has_shortcut else nn.Identity()
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        branch = self.project(self.attention(self.depthwise(self.expand(x))))
        out = x + self.drop_path(branch) if self.has_shortcut else branch
        # the authors' shuffle puts the even channels first and the odd ones after them
        return channel_shuffle(out, out.shape[1] // 2) if self.shuffle else out


def _split(channels: int, parts: int) -> list[int]:
    rest = channels // parts
    return [channels - rest * (parts - 1), *(rest,) * (parts - 1)]
