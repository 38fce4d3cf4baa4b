"""Layer scale: one learned factor per channel of a residual branch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerScale(nn.Module):
    """Multiply the last axis of a ``(..., C)`` tensor by ``gamma``, channel by channel. CaiT, 2103.17239."""

    def __init__(self, channels: int, init_value: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., C) -> (..., C)``."""
        return x * self.gamma


class LayerScale2d(nn.Module):
    """Multiply channel c of a ``(N, C, H, W)`` map by ``gamma[c]``. CaiT, 2103.17239; ConvNeXt starts at 1e-6."""

    def __init__(self, channels: int, init_value: float = 1e-6) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((channels,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        return x * self.gamma.view(-1, 1, 1)
