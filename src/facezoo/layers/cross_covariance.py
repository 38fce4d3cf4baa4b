"""Attention between channels instead of positions, and its positional encoding."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.layers.low_rank import create_linear


class CrossCovarianceAttention(nn.Module):
    """Self-attention over the channels of each head: its cost grows linearly with the number of positions. XCiT, 2106.09681.

    Args:
        channels: width of the tokens.
        heads: number of heads; it divides ``channels``.
        rank_ratio: rank of the two linear layers divided by their width; None for full rank.
    """

    def __init__(self, channels: int, heads: int, *, rank_ratio: float | None = None) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads))
        self.qkv = create_linear(channels, 3 * channels, rank_ratio=rank_ratio)
        self.proj = create_linear(channels, channels, rank_ratio=rank_ratio)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C) -> (N, H, W, C)``, channels last."""
        n, height, width, channels = x.shape
        qkv = self.qkv(x.flatten(1, 2)).view(n, height * width, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 4, 1).unbind(0)  # (N, heads, C / heads, H * W) each
        weights = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        weights = (weights * self.temperature.view(-1, 1, 1)).softmax(dim=-1)
        mixed = (weights @ value).permute(0, 3, 1, 2).reshape(n, height, width, channels)
        return self.proj(mixed)


class FourierPositions(nn.Module):
    """A learned projection of sines and cosines of the position, for any map size. XCiT, 2106.09681, after DETR.

    Args:
        channels: output channels.
        frequencies: sines and cosines per axis.
    """

    def __init__(self, channels: int, frequencies: int = 32) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.projection = nn.Conv2d(2 * frequencies, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The encoding of a ``(N, C, H, W)`` map, ``(1, channels, H, W)``; only size, device and dtype of ``x`` matter."""
        height, width = x.shape[-2:]
        rows = self._axis(height, x.device)[:, None].expand(height, width, self.frequencies)
        columns = self._axis(width, x.device)[None].expand(height, width, self.frequencies)
        waves = torch.cat((rows, columns), dim=-1).permute(2, 0, 1)[None]
        return self.projection(waves.to(self.projection.weight.dtype))

    def _axis(self, length: int, device: torch.device) -> Tensor:
        """``(length, frequencies)``: sines at the even, cosines at the odd places, wavelengths from 2π to 20000π; float32."""
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device) / (length + 1e-6) * (2 * math.pi)
        pairs = torch.arange(self.frequencies, device=device) // 2
        angle = position[:, None] / 10000.0 ** (2 * pairs / self.frequencies)
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)
