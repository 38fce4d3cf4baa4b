"""Efficient channel attention: gates from a one-dimensional convolution over the channels."""

from __future__ import annotations

import math

from torch import Tensor, nn


def eca_kernel_size(channels: int, gamma: float = 2.0, beta: float = 1.0) -> int:
    """The kernel size for ``channels``: the integer part of ``(log2(channels) + beta) / gamma``, plus one if even, at least 3.

    ECA-Net, 1910.03151, equation 12.
    """
    whole = int(abs(math.log2(channels) + beta) / gamma)
    return max(whole if whole % 2 else whole + 1, 3)


class EfficientChannelAttention(nn.Module):
    """Scale every channel by a gate computed from the means of the channels next to it. ECA-Net, 1910.03151.

    Args:
        channels: channels of the map; they determine the kernel size (:func:`eca_kernel_size`).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = eca_kernel_size(channels)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        squeezed = x.mean(dim=(2, 3)).unsqueeze(1)
        return x * self.conv(squeezed).sigmoid().transpose(1, 2).unsqueeze(-1)
