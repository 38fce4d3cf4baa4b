"""Squeeze-and-excitation: channel attention."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.layers.activation import create_activation
from facezoo.layers.widths import round_channels


def squeeze_width(channels: int, ratio: float = 1 / 16, divisor: int = 8) -> int:
    """Width of the bottleneck: ``channels * ratio`` rounded to a multiple of ``divisor``, at least one ``divisor``.

    timm rounds to multiples of 8, which changes only the 18- and 34-layer networks; Hu et al. do not round (``divisor=1``). If
    rounding would reduce a value by more than a tenth, it is rounded up.
    """
    return round_channels(channels * ratio, divisor)


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate computed from the mean of all channels. Squeeze-and-Excitation, 1709.01507.

    Args:
        channels: channels of the map.
        ratio: width of the bottleneck divided by ``channels``.
        divisor: the bottleneck's width is a multiple of it; 1 is the paper's.
        width: the bottleneck's width, in place of ``ratio`` and ``divisor``.
        act: activation of the bottleneck.
        gate: ``"sigmoid"``, or ``"hardsigmoid"`` (MobileNetV3).
        bias: whether the two layers have a bias.
    """

    def __init__(
        self,
        channels: int,
        *,
        ratio: float = 1 / 16,
        divisor: int = 8,
        width: int | None = None,
        act: str = "relu",
        gate: str = "sigmoid",
        bias: bool = True,
    ) -> None:
        super().__init__()
        width = squeeze_width(channels, ratio, divisor) if width is None else width
        self.fc1 = nn.Conv2d(channels, width, 1, bias=bias)
        self.act = create_activation(act, width)
        self.fc2 = nn.Conv2d(width, channels, 1, bias=bias)
        self.gate = create_activation(gate, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        return x * self.gate(self.fc2(self.act(self.fc1(squeezed))))
