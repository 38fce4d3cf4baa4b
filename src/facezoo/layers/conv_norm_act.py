"""Convolution, normalization, activation: the basic unit of most networks. The parts run in the order of the name."""

from __future__ import annotations

from torch import nn

from facezoo.layers.activation import ACTIVATIONS
from facezoo.layers.norm import NORMS


class ConvNormAct(nn.Sequential):
    """``conv -> norm -> act``: ``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``.

    The padding is ``dilation * (kernel_size - 1) // 2``, so the map shrinks only by the stride. Without padding it also loses the
    kernel's margin.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        kernel_size: side of the kernel in cells, or height and width.
        stride: step of the kernel in cells.
        dilation: distance between the kernel's cells.
        groups: groups of channels; ``in_chans`` makes it depthwise.
        norm: ``"batch"``, ``"layer"`` or ``"none"``.
        act: name of an activation, ``"none"`` for none.
        bias: whether the convolution has a bias; None: only if no norm follows it.
        norm_eps: added to the norm's variance; None for the norm's own default.
        padded: whether the map is padded.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: str = "batch",
        act: str = "relu",
        bias: bool | None = None,
        norm_eps: float | None = None,
        padded: bool = True,
    ) -> None:
        super().__init__()
        height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
        self.conv = nn.Conv2d(
            in_chans,
            out_chans,
            (height, width),
            stride=stride,
            padding=(dilation * (height - 1) // 2, dilation * (width - 1) // 2) if padded else 0,
            dilation=dilation,
            groups=groups,
            bias=norm == "none" if bias is None else bias,
        )
        self.norm = NORMS[norm](out_chans) if norm_eps is None else NORMS[norm](out_chans, eps=norm_eps)
        self.act = ACTIVATIONS[act](out_chans)


class LinearNormAct(nn.Sequential):
    """``linear -> norm -> act``: ``(N, in_features) -> (N, out_features)``. Without a norm the linear layer has a bias.

    Args:
        in_features: input width.
        out_features: output width.
        norm: ``"batch"`` or ``"none"``.
        act: name of an activation, ``"none"`` for none.
    """

    def __init__(self, in_features: int, out_features: int, *, norm: str = "batch", act: str = "relu") -> None:
        super().__init__()
        if norm not in ("batch", "none"):
            raise ValueError(f"unknown norm of a linear layer {norm!r}; known: batch, none")
        self.linear = nn.Linear(in_features, out_features, bias=norm == "none")
        self.norm = nn.BatchNorm1d(out_features) if norm == "batch" else nn.Identity()
        self.act = ACTIVATIONS[act](out_features)


class DepthwiseConv(ConvNormAct):
    """One ``kernel_size`` filter per channel, then norm and activation: the spatial half of a separable convolution."""

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: str = "batch",
        act: str = "relu",
    ) -> None:
        super().__init__(
            channels, channels, kernel_size, stride=stride, dilation=dilation, groups=channels, norm=norm, act=act
        )


class PointwiseConv(ConvNormAct):
    """A 1×1 convolution, then norm and activation: the channel half of a separable convolution."""

    def __init__(
        self, in_chans: int, out_chans: int, *, stride: int = 1, norm: str = "batch", act: str = "relu"
    ) -> None:
        super().__init__(in_chans, out_chans, 1, stride=stride, norm=norm, act=act)
