"""Normalizations that torch does not have."""

from __future__ import annotations

import torch
from torch import Tensor


def global_response_norm(x: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-6) -> Tensor:
    """Scale every channel by its share of the map's energy. GRN of ConvNeXt V2, 2301.00808, section 3.

    With g the L2 norm of each channel over all positions: ``x + bias + weight * x * g / (mean of g over the channels + eps)``.

    Args:
        x: channels-last map, ``(N, H, W, C)``.
        weight: factor per channel, ``(C,)``.
        bias: offset per channel, ``(C,)``.
        eps: keeps an all-zero map finite.

    Returns:
        A tensor of the shape of ``x``.
    """
    response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    share = response / (response.mean(dim=-1, keepdim=True) + eps)
    return x + torch.addcmul(bias, weight, x * share)
