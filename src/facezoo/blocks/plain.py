"""Blocks without a shortcut, and the convolutional stem."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, ConvNormAct, NormName


@register_block("conv")
class ConvBlock(ConvNormAct):
    """One convolution, batch norm, activation.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        kernel_size: side of the kernel.
        stride: step of the kernel.
        dilation: dilation of the kernel.
        groups: groups of channels.
        act: activation.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: ActivationName = "relu",
    ) -> None:
        super().__init__(in_chans, out_chans, kernel_size, stride=stride, dilation=dilation, groups=groups, act=act)


@register_block("conv_pool")
class ConvPool(nn.Module):
    """3×3 convolutions with batch norm, then a ``stride``×``stride`` max-pool: a stage of VGG, 1409.1556.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        convs: number of convolutions, each with a bias as in VGG; 0 for only the pooling.
        stride: side and step of the max-pool; 1 for none.
        dilation: dilation of the convolutions.
        act: activation.
    """

    rounds_down = True  # an odd last row or column is ignored

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        convs: int = 2,
        stride: int = 1,
        dilation: int = 1,
        act: ActivationName = "relu",
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            *(
                ConvNormAct(in_chans if index == 0 else out_chans, out_chans, dilation=dilation, act=act, bias=True)
                for index in range(convs)
            )
        )
        self.pool = nn.MaxPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H // stride, W // stride)``."""
        return self.pool(self.convs(x))


@register_block("conv_stem")
class ConvStem(nn.Sequential):
    """A convolution, batch norm, activation, and optionally a 3×3 max-pool with stride 2.

    Args:
        in_chans: channels of the image.
        out_chans: output channels.
        kernel_size: side of the kernel; 7 in the published ResNets, 3 for faces.
        stride: total step of the stem, the max-pool's included.
        max_pool: whether the max-pool follows; the convolution then has the stride ``stride // 2``.
        act: activation.
        norm: norm after the convolution, ``"batch"`` or ``"none"``.
        bias: whether the convolution has a bias; None: only if no norm follows it.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        max_pool: bool = False,
        act: ActivationName = "relu",
        norm: NormName = "batch",
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        stride = stride // 2 if max_pool else stride
        self.conv = ConvNormAct(in_chans, out_chans, kernel_size, stride=stride, norm=norm, act=act, bias=bias)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if max_pool else nn.Identity()


@register_block("deep_stem")
class DeepStem(nn.Sequential):
    """Three 3×3 convolutions, the first with the stride, instead of one large one (ResNet-D, 1812.01187; a max-pool as above).

    Args:
        in_chans: channels of the image.
        out_chans: output channels, those of the third convolution.
        inner_chans: channels of the first two convolutions.
        stride: total step of the stem, the max-pool's included.
        max_pool: whether a 3×3 max-pool of stride 2 follows; the first convolution then has the stride ``stride // 2``.
        act: activation.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        inner_chans: int = 32,
        stride: int = 1,
        max_pool: bool = False,
        act: ActivationName = "relu",
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(in_chans, inner_chans, 3, stride=stride // 2 if max_pool else stride, act=act)
        self.conv2 = ConvNormAct(inner_chans, inner_chans, 3, act=act)
        self.conv3 = ConvNormAct(inner_chans, out_chans, 3, act=act)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if max_pool else nn.Identity()
