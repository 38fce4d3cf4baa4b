"""SphereFace and SphereFace-R: margins that multiply the angle. (SphereFace2 is a binary loss, see :mod:`.binary`.)"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facezoo.margins.catalog.checks import check_choice, check_number
from facezoo.margins.engines.statistics import Negatives
from facezoo.margins.spec import Logits, MarginInputs, register_margin
from facezoo.ops.margin import (
    annealed_margin,
    clipped_angular_margin,
    folded_angular_margin,
    multiplicative_angular_margin,
    sphereface_annealing,
)


def _check_sphereface(*, margin: int, lambda_max: float, lambda_min: float, gamma: float, **_: Any) -> None:
    if not isinstance(margin, int) or isinstance(margin, bool) or not 1 <= margin <= 10:
        raise ValueError(
            f"margin of sphereface multiplies the angle: a whole number from 1 to 10 (typically 4); got {margin!r}. "
            "For other factors use the 'combined' margin's m1"
        )
    for name, value in (("lambda_max", lambda_max), ("lambda_min", lambda_min), ("gamma", gamma)):
        check_number(name, value)
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


_VARIANTS = ("v0", "v1", "v2")
_FEATURE_NORMS = ("hard", "soft", "none")


def _check_sphereface_r(
    *, scale: float, margin: float, variant: str, feature_norm: str, norm_weight: float, **_: Any
) -> None:
    check_number("margin", margin, least=1.0)
    if margin > 10.0:
        raise ValueError(
            f"margin of sphereface_r multiplies the angle, from 1 to 10 (typically 1.4 to 1.7); got {margin}"
        )
    check_choice("variant", variant, _VARIANTS)
    check_choice("feature_norm", feature_norm, _FEATURE_NORMS)
    check_number("norm_weight", norm_weight, least=0.0)


def _sphereface_r_logits(*, feature_norm: str, **_: Any) -> Logits:
    return "scaled_cosine" if feature_norm == "hard" else "norm_cosine"


def _sphereface_r_negatives(*, margin: float, variant: str, gradient: str, **_: Any) -> Negatives:
    if variant != "v2":
        return Negatives()
    return Negatives("wide_angle" if gradient == "exact" else "wide_angle_detached", a=margin)


def _sphereface_r_penalty(
    inputs: MarginInputs, *, scale: float, feature_norm: str, norm_weight: float, **_: Any
) -> Tensor:
    if feature_norm != "soft":
        return torch.zeros_like(inputs.norm)
    return norm_weight * (inputs.norm - scale).abs()


@register_margin(
    "sphereface_r",
    title="SphereFace-R",
    formula="s·ψ(θ_y),  ψ = (-1)^k·cos(m·θ) - 2k (v0), cos(min(m·θ, π)) (v1), cos θ against cos(θ_j/m) (v2)",
    paper="arXiv 2109.05565",
    scale=30.0,
    logits=_sphereface_r_logits,
    negatives=_sphereface_r_negatives,
    penalty=_sphereface_r_penalty,
    needs=frozenset({"norm"}),
    gradient="detached",
    check=_check_sphereface_r,
)
def sphereface_r(
    inputs: MarginInputs,
    *,
    margin: float = 1.7,
    variant: str = "v0",
    feature_norm: str = "hard",
    norm_weight: float = 0.01,
) -> Tensor:
    """Multiplicative margin without annealing, made trainable by detaching the characteristic gradient.

    ``gradient="detached"``, the default, is the paper's CGD: ``s·(cos θ + detach(ψ - cos θ))``, for the other classes of ``"v2"``
    too. ``feature_norm``: ``"hard"`` scales cosines by s (HFN), ``"none"`` by ‖x‖ (NFN), ``"soft"`` by ‖x‖ with a penalty
    ``norm_weight·abs(‖x‖ - s)`` that keeps it near s (SFN, as in the authors' published code). For ``"none"`` s is not used.
    m = 1 is NormFace.
    """
    if variant == "v2":
        return inputs.target
    return (
        folded_angular_margin(inputs.target, margin)
        if variant == "v0"
        else clipped_angular_margin(inputs.target, margin)
    )
