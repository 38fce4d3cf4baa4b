"""Channel shuffle: mix groups of channels without arithmetic."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of ``groups`` groups: one channel of each group after the other. ShuffleNet, 1707.01083.

    Args:
        x: map, ``(N, C, H, W)``.
        groups: number of groups; it divides C.

    Returns:
        A tensor of the shape of ``x``: channel ``i * groups + g`` is channel ``g * (C // groups) + i`` of ``x``.

    Raises:
        ValueError: ``groups`` does not divide C.
    """
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise ValueError(f"{channels} channels cannot be divided into {groups} groups")
    return rearrange(x, "n (group channel) h w -> n (channel group) h w", group=groups)
