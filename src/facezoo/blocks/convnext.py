"""The ConvNeXt block, its stem and its transition between stages. A ConvNet for the 2020s, 2201.03545; V2, 2301.00808."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import (
    ActivationName,
    GlobalResponseNorm,
    LayerNorm2d,
    LayerScale2d,
    StochasticDepth,
    create_activation,
    create_linear,
)


@register_block("convnext")
class ConvNeXtBlock(nn.Module):
    """7×7 depthwise, LayerNorm, pointwise ×4, GELU, pointwise, layer scale, + shortcut. V2: GRN after the GELU, no layer scale.

    The pointwise convolutions are linear layers over channels-last positions, as in the paper's code.

    Args:
        in_chans: input channels; equal to ``out_chans``, since the shortcut is the identity.
        out_chans: output channels.
        kernel_size: side of the depthwise kernel.
        dilation: dilation of the depthwise kernel.
        mlp_ratio: inner width over ``out_chans``.
        act: activation between the linear layers.
        layer_scale: initial value of the layer scale; None for none.
        rank_ratio: rank of the linear layers over their width (EdgeFace, 2307.01838); None for full rank.
        response_norm: whether global response normalization follows the activation.
        drop_path: probability of dropping the branch.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        kernel_size: int = 7,
        dilation: int = 1,
        mlp_ratio: int = 4,
        act: ActivationName = "gelu",
        layer_scale: float | None = 1e-6,
        rank_ratio: float | None = None,
        response_norm: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if in_chans != out_chans:
            raise ValueError(
                f"a ConvNeXt block keeps its width, got {in_chans} -> {out_chans}; give the stage transition='patch_merge'"
            )
        self.depthwise = nn.Conv2d(
            in_chans,
            in_chans,
            kernel_size,
            padding=dilation * (kernel_size - 1) // 2,
            dilation=dilation,
            groups=in_chans,
        )
        self.norm = nn.LayerNorm(in_chans, eps=1e-6)
        self.pointwise1 = create_linear(in_chans, mlp_ratio * in_chans, rank_ratio=rank_ratio)
        self.act = create_activation(act, mlp_ratio * in_chans)
        self.response_norm = GlobalResponseNorm(mlp_ratio * in_chans) if response_norm else nn.Identity()
        self.pointwise2 = create_linear(mlp_ratio * in_chans, in_chans, rank_ratio=rank_ratio)
        self.scale = nn.Identity() if layer_scale is None else LayerScale2d(in_chans, layer_scale)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        branch = self.depthwise(x).permute(0, 2, 3, 1)
        branch = self.pointwise2(self.response_norm(self.act(self.pointwise1(self.norm(branch)))))
        return x + self.drop_path(self.scale(branch.permute(0, 3, 1, 2)))


@register_block("patch_merge")
class PatchMerge(nn.Module):
    """LayerNorm, then a 2×2 convolution of stride 2: ConvNeXt's transition between stages.

    With ``stride=1`` (an ``output_stride`` below the published one) the same 2×2 kernel is applied at every position, dilated,
    with padding at the lower right, so that the weights stay compatible.
    """

    rounds_down = True  # an odd last row or column is ignored

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.norm = LayerNorm2d(in_chans)
        self.conv = nn.Conv2d(in_chans, out_chans, 2, stride=stride, dilation=dilation)
        self.pad = 0 if stride == 2 else dilation

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H // stride, W // stride)``."""
        x = self.norm(x)
        return self.conv(F.pad(x, (0, self.pad, 0, self.pad)) if self.pad else x)


@register_block("patch_stem")
class PatchStem(nn.Module):
    """Non-overlapping patches to vectors: a ``stride``×``stride`` convolution, then LayerNorm (of eps ``norm_eps``)."""

    rounds_down = True

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 4, norm_eps: float = 1e-6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, stride, stride=stride)
        self.norm = LayerNorm2d(out_chans, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H // stride, W // stride)``."""
        return self.norm(self.conv(x))
