"""The encoder block of the Vision Transformer, 2010.11929, and its stem."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.blocks._registry import register_block
from facezoo.layers import ActivationName, SelfAttention, StochasticDepth, create_activation


@register_block("transformer")
class TransformerBlock(nn.Module):
    """LayerNorm, self-attention, + shortcut; LayerNorm, linear ×4, activation, linear, + shortcut. For stages of tokens.

    Args:
        in_chans: width of the tokens; equal to ``out_chans``.
        out_chans: the same.
        heads: heads of the attention.
        mlp_ratio: inner width over ``out_chans``.
        qkv_bias: whether queries, keys and values have a bias.
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
        mlp_ratio: int = 4,
        qkv_bias: bool = True,
        act: ActivationName = "gelu",
        norm_eps: float = 1e-6,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if in_chans != out_chans:
            raise ValueError(f"a transformer block keeps its width, got {in_chans} -> {out_chans}")
        self.norm1 = nn.LayerNorm(in_chans, eps=norm_eps)
        self.attention = SelfAttention(in_chans, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(in_chans, eps=norm_eps)
        self.pointwise1 = nn.Linear(in_chans, mlp_ratio * in_chans)
        self.act = create_activation(act, mlp_ratio * in_chans)
        self.pointwise2 = nn.Linear(mlp_ratio * in_chans, in_chans)
        self.drop_path = StochasticDepth(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, L, C) -> (N, L, C)``."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.pointwise2(self.act(self.pointwise1(self.norm2(x)))))


@register_block("token_stem")
class TokenStem(nn.Module):
    """Non-overlapping patches to vectors, plus a learned vector per position.

    Every position has its own weight, so the image must have exactly ``in_size``.

    Args:
        in_chans: channels of the image.
        out_chans: width of the tokens.
        in_size: height and width of the image in pixels; incomplete patches at the lower right are ignored.
        stride: side of a patch in pixels.
    """

    rounds_down = True
    no_weight_decay = ("positions",)

    def __init__(self, in_chans: int, out_chans: int, *, in_size: tuple[int, int], stride: int = 16) -> None:
        super().__init__()
        if min(in_size) < stride:
            raise ValueError(f"an image of {in_size[0]}×{in_size[1]} pixels has no patch of {stride}×{stride}")
        self.in_size = in_size
        self.grid = (in_size[0] // stride, in_size[1] // stride)
        self.conv = nn.Conv2d(in_chans, out_chans, stride, stride=stride)
        self.positions = nn.Parameter(torch.empty(self.grid[0] * self.grid[1], out_chans))  # row by row
        nn.init.normal_(self.positions, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_chans, H, W) -> (N, out_chans, H // stride, W // stride)`` with (H, W) = ``in_size``.

        Raises:
            ValueError: the image has another size.
        """
        if tuple(x.shape[-2:]) != self.in_size:
            raise ValueError(
                f"this network has a weight per position for images of {self.in_size[0]}×{self.in_size[1]} pixels but got "
                f"{x.shape[-2]}×{x.shape[-1]}: create the model with img_size= the size of your images, or resize them"
            )
        return self.conv(x) + self.positions.t().unflatten(1, self.grid)
