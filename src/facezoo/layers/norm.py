"""Normalization layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.ops.normalization import global_response_norm
from facezoo.registry import Registry


class LayerNorm2d(nn.LayerNorm):
    """Layer normalization over the channels of a ``(N, C, H, W)`` map. Keys and shapes are those of ``nn.LayerNorm``.

    The map is permuted to channels-last and back, which is free if the memory format is already channels-last.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``(N, C, H, W)`` over C at every position."""
        normed = F.layer_norm(x.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps)
        return normed.permute(0, 3, 1, 2)


class GlobalResponseNorm(nn.Module):
    """:func:`facezoo.ops.global_response_norm` with learned factors and offsets, initially 0: it starts as the identity."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C) -> (N, H, W, C)``, channels last."""
        return global_response_norm(x, self.weight, self.bias, eps=self.eps)


# A norm is a callable `(channels, *, eps=its own default) -> module`; NORMS are for maps, VECTOR_NORMS for vectors.
NORMS: Registry[Callable[..., nn.Module]] = Registry("norm", listed_by="facezoo.layers.NORMS.list()")
VECTOR_NORMS: Registry[Callable[..., nn.Module]] = Registry(
    "norm of vectors", listed_by="facezoo.layers.VECTOR_NORMS.list()"
)
register_norm = NORMS.register
register_vector_norm = VECTOR_NORMS.register
NormName: TypeAlias = Annotated[str, NORMS]
VectorNormName: TypeAlias = Annotated[str, VECTOR_NORMS]

register_norm("batch", nn.BatchNorm2d)
register_norm("layer", LayerNorm2d)
register_norm("none", nn.Identity)
register_vector_norm("batch", nn.BatchNorm1d)
register_vector_norm("batch_without_affine", functools.partial(nn.BatchNorm1d, affine=False))
register_vector_norm("layer", nn.LayerNorm)
register_vector_norm("none", nn.Identity)


@register_vector_norm("batch_frozen_scale")
def batch_norm_frozen_scale(width: int, eps: float = 1e-5) -> nn.BatchNorm1d:
    """Batch norm with a fixed weight of 1: the margin head sets the scale of the embedding."""
    norm = nn.BatchNorm1d(width, eps=eps)
    norm.weight.requires_grad_(False)
    return norm


def create_norm2d(name: str, channels: int, eps: float | None = None) -> nn.Module:
    """The norm called ``name`` for maps of ``channels`` channels: ``"batch"``, ``"layer"`` (over channels), ``"none"``.

    Args:
        name: name in the registry.
        channels: channels of the map.
        eps: added to the variance; None for the norm's own default.

    Raises:
        UnknownNameError: no such norm.
    """
    return NORMS[name](channels) if eps is None else NORMS[name](channels, eps=eps)
