"""The inverted residual with a linear bottleneck. MobileNetV2, 1801.04381; with PReLU, MobileFaceNet, 1804.07573; with
squeeze-and-excitation, MobileNetV3, 1905.02244, and EfficientNet, 1905.11946.
"""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.blocks.attention import AttentionName, create_attention
from facezoo.layers import ActivationName, DepthwiseConv, PointwiseConv, SqueezeExcite, StochasticDepth


@register_block("inverted_residual")
class InvertedResidual(nn.Module):
    """1×1 expand, 3×3 depthwise, squeeze, linear 1×1 project, attention; a shortcut if the stride is 1 and the widths are equal.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        expansion: inner width over ``in_chans``; with 1 there is no expanding convolution.
        inner_chans: the inner width, in place of ``expansion``; there is always an expanding convolution then.
        kernel_size: side of the depthwise kernel.
        squeeze_chans: width of a squeeze-and-excitation after the depthwise convolution; 0 for none.
        squeeze_act: activation of the squeeze-and-excitation.
        squeeze_gate: gate of it, ``"sigmoid"`` or ``"hardsigmoid"``.
        residual: False for no shortcut even if one is possible (MobileFaceNet's transitions between stages, also if a lower
            ``output_stride`` has replaced their stride by dilation).
        stride: step of the depthwise convolution.
        dilation: dilation of the depthwise convolution.
        act: activation after the first two convolutions.
        attention: attention on the projected branch, see :func:`facezoo.blocks.create_attention`.
        se_ratio: width of the squeeze over ``out_chans``.
        se_divisor: the width of the squeeze is a multiple of it.
        drop_path: probability of dropping the branch; a block without a shortcut never drops it.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        expansion: int = 6,
        inner_chans: int | None = None,
        kernel_size: int = 3,
        squeeze_chans: int = 0,
        squeeze_act: ActivationName = "relu",
        squeeze_gate: str = "sigmoid",
        residual: bool = True,
        stride: int = 1,
        dilation: int = 1,
        act: ActivationName = "relu6",
        attention: AttentionName = "none",
        se_ratio: float = 1 / 16,
        se_divisor: int = 8,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        inner = in_chans * expansion if inner_chans is None else inner_chans
        without_expansion = inner_chans is None and expansion == 1
        self.expand = nn.Identity() if without_expansion else PointwiseConv(in_chans, inner, act=act)
        self.depthwise = DepthwiseConv(inner, kernel_size, stride=stride, dilation=dilation, act=act)
        self.squeeze: nn.Module = nn.Identity()
        if squeeze_chans:
            self.squeeze = SqueezeExcite(inner, width=squeeze_chans, act=squeeze_act, gate=squeeze_gate)
        self.project = PointwiseConv(inner, out_chans, act="none")
        self.attention = create_attention(attention, out_chans, ratio=se_ratio, divisor=se_divisor)
        self.has_shortcut = residual and stride == 1 and in_chans == out_chans
        self.drop_path = StochasticDepth(drop_path) if drop_path and self.has_shortcut else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        branch = self.attention(self.project(self.squeeze(self.depthwise(self.expand(x)))))
        return x + self.drop_path(branch) if self.has_shortcut else branch
