"""Attention inside residual blocks, by name."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from torch import nn

from facezoo.layers import CBAM, EfficientChannelAttention, SqueezeExcite
from facezoo.registry import unknown_name_message

# name -> (channels, ratio, divisor) -> module
ATTENTIONS: MappingProxyType[str, Callable[[int, float, int], nn.Module]] = MappingProxyType(
    {
        "none": lambda channels, ratio, divisor: nn.Identity(),
        "se": lambda channels, ratio, divisor: SqueezeExcite(channels, ratio=ratio, divisor=divisor),
        "se_without_bias": lambda channels, ratio, divisor: SqueezeExcite(
            channels, ratio=ratio, divisor=divisor, bias=False
        ),
        "eca": lambda channels, ratio, divisor: EfficientChannelAttention(channels),
        "cbam": lambda channels, ratio, divisor: CBAM(channels, ratio=ratio, divisor=divisor),
    }
)


def create_attention(name: str, channels: int, *, ratio: float = 1 / 16, divisor: int = 8) -> nn.Module:
    """The attention called ``name`` for maps of ``channels`` channels.

    ``"none"``; ``"se"`` (squeeze-and-excitation) and ``"se_without_bias"``; ``"eca"`` (efficient channel attention); ``"cbam"``
    (channels, then positions). ``ratio`` and ``divisor`` give the inner width of all but ECA, which has none: ``channels *
    ratio``, a multiple of ``divisor``.

    Raises:
        ValueError: unknown name.
    """
    if name not in ATTENTIONS:
        raise ValueError(unknown_name_message("attention", name, ATTENTIONS))
    return ATTENTIONS[name](channels, ratio, divisor)
