"""Normalization layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.ops.normalization import global_response_norm


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of a ``(N, C, H, W)`` map. Keys and shapes are those of ``nn.LayerNorm``.

    The map is permuted to channels-last and back: both are free when the memory format is channels-last already.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)`` over C at every position."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """:func:`facezoo.ops.global_response_norm` with learned factors and offsets, both 0 at first: it starts as the identity."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C) -> (N, H, W, C)``, channels last."""
        return global_response_norm(x, self.weight, self.bias, eps=self.eps)


def create_norm2d(name: str, channels: int, eps: float | None = None) -> nn.Module:
    """``"batch"`` (eps 1e-5), ``"layer"`` (over channels, eps 1e-6) or ``"none"`` for maps of ``channels`` channels.

    Raises:
        ValueError: unknown name.
    """
    if name == "batch":
        return nn.BatchNorm2d(channels, eps=1e-5 if eps is None else eps)
    if name == "layer":
        return LayerNorm2d(channels, eps=1e-6 if eps is None else eps)
    if name == "none":
        return nn.Identity()
    raise ValueError(f"unknown norm {name!r}; known: batch, layer, none")
