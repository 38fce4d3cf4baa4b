"""Densely connected layers, 1608.06993."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, create_activation


class DenseLayer(nn.Module):
    """BN, activation, 1×1, BN, activation, 3×3: ``growth`` new channels, concatenated to the input."""

    def __init__(self, in_chans: int, growth: int, *, bottleneck: int, dilation: int, act: ActivationName) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_chans)
        self.act1 = create_activation(act, in_chans)
        self.conv1 = nn.Conv2d(in_chans, bottleneck * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(bottleneck * growth)
        self.act2 = create_activation(act, bottleneck * growth)
        self.conv2 = nn.Conv2d(bottleneck * growth, growth, 3, padding=dilation, dilation=dilation, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, in_chans + growth, H, W)``."""
        new = self.conv2(self.act2(self.norm2(self.conv1(self.act1(self.norm1(x))))))
        return torch.cat([x, new], dim=1)


class DenseTransition(nn.Module):
    """BN, activation, 1×1 to fewer channels, the mean of each cell of ``stride``×``stride``."""

    def __init__(self, in_chans: int, out_chans: int, *, stride: int, act: ActivationName) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_chans)
        self.act = create_activation(act, in_chans)
        self.conv = nn.Conv2d(in_chans, out_chans, 1, bias=False)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H // stride, W // stride)``."""
        return self.pool(self.conv(self.act(self.norm(x))))


@register_block("dense")
class DenseBlock(nn.Module):
    """A dense block: ``layers`` layers, each with the outputs of all earlier layers as input; preceded by a transition if needed.

    Args:
        in_chans: input channels.
        out_chans: output channels; ``layers * growth`` of them are new, the others come from the input. If ``in_chans`` differs
            from that number, or the stride is not 1, a transition is added.
        layers: number of layers.
        growth: new channels per layer.
        bottleneck: width of a layer's 1×1 convolution over ``growth``.
        stride: side and step of the transition's mean pooling.
        dilation: dilation of the 3×3 convolutions.
        act: activation.
    """

    rounds_down = True  # an odd last row or column is ignored

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        layers: int,
        growth: int = 32,
        bottleneck: int = 4,
        stride: int = 1,
        dilation: int = 1,
        act: ActivationName = "relu",
    ) -> None:
        super().__init__()
        entering = out_chans - layers * growth
        if entering < 1:
            raise ValueError(f"{layers} layers of {growth} new channels leave none of {out_chans} for the input")
        self.transition = (
            nn.Identity()
            if entering == in_chans and stride == 1
            else DenseTransition(in_chans, entering, stride=stride, act=act)
        )
        self.layers = nn.Sequential(
            *(
                DenseLayer(entering + index * growth, growth, bottleneck=bottleneck, dilation=dilation, act=act)
                for index in range(layers)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H // stride, W // stride)``."""
        return self.layers(self.transition(x))
