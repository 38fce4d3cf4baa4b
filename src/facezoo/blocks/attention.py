"""Attention inside residual blocks, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

from torch import nn

from facezoo.layers import CBAM, EfficientChannelAttention, SqueezeExcite
from facezoo.registry import Registry

# An attention is a callable `(channels, ratio, divisor) -> module` that keeps the shape of a map.
ATTENTIONS: Registry[Callable[[int, float, int], nn.Module]] = Registry(
    "attention", listed_by="facezoo.blocks.ATTENTIONS.list()"
)
register_attention = ATTENTIONS.register
AttentionName: TypeAlias = Annotated[str, ATTENTIONS]

register_attention("none", nn.Identity)
register_attention("se", lambda channels, ratio, divisor: SqueezeExcite(channels, ratio=ratio, divisor=divisor))
register_attention(
    "se_without_bias",
    lambda channels, ratio, divisor: SqueezeExcite(channels, ratio=ratio, divisor=divisor, bias=False),
)
register_attention("eca", lambda channels, ratio, divisor: EfficientChannelAttention(channels))
register_attention("cbam", lambda channels, ratio, divisor: CBAM(channels, ratio=ratio, divisor=divisor))


def create_attention(name: str, channels: int, *, ratio: float = 1 / 16, divisor: int = 8) -> nn.Module:
    """The attention called ``name`` for maps of ``channels`` channels.

    ``"none"``; ``"se"`` (squeeze-and-excitation) and ``"se_without_bias"``; ``"eca"`` (efficient channel attention); ``"cbam"``
    (channels, then positions). ``ratio`` and ``divisor`` give the inner width of all but ECA, which has none: ``channels *
    ratio``, a multiple of ``divisor``.

    Raises:
        UnknownNameError: no such attention.
    """
    return ATTENTIONS[name](channels, ratio, divisor)
