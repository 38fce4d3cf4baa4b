"""Activations by name."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from torch import Tensor, nn

from facezoo.ops.max_feature_map import max_feature_map
from facezoo.registry import unknown_name_message


class MaxFeatureMap(nn.Module):
    """:func:`facezoo.ops.max_feature_map`: half as many channels come out."""

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 2 C, ...) -> (N, C, ...)``."""
        return max_feature_map(x)


ACTIVATIONS: MappingProxyType[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "relu": lambda channels: nn.ReLU(inplace=True),
        "relu6": lambda channels: nn.ReLU6(inplace=True),
        "prelu": lambda channels: nn.PReLU(channels),
        "leaky_relu": lambda channels: nn.LeakyReLU(0.01, inplace=True),
        "gelu": lambda channels: nn.GELU(),
        "silu": lambda channels: nn.SiLU(inplace=True),
        "hardsigmoid": lambda channels: nn.Hardsigmoid(inplace=True),
        "hardswish": lambda channels: nn.Hardswish(inplace=True),
        "sigmoid": lambda channels: nn.Sigmoid(),
        "mfm": lambda channels: MaxFeatureMap(),
        "none": lambda channels: nn.Identity(),
    }
)


def create_activation(name: str, channels: int) -> nn.Module:
    """The activation called ``name`` for maps of ``channels`` channels (PReLU learns one slope per channel).

    Raises:
        ValueError: unknown name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(unknown_name_message("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name](channels)
