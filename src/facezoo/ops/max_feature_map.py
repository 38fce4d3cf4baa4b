"""Max-feature-map: the activation that makes two channels compete."""

from __future__ import annotations

import torch
from torch import Tensor


def max_feature_map(x: Tensor) -> Tensor:
    """The larger of channel c and channel c + C, for all c below C: ``(N, 2 C, ...) -> (N, C, ...)``. Light CNN, 1511.02683.

    Raises:
        ValueError: an odd number of channels.
    """
    if x.shape[1] % 2:
        raise ValueError(f"max_feature_map pairs channels and needs an even number of them, got {x.shape[1]}")
    first, second = x.chunk(2, dim=1)
    return torch.maximum(first, second)
