"""Global pooling of a feature map to one vector."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_mean_pool(x: Tensor, p: float | Tensor = 3.0, *, eps: float = 1e-6) -> Tensor:
    """Generalized mean ``(mean(max(x, eps)^p))^(1/p)``: ``(N, C, H, W) -> (N, C)``. GeM, 1711.02512.

    ``p = 1`` is the mean, ``p -> infinity`` the maximum. Computed in float32, where the powers of half precision overflow.
    """
    powered = x.float().clamp(min=eps).pow(p).mean(dim=(2, 3))
    return torch.pow(powered, 1.0 / p).to(x.dtype)
