"""The blocks of Inception-ResNet-v1, 1602.07261, in FaceNet's widths.

A branch is a tuple of convolutions, each a pair of width and kernel (a side, or height and width).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, ConvNormAct, StochasticDepth, create_activation

Branch = Sequence[tuple[int, "int | tuple[int, int]"]]
_EPS = 1e-3  # eps of every batch norm, as in the networks' first implementation


def _branch(in_chans: int, branch: Branch, *, dilation: int, stride: int = 1, padded: bool = True) -> nn.Sequential:
    """The convolutions of ``branch``; the last has the ``stride``, and no padding unless ``padded``."""
    units = []
    for index, (width, kernel) in enumerate(branch):
        last = index == len(branch) - 1
        units.append(
            ConvNormAct(
                in_chans,
                width,
                kernel,
                stride=stride if last else 1,
                dilation=dilation,
                norm_eps=_EPS,
                padded=padded or not last,
            )
        )
        in_chans = width
    return nn.Sequential(*units)


@register_block("inception_residual")
class InceptionResidual(nn.Module):
    """Parallel branches, a 1×1 convolution of their concatenation, times ``scale``, + shortcut, activation.

    Args:
        in_chans: input channels; equal to ``out_chans``, since the shortcut is the identity.
        out_chans: output channels.
        branches: the branches.
        scale: factor of the residual branch.
        dilation: dilation of the spatial convolutions.
        act: activation after the sum.
        drop_path: probability of dropping the branches.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        branches: Sequence[Branch],
        scale: float = 1.0,
        dilation: int = 1,
        act: ActivationName = "relu",
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if in_chans != out_chans:
            raise ValueError(
                f"this block keeps its width, got {in_chans} -> {out_chans}; give the stage transition='inception_reduction'"
            )
        self.branches = nn.ModuleList(_branch(in_chans, branch, dilation=dilation) for branch in branches)
        self.project = nn.Conv2d(sum(branch[-1][0] for branch in branches), out_chans, 1)
        self.scale = scale
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()
        self.act = create_activation(act, out_chans)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        branch = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return self.act(x + self.drop_path(self.scale * branch))


@register_block("inception_reduction")
class InceptionReduction(nn.Module):
    """Branches that end in a strided convolution, in parallel to a 3×3 max-pool.

    Args:
        in_chans: input channels.
        out_chans: output channels: those of the branches and ``in_chans`` together.
        branches: the branches.
        stride: step of the last convolutions and of the max-pool.
        dilation: dilation of the spatial convolutions.
        padded: whether the last convolutions and the max-pool are padded.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        branches: Sequence[Branch],
        stride: int = 1,
        dilation: int = 1,
        padded: bool = True,
    ) -> None:
        super().__init__()
        together = in_chans + sum(branch[-1][0] for branch in branches)
        if together != out_chans:
            raise ValueError(f"the branches and {in_chans} input channels make {together} channels, not {out_chans}")
        self.branches = nn.ModuleList(
            _branch(in_chans, branch, dilation=dilation, stride=stride, padded=padded) for branch in branches
        )
        # a dilated max-pool does not allow enough padding
        self.margin = dilation if padded and dilation > 1 else 0
        self.pool = nn.MaxPool2d(3, stride, padding=1 if padded and dilation == 1 else 0, dilation=dilation)
        self.stride, self.dilation, self.padded = stride, dilation, padded

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output map for an input map of ``size``."""
        lost = 0 if self.padded else 2 * self.dilation
        return -(-(size[0] - lost) // self.stride), -(-(size[1] - lost) // self.stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))``; smaller if not padded."""
        pooled = self.pool(F.pad(x, (self.margin,) * 4, value=-torch.inf) if self.margin else x)
        return torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1)


@register_block("inception_stem")
class InceptionStem(nn.Module):
    """Six convolutions, with a max-pool after the third.

    Args:
        in_chans: channels of the image.
        out_chans: output channels.
        stride: 8 as published: the first and the last convolution and the max-pool have stride 2; with 4 the last has none.
        padded: whether all are padded; as published only the third is.
    """

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 8, padded: bool = True) -> None:
        super().__init__()
        if stride not in (4, 8):
            raise ValueError(f"the stem's stride is 4 or 8, got {stride}")
        self.padded, self.last_stride = padded, stride // 4
        self.conv1 = ConvNormAct(in_chans, 32, 3, stride=2, norm_eps=_EPS, padded=padded)
        self.conv2 = ConvNormAct(32, 32, 3, norm_eps=_EPS, padded=padded)
        self.conv3 = ConvNormAct(32, 64, 3, norm_eps=_EPS)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1 if padded else 0)
        self.conv4 = ConvNormAct(64, 80, 1, norm_eps=_EPS)
        self.conv5 = ConvNormAct(80, 192, 3, norm_eps=_EPS, padded=padded)
        self.conv6 = ConvNormAct(192, out_chans, 3, stride=self.last_stride, norm_eps=_EPS, padded=padded)

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the output map for images of ``size``."""
        lost = 0 if self.padded else 2
        for stride in (2, 1, 2, 1, self.last_stride):
            size = -(-(size[0] - lost) // stride), -(-(size[1] - lost) // stride)
        return size

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W)`` images to a ``(N, out_chans, *map_size)`` map."""
        x = self.pool(self.conv3(self.conv2(self.conv1(x))))
        return self.conv6(self.conv5(self.conv4(x)))
