"""Margins that weigh the other classes too: ArcNegFace, MV-Softmax, CurricularFace, Circle loss.

The thresholds against which they hold the other classes' cosines are constants in the backward pass, as in all published codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facezoo.margins.catalog.checks import (
    EASY,
    check_angle,
    check_angular_margin,
    check_choice,
    check_cosine_difference,
    check_number,
    check_share,
)
from facezoo.margins.engines.statistics import Negatives
from facezoo.margins.spec import MarginInputs, register_margin
from facezoo.ops.margin import Easy, additive_angular_margin, additive_cosine_margin
from facezoo.ops.negatives import Coefficients


def _against_target(inputs: MarginInputs, margined: Tensor, **_: Any) -> Coefficients:
    """f = φ(θ_y), the target cosine with its margin."""
    return Coefficients(threshold=margined)


# -- ArcNegFace --------------------------------------------------------------------------------------------------------------------


def _check_arcnegface(*, margin: float, easy: str, alpha: float, sigma: float, **_: Any) -> None:
    check_angular_margin(margin=margin, easy=easy)
    check_number("alpha", alpha, above=0.0)
    check_number("sigma", sigma, above=0.0)


def _arcnegface_negatives(*, alpha: float, sigma: float, **_: Any) -> Negatives:
    return Negatives("gaussian", a=alpha, b=sigma, bound=max(1.0, 2.0 * alpha - 1.0))


@register_margin(
    "arcnegface",
    title="ArcNegFace",
    formula="s·cos(θ_y + m)",
    paper="arXiv 1909.00632",
    scale=64.0,
    negatives=_arcnegface_negatives,
    other_logits="s·(t·cos θ_j + t - 1),  t = α·exp(-(cos θ_j - cos(θ_y + m))²/σ)",
    coefficients=_against_target,
    check=_check_arcnegface,
)
def arcnegface(
    inputs: MarginInputs,
    *,
    margin: float = 0.5,
    easy: Easy = "monotone",
    alpha: float = 1.2,
    sigma: float = 2.0,
) -> Tensor:
    """ArcFace, with other classes weighted up where their cosine is close to the target's.

    The gradient passes through cos θ_j in t, and not through the target's cosine in t.
    """
    return additive_angular_margin(inputs.target, margin, easy=easy)


# -- MV-Softmax --------------------------------------------------------------------------------------------------------------------

_KINDS = ("am", "arc")
_WEIGHTINGS = ("adaptive", "fixed")


def _check_mv(*, margin: float, t: float, kind: str, weighting: str, easy: str, **_: Any) -> None:
    check_choice("kind", kind, _KINDS)
    check_choice("weighting", weighting, _WEIGHTINGS)
    check_choice("easy", easy, EASY)
    (check_cosine_difference if kind == "am" else check_angle)("margin", margin)
    check_number("t", t, least=1.0)


def _mv_negatives(*, t: float, weighting: str, **_: Any) -> Negatives:
    factor = t if weighting == "adaptive" else 1.0
    return Negatives("hard_affine", a=factor, b=t - 1.0, bound=factor + t - 1.0)


@register_margin(
    "mv_softmax",
    title="MV-Softmax",
    formula='s·(cos θ_y - m), or s·cos(θ_y + m) for kind="arc"',
    paper="arXiv 1912.00833",
    scale=32.0,
    negatives=_mv_negatives,
    other_logits='s·(t·cos θ_j + t - 1) where cos θ_j exceeds the target with its margin (cos θ_j + t - 1 for weighting="fixed")',
    coefficients=_against_target,
    check=_check_mv,
)
def mv_softmax(
    inputs: MarginInputs,
    *,
    margin: float = 0.35,
    t: float = 1.12,
    kind: str = "am",
    weighting: str = "adaptive",
    easy: Easy = "monotone",
) -> Tensor:
    """CosFace or ArcFace with mis-classified vectors emphasized: classes that beat the target with its margin.

    ``kind``: ``"am"`` (MV-AM-Softmax) or ``"arc"`` (MV-Arc-Softmax, for which 0.5 is a usual margin; ``easy`` is for it only).
    """
    if kind == "am":
        return additive_cosine_margin(inputs.target, margin)
    return additive_angular_margin(inputs.target, margin, easy=easy)


# -- CurricularFace ----------------------------------------------------------------------------------------------------------------


def _check_curricular(*, margin: float, easy: str, rate: float, **_: Any) -> None:
    check_angular_margin(margin=margin, easy=easy)
    check_share("rate", rate)


def _curricular_state(**_: Any) -> dict[str, Tensor]:
    return {"t": torch.zeros(())}


def _curricular_update(inputs: MarginInputs, *, rate: float, **_: Any) -> dict[str, Tensor]:
    return {"t": rate * inputs.target.mean() + (1.0 - rate) * inputs.state["t"]}


def _curricular_coefficients(inputs: MarginInputs, margined: Tensor, **_: Any) -> Coefficients:
    return Coefficients(threshold=margined, factor=inputs.state["t"].to(margined.dtype))


@register_margin(
    "curricularface",
    title="CurricularFace",
    formula="s·cos(θ_y + m)",
    paper="arXiv 2004.00288",
    scale=64.0,
    needs=frozenset({"state"}),
    # t is a mean of cosines, at most 1.
    negatives=Negatives("hard_quadratic", bound=2.0),
    other_logits="s·cos θ_j·(t + cos θ_j) where cos θ_j exceeds the target with its margin; t = running mean of cos θ_y",
    state=_curricular_state,
    update=_curricular_update,
    coefficients=_curricular_coefficients,
    check=_check_curricular,
)
def curricularface(inputs: MarginInputs, *, margin: float = 0.5, easy: Easy = "monotone", rate: float = 0.01) -> Tensor:
    """ArcFace, with hard classes weighted down early in training and up later. ``rate`` is that of the running mean t."""
    return additive_angular_margin(inputs.target, margin, easy=easy)


# -- Circle loss -------------------------------------------------------------------------------------------------------------------


def _circle_negatives(*, margin: float, **_: Any) -> Negatives:
    return Negatives("circle", a=margin, bound=1.0)


def _check_circle(*, margin: float, **_: Any) -> None:
    check_number("margin", margin)
    if not 0.0 <= margin <= 1.0:
        raise ValueError(f"margin of circle is a relaxation of cosines, from 0 to 1 (typically 0.25); got {margin}")


@register_margin(
    "circle",
    title="Circle loss, class level",
    formula="γ·[1 + m - cos θ_y]₊·(cos θ_y - 1 + m)",
    paper="arXiv 2002.10857",
    scale=256.0,
    detachable=False,
    negatives=_circle_negatives,
    other_logits="γ·[cos θ_j + m]₊·(cos θ_j - m)",
    check=_check_circle,
)
def circle(inputs: MarginInputs, *, margin: float = 0.25) -> Tensor:
    """Each cosine moves the faster the farther it is from its optimum; ``scale`` is γ.

    The weights in brackets are constant in the backward pass, as the paper has them: so the gradient is not that of the value.
    """
    weight = (1.0 + margin - inputs.target.detach()).clamp_min(0.0)
    return weight * (inputs.target - (1.0 - margin))
