"""Maps as sequences of tokens, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn


class TokenSequence(nn.Module):
    """Convert a map to a sequence of tokens and back; optionally with a learned class token in front.

    Args:
        width: channels of the map, width of the tokens.
        class_token: whether there is a class token; it has a position of its own.
    """

    def __init__(self, width: int, *, class_token: bool) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(width)) if class_token else None
        self.class_position = nn.Parameter(torch.zeros(width)) if class_token else None
        if self.class_position is not None:
            nn.init.normal_(self.class_position, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, L, C)``, row by row; L is H · W, and one more with a class token."""
        tokens = rearrange(x, "n c h w -> n (h w) c")
        if self.class_token is None or self.class_position is None:
            return tokens
        first = (self.class_token + self.class_position).expand(x.shape[0], 1, -1)
        return torch.cat((first, tokens), dim=1)

    def to_map(self, tokens: Tensor, size: Sequence[int]) -> Tensor:
        """``(N, L, C) -> (N, C, H, W)`` with (H, W) = ``size``: the tokens of the positions."""
        return rearrange(tokens[:, -size[0] * size[1] :], "n (h w) c -> n c h w", h=size[0])
