"""The attention block of EdgeNeXt, 2206.10589; with low-rank linear layers, EdgeFace, 2307.01838."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import (
    ActivationName,
    CrossCovarianceAttention,
    FourierPositions,
    LayerScale,
    StochasticDepth,
    create_activation,
    create_linear,
)


@register_block("split_transpose_attention")
class SplitTransposeAttention(nn.Module):
    """A cascade of 3×3 depthwise convolutions on groups of channels, attention between channels, pointwise ×4; + shortcut.

    Each group is added to the convolved group before it and then convolved; the last group is not changed (Res2Net, 1904.01169).

    Args:
        in_chans: input channels; equal to ``out_chans``.
        out_chans: output channels.
        scales: groups of channels, the last may be smaller.
        heads: heads of the attention.
        positions: whether an encoding of the position is added before the attention.
        mlp_ratio: inner width over ``out_chans``.
        act: activation between the pointwise layers.
        layer_scale: initial value of both layer scales.
        rank_ratio: rank of the linear layers over their width; None for full rank.
        drop_path: probability of dropping the branch.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        scales: int = 2,
        heads: int = 8,
        positions: bool = False,
        mlp_ratio: int = 4,
        act: ActivationName = "gelu",
        layer_scale: float = 1e-6,
        rank_ratio: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if in_chans != out_chans:
            raise ValueError(f"a split transpose attention block keeps its width, got {in_chans} -> {out_chans}")
        width = -(-in_chans // scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1, groups=width) for _ in range(max(1, scales - 1))
        )
        self.positions = FourierPositions(in_chans) if positions else None
        self.norm1 = nn.LayerNorm(in_chans, eps=1e-6)
        self.attention = CrossCovarianceAttention(in_chans, heads, rank_ratio=rank_ratio)
        self.scale1 = LayerScale(in_chans, layer_scale)
        self.norm2 = nn.LayerNorm(in_chans, eps=1e-6)
        self.pointwise1 = create_linear(in_chans, mlp_ratio * in_chans, rank_ratio=rank_ratio)
        self.act = create_activation(act, mlp_ratio * in_chans)
        self.pointwise2 = create_linear(mlp_ratio * in_chans, in_chans, rank_ratio=rank_ratio)
        self.scale2 = LayerScale(in_chans, layer_scale)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        branch = self._cascade(x)
        if self.positions is not None:
            branch = branch + self.positions(branch)
        branch = branch.permute(0, 2, 3, 1)
        branch = branch + self.drop_path(self.scale1(self.attention(self.norm1(branch))))
        branch = self.scale2(self.pointwise2(self.act(self.pointwise1(self.norm2(branch)))))
        return x + self.drop_path(branch.permute(0, 3, 1, 2))

    def _cascade(self, x: Tensor) -> Tensor:
        groups = x.chunk(len(self.convs) + 1, dim=1)
        convolved = [self.convs[0](groups[0])]
        for conv, group in zip(list(self.convs)[1:], groups[1:-1], strict=True):
            convolved.append(conv(convolved[-1] + group))
        return torch.cat((*convolved, groups[-1]), dim=1)
