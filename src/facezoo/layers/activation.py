"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeAlias

from torch import Tensor, nn

from facezoo.ops.max_feature_map import max_feature_map
from facezoo.registry import Registry


class MaxFeatureMap(nn.Module):
    """:func:`facezoo.ops.max_feature_map`: half as many channels come out."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 2 C, ...) -> (N, C, ...)``."""
        return max_feature_map(x)


# An activation is a callable `(channels) -> module`.
ACTIVATIONS: Registry[Callable[[int], nn.Module]] = Registry(
    "activation", listed_by="facezoo.layers.ACTIVATIONS.list()"
)
register_activation = ACTIVATIONS.register
ActivationName: TypeAlias = Annotated[str, ACTIVATIONS]
"""The name of an activation; options of this type are checked when a network is declared."""

register_activation("relu", lambda channels: nn.ReLU(inplace=True))
register_activation("relu6", lambda channels: nn.ReLU6(inplace=True))
register_activation("prelu", nn.PReLU)
register_activation("leaky_relu", lambda channels: nn.LeakyReLU(0.01, inplace=True))
register_activation("gelu", lambda channels: nn.GELU())
register_activation("silu", lambda channels: nn.SiLU(inplace=True))
register_activation("hardsigmoid", lambda channels: nn.Hardsigmoid(inplace=True))
register_activation("hardswish", lambda channels: nn.Hardswish(inplace=True))
register_activation("sigmoid", lambda channels: nn.Sigmoid())
register_activation("mfm", lambda channels: MaxFeatureMap())
register_activation("none", nn.Identity)


def create_activation(name: str, channels: int) -> nn.Module:
    """The activation called ``name`` for maps of ``channels`` channels (PReLU learns one slope per channel).

    Raises:
        UnknownNameError: no such activation.
    """
    return ACTIVATIONS[name](channels)
