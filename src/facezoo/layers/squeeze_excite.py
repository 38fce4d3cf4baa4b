"""Squeeze-and-excitation: channel attention."""

from __future__ import annotations

from torch import Tensor, nn


def squeeze_width(channels: int, ratio: float = 1 / 16, divisor: int = 8) -> int:
    """Width of the bottleneck: ``channels * ratio`` rounded to a multiple of ``divisor``, at least one ``divisor``.

    timm rounds to multiples of 8, which changes the 18- and 34-layer nets only; Hu et al. do not (``divisor=1``). A value
    that rounding would lower by more than a tenth is rounded up instead.
    """
    exact = channels * ratio
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * exact else rounded + divisor


class SqueezeExcite(nn.Module):
    """Scale every channel by a gate computed from the mean of all channels. Squeeze-and-Excitation, 1709.01507.

    Args:
        channels: channels of the map.
        ratio: width of the bottleneck over ``channels``.
        divisor: the bottleneck's width is a multiple of it; 1 is the paper's.
        bias: whether the two layers have a bias.
    """

    def __init__(self, channels: int, *, ratio: float = 1 / 16, divisor: int = 8, bias: bool = True) -> None:
        super().__init__()
        width = squeeze_width(channels, ratio, divisor)
        self.fc1 = nn.Conv2d(channels, width, 1, bias=bias)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(width, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, C, H, W)``."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        return x * self.fc2(self.act(self.fc1(squeezed))).sigmoid()
