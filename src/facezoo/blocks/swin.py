"""The block of the Swin Transformer, 2103.14030, and its transition between stages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, StochasticDepth, WindowAttention, create_activation


@register_block("swin")
class SwinBlock(nn.Module):
    """LayerNorm, attention inside windows, + shortcut; LayerNorm, linear ×4, activation, linear, + shortcut.

    Args:
        in_chans: input channels; equal to ``out_chans``.
        out_chans: output channels.
        heads: heads of the attention.
        window: side of a window in cells.
        shifted: whether the windows are shifted by half their side, as in every second block.
        mlp_ratio: inner width over ``out_chans``.
        act: activation between the linear layers.
        norm_eps: eps of the norms.
        drop_path: probability of dropping each of the two branches.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        *,
        heads: int,
        window: int = 7,
        shifted: bool = False,
        mlp_ratio: int = 4,
        act: ActivationName = "gelu",
        norm_eps: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if in_chans != out_chans:
            raise ValueError(
                f"a Swin block keeps its width, got {in_chans} -> {out_chans}; give the stage transition='swin_merge'"
            )
        self.norm1 = nn.LayerNorm(in_chans, eps=norm_eps)
        self.attention = WindowAttention(in_chans, heads, window=window, shift=window // 2 if shifted else 0)
        self.norm2 = nn.LayerNorm(in_chans, eps=norm_eps)
        self.pointwise1 = nn.Linear(in_chans, mlp_ratio * in_chans)
        self.act = create_activation(act, mlp_ratio * in_chans)
        self.pointwise2 = nn.Linear(mlp_ratio * in_chans, in_chans)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        x = x.permute(0, 2, 3, 1)
        x = x + self.drop_path(self.attention(self.norm1(x)))
        x = x + self.drop_path(self.pointwise2(self.act(self.pointwise1(self.norm2(x)))))
        return x.permute(0, 3, 1, 2)


@register_block("swin_merge")
class SwinMerge(nn.Module):
    """Concatenate the four cells of every 2×2 square, LayerNorm, linear layer without bias. The stride is always 2.

    An odd row or column is padded with zeros.

    Args:
        in_chans: input channels.
        out_chans: output channels.
        stride: 2.
        norm_eps: eps of the norm.
    """

    def __init__(self, in_chans: int, out_chans: int, *, stride: int = 2, norm_eps: float = 1e-5) -> None:
        super().__init__()
        if stride != 2:
            raise ValueError(f"swin_merge halves the map, got stride {stride}: output_stride cannot be lowered here")
        self.norm = nn.LayerNorm(4 * in_chans, eps=norm_eps)
        self.reduce = nn.Linear(4 * in_chans, out_chans, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, ceil(H / 2), ceil(W / 2))``."""
        if x.shape[2] % 2 or x.shape[3] % 2:
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        x = x.permute(0, 2, 3, 1)
        n, height, width, channels = x.shape
        # within a square: first the left column, then the right one
        squares = x.reshape(n, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.reduce(self.norm(squares)).permute(0, 3, 1, 2)
