"""Channel attention inside residual blocks, by name."""

from __future__ import annotations

from torch import nn

from facezoo.layers import SqueezeExcite


def create_attention(name: str, channels: int, *, ratio: float = 1 / 16, divisor: int = 8) -> nn.Module:
    """``"none"`` or ``"se"`` (squeeze-and-excitation of width ``channels * ratio``, a multiple of ``divisor``).

    Raises:
        ValueError: unknown name.
    """
    if name == "none":
        return nn.Identity()
    if name == "se":
        return SqueezeExcite(channels, ratio=ratio, divisor=divisor)
    raise ValueError(f"unknown attention {name!r}; known: none, se")
