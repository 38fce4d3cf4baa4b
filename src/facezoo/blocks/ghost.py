"""Ghost modules and the Ghost bottleneck. GhostNet, 1911.11907; with PReLU, GhostFaceNets (10.1109/ACCESS.2023.3266068)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, DepthwiseConv, PointwiseConv, SqueezeExcite, StochasticDepth


class GhostModule(nn.Module):
    """Half of the channels from a 1×1 convolution, the other half from a cheap 3×3 depthwise convolution of those.

    Args:
        in_chans: input channels.
        out_chans: output channels, even.
        act: activation of both halves.
    """

    def __init__(self, in_chans: int, out_chans: int, *, act: ActivationName = "relu") -> None:
        super().__init__()
        if out_chans % 2:
            raise ValueError(f"a Ghost module has an even number of output channels, got {out_chans}")
        self.primary = PointwiseConv(in_chans, out_chans // 2, act=act)
        self.cheap = DepthwiseConv(out_chans // 2, 3, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H, W)``."""
        primary = self.primary(x)
        return torch.cat((primary, self.cheap(primary)), dim=1)


@register_block("ghost")
class GhostBottleneck(nn.Module):
    """Ghost module to the inner width, depthwise convolution if strided, attention, linear Ghost module, + shortcut.

    If stride or width change, the shortcut is a depthwise and a 1×1 convolution. A block without stride has no depthwise
    convolution, so an ``output_stride`` below the published one is not possible.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        inner_chans: width between the two Ghost modules.
        kernel_size: side of the strided depthwise kernel and of the shortcut's.
        squeeze_chans: width of a squeeze-and-excitation (with a hard sigmoid) between the modules; 0 for none.
        stride: step of the block.
        act: activation of the first Ghost module and of the squeeze.
        drop_path: probability of dropping the branch.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        inner_chans: int,
        kernel_size: int = 3,
        squeeze_chans: int = 0,
        stride: int = 1,
        act: ActivationName = "relu",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.expand = GhostModule(in_chans, inner_chans, act=act)
        self.depthwise: nn.Module = nn.Identity()
        if stride > 1:
            self.depthwise = DepthwiseConv(inner_chans, kernel_size, stride=stride, act="none")
        self.attention: nn.Module = nn.Identity()
        if squeeze_chans:
            self.attention = SqueezeExcite(inner_chans, width=squeeze_chans, act=act, gate="hardsigmoid")
        self.project = GhostModule(inner_chans, out_chans, act="none")
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_chans != out_chans:
            self.shortcut = nn.Sequential(
                DepthwiseConv(in_chans, kernel_size, stride=stride, act="none"),
                PointwiseConv(in_chans, out_chans, act="none"),
            )
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``."""
        branch = self.project(self.attention(self.depthwise(self.expand(x))))
        return self.drop_path(branch) + self.shortcut(x)
