"""The catalogue: each margin once, as a small function of the target similarity, with its declaration."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from facezoo.margins.spec import MarginInputs, register_margin
from facezoo.ops.margin import (
    Easy,
    additive_angular_margin,
    additive_cosine_margin,
    annealed_margin,
    combined_margin,
    monotone_limit,
    multiplicative_angular_margin,
    sphereface_annealing,
)
from facezoo.registry import unknown_name_message

_EASY = ("monotone", "easy", "none")


# -- no margin ---------------------------------------------------------------------------------------------------------------------


@register_margin(
    "linear", title="Linear classifier", formula="x·w_y + b_y", paper="plain softmax", logits="affine", detachable=False
)
def linear(inputs: MarginInputs) -> Tensor:
    """The plain classifier: an affine map and cross-entropy."""
    return inputs.target


@register_margin(
    "normface",
    title="NormFace, normalised softmax",
    formula="s·cos θ_y",
    paper="arXiv 1704.06369",
    scale=30.0,
    detachable=False,
)
def normface(inputs: MarginInputs) -> Tensor:
    """Softmax over scaled cosines, without a margin."""
    return inputs.target


# -- margins on the cosine ---------------------------------------------------------------------------------------------------------


def _check_cosine_margin(*, margin: float, **_: Any) -> None:
    _check_number("margin", margin)
    if not 0.0 <= margin <= 1.0:
        raise ValueError(f"margin is a difference of cosines, from 0 to 1 (typically 0.35 to 0.4); got {margin}")


@register_margin(
    "cosface",
    title="CosFace",
    formula="s·(cos θ_y - m)",
    paper="arXiv 1801.09414",
    scale=64.0,
    check=_check_cosine_margin,
)
def cosface(inputs: MarginInputs, *, margin: float = 0.35) -> Tensor:
    """Large-margin cosine loss. The paper's margin is 0.35; insightface trains with 0.4."""
    return additive_cosine_margin(inputs.target, margin)


@register_margin(
    "am_softmax",
    title="AM-Softmax",
    formula="s·(cos θ_y - m)",
    paper="arXiv 1801.05599",
    scale=30.0,
    check=_check_cosine_margin,
)
def am_softmax(inputs: MarginInputs, *, margin: float = 0.35) -> Tensor:
    """CosFace's formula with its own paper's scale of 30."""
    return additive_cosine_margin(inputs.target, margin)


# -- margins on the angle ----------------------------------------------------------------------------------------------------------


def _check_arcface(*, margin: float, easy: str, **_: Any) -> None:
    _check_angle("margin", margin)
    _check_easy(easy)


@register_margin(
    "arcface",
    title="ArcFace",
    formula="s·cos(θ_y + m)",
    paper="arXiv 1801.07698",
    scale=64.0,
    check=_check_arcface,
)
def arcface(inputs: MarginInputs, *, margin: float = 0.5, easy: Easy = "monotone") -> Tensor:
    """Additive angular margin in radians."""
    return additive_angular_margin(inputs.target, margin, easy=easy)


def _check_combined(*, m1: float, m2: float, m3: float, easy: str, **_: Any) -> None:
    _check_number("m1", m1)
    if m1 <= 0.0:
        raise ValueError(f"m1 multiplies the angle: it is above 0 (1 leaves the angle as it is); got {m1}")
    _check_angle("m2", m2)
    _check_number("m3", m3)
    if not 0.0 <= m3 <= 1.0:
        raise ValueError(f"m3 is a difference of cosines, from 0 to 1; got {m3}")
    _check_easy(easy)
    # Beyond θ₀ the target goes on at cos θ₀ - (π - θ₀)·sin θ₀, which lies below -1, where cos(m1·θ + m2) ends, only up to here.
    if easy == "monotone" and math.pi - monotone_limit(m1, m2) > 2.33:
        raise ValueError(
            f"m1={m1}, m2={m2} turn the angle by more than 2.33 rad, where easy='monotone' cannot continue it monotonically; "
            "use smaller margins, easy='none', or the 'sphereface' margin for large multiples of the angle"
        )


