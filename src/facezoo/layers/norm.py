"""Normalisation layers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of a ``(N, C, H, W)`` map. Keys and shapes are those of ``nn.LayerNorm``.

    The map is permuted to channels-last and back: both are free when the memory format is channels-last already.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(N, C, H, W)`` over C at every position."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


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
