"""A margin on a logit that is linear in the angle: Li-ArcFace, 1907.12256."""

from __future__ import annotations

import math

from torch import Tensor

from facezoo.margins import Batch, Gradient, Margin, register_margin


@register_margin("li_arcface")
class LiArcFace(Margin):
    """The target logit falls evenly from the center to the opposite side; the other classes keep their cosines."""

    title = "Li-ArcFace"
    formula = "s·(π - 2·(θ_y + m)) / π"
    paper = "arXiv 1907.12256"

    scale: float = 64.0
    margin: float = 0.45
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is an angle."""
        if not 0 <= self.margin < math.pi / 2:
            raise ValueError(f"margin is an angle in [0, π/2) radians, got {self.margin}")

    def target(self, batch: Batch) -> Tensor:
        """``(π - 2·(θ + m)) / π``."""
        angle = batch.target.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        return (math.pi - 2 * (angle + self.margin)) / math.pi
