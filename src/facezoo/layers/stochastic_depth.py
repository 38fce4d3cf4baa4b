"""Stochastic depth as a module."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from facezoo.ops.stochastic_depth import drop_path


class StochasticDepth(nn.Module):
    """:func:`facezoo.ops.drop_path` with a fixed probability; the identity in evaluation."""

    def __init__(self, drop_prob: float, mode: Literal["row", "batch"] = "row") -> None:
        super().__init__()
        if not 0.0 <= drop_prob <= 1.0:
            raise ValueError(f"drop_prob is a probability in [0, 1], got {drop_prob}")
        if mode not in ("row", "batch"):
            raise ValueError(f"mode is 'row' (one draw per sample) or 'batch' (one draw for all), got {mode!r}")
        self.drop_prob = drop_prob
        self.mode: Literal["row", "batch"] = mode

    def forward(self, x: Tensor) -> Tensor:
        """Drop or rescale the branch ``x`` of shape ``(N, ...)``."""
        return drop_path(x, self.drop_prob, mode=self.mode, training=self.training)

    def extra_repr(self) -> str:
        """Show probability and mode."""
        return f"drop_prob={self.drop_prob:.3f}, mode={self.mode!r}"


def linear_drop_path_rates(rate: float, depth: int) -> list[float]:
    """One probability per block, growing linearly from 0 at the first to ``rate`` at the last (1603.09382, section 3)."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]
