"""A margin on a logit that is linear in the angle: Li-ArcFace, 1907.12256."""

from __future__ import annotations

import math

from torch import Tensor

from facezoo.margins import MarginInputs, register_margin


def _check(*, margin: float, **_: object) -> None:
    if not 0 <= margin < math.pi / 2:
        raise ValueError(f"margin is an angle in [0, π/2) radians, got {margin}")


@register_margin(
    "li_arcface",
    title="Li-ArcFace",
    formula="s·(π - 2·(θ_y + m)) / π",
    paper="arXiv 1907.12256",
    scale=64.0,
    check=_check,
)
def li_arcface(inputs: MarginInputs, *, margin: float = 0.45) -> Tensor:
    """The target logit falls evenly from the center to the opposite side; the other classes keep their cosines."""
    angle = inputs.target.clamp(-1 + 1e-6, 1 - 1e-6).acos()
    return (math.pi - 2 * (angle + margin)) / math.pi