@register_margin(
    "combined",
    title="Combined margin",
    formula="s·(cos(m1·θ_y + m2) - m3)",
    paper="arXiv 1801.07698, equation 4",
    scale=64.0,
    check=_check_combined,
)
def combined(
    inputs: MarginInputs, *, m1: float = 1.0, m2: float = 0.3, m3: float = 0.2, easy: Easy = "monotone"
) -> Tensor:
    """All three margins at once. (insightface's class of this name ignores m1 and m2 when m3 > 0.)"""
    return combined_margin(inputs.target, m1, m2, m3, easy=easy)


# -- SphereFace --------------------------------------------------------------------------------------------------------------------


def _check_sphereface(*, margin: int, lambda_max: float, lambda_min: float, gamma: float, **_: Any) -> None:
    if not isinstance(margin, int) or isinstance(margin, bool) or not 1 <= margin <= 10:
        raise ValueError(
            f"margin of sphereface multiplies the angle: a whole number from 1 to 10 (typically 4); got {margin!r}. "
            "For other factors use the 'combined' margin's m1"
        )
    for name, value in (("lambda_max", lambda_max), ("lambda_min", lambda_min), ("gamma", gamma)):
        _check_number(name, value)
        if value < 0.0:
            raise ValueError(f"{name} is not negative; got {value}")
    if lambda_max < lambda_min:
        raise ValueError(
            f"lambda falls from lambda_max to lambda_min; got lambda_max={lambda_max} < lambda_min={lambda_min}"
        )


def _sphereface_state(**_: Any) -> dict[str, Tensor]:
    return {"iteration": torch.zeros((), dtype=torch.int64)}


def _sphereface_update(inputs: MarginInputs, **_: Any) -> dict[str, Tensor]:
    return {"iteration": inputs.state["iteration"] + 1}


@register_margin(
    "sphereface",
    title="SphereFace (A-Softmax), annealed",
    formula="‖x‖·(λ·cos θ_y + ψ(θ_y)) / (1 + λ),  ψ = (-1)^k·cos(m·θ) - 2k, k = ⌊m·θ/π⌋,  λ = max(λ_min, λ_max/(1 + γ·step))",
    paper="arXiv 1704.08063",
    logits="norm_cosine",
    needs=frozenset({"state"}),
    state=_sphereface_state,
    update=_sphereface_update,
    check=_check_sphereface,
)
def sphereface(
    inputs: MarginInputs,
    *,
    margin: int = 4,
    lambda_max: float = 1000.0,
    lambda_min: float = 5.0,
    gamma: float = 0.12,
) -> Tensor:
    """Multiplicative angular margin, eased in by λ; the number of training steps so far is a buffer."""
    iteration = inputs.state["iteration"].to(inputs.target.dtype)
    weight = sphereface_annealing(iteration, lambda_max=lambda_max, lambda_min=lambda_min, gamma=gamma)
    return annealed_margin(inputs.target, multiplicative_angular_margin(inputs.target, margin), weight)


# -- checks ------------------------------------------------------------------------------------------------------------------------


def _check_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is a finite number; got {value!r}")


def _check_angle(name: str, value: Any) -> None:
    _check_number(name, value)
    if value > math.pi / 2:
        raise ValueError(
            f"{name} is an angle in radians, from 0 to π/2 (typically 0.3 to 0.5); got {value}. "
            f"If these are degrees, pass {math.radians(value):.4g}"
        )
    if value < 0.0:
        raise ValueError(f"{name} is an angle in radians, from 0 to π/2; got {value}")


def _check_easy(value: Any) -> None:
    if value not in _EASY:
        raise ValueError(
            unknown_name_message("choice", str(value), _EASY, hint=f"easy is one of {', '.join(map(repr, _EASY))}")
        )
