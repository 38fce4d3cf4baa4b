"""Binary classification, one question per class with a learned threshold: SphereFace2 and UniFace.

The reduction over the other classes is Σ log(1 + exp z), so label smoothing has no meaning here. (UniTSFace, the same against
stored features, is in :mod:`.memory`.)
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from facezoo.margins.catalog.checks import check_cosine_difference, check_number, check_share
from facezoo.margins.engines.statistics import Negatives
from facezoo.margins.spec import MarginInputs, register_margin

# -- SphereFace2 -------------------------------------------------------------------------------------------------------------------


def _check_sphereface2(*, margin: float, power: float, balance: float, **_: Any) -> None:
    check_cosine_difference("margin", margin)
    check_number("power", power, least=1.0)
    check_share("balance", balance)
    if not 0.0 < balance < 1.0:
        raise ValueError(
            f"balance is the weight of the own class, strictly between 0 and 1 (typically 0.7); got {balance}"
        )


def _sphereface2_negatives(*, margin: float, power: float, gradient: str, **_: Any) -> Negatives:
    form = Negatives("power", a=power, b=margin, reduction="softplus", bound=1.0 + margin)
    return form if gradient == "exact" else Negatives("power_detached", power, margin, "softplus", 1.0 + margin)


def _sphereface2_offset(
    *, num_classes: int, scale: float, margin: float, power: float, balance: float, **_: Any
) -> float:
    # Where all cosines are 0, the gradients of the own class and of all others together balance at this b (paper, section 3.2). The
    # paper's root of the quadratic in exp(b), written with asinh: as it stands it cancels where there are but a few classes.
    odds = balance / ((1.0 - balance) * max(1, num_classes - 1))
    middle, half = scale * (2.0 * 0.5**power - 1.0), scale * margin
    factor = 0.5 * (odds - 1.0) / math.sqrt(odds)
    if factor != 0.0 and half > 300.0:  # exp would overflow soon; the arc sine is a logarithm there
        root = math.copysign(math.log(2.0 * abs(factor)) + half, factor)
    else:
        root = math.asinh(factor * math.exp(min(half, 300.0)))
    return 0.5 * math.log(odds) - middle + root


def _sphereface2_loss(target_logit: Tensor, negatives: Tensor, *, scale: float, balance: float, **_: Any) -> Tensor:
    return (balance * F.softplus(-target_logit, threshold=50.0) + (1.0 - balance) * negatives) / scale


@register_margin(
    "sphereface2",
    title="SphereFace2",
    formula="loss λ/r·log(1 + exp(-r·(g(θ_y) - m) - b)) + (1-λ)/r·Σ_j log(1 + exp(r·(g(θ_j) + m) + b)), g = 2((cos θ+1)/2)^t - 1",
    paper="arXiv 2108.01513",
    scale=40.0,
    negatives=_sphereface2_negatives,
    other_logits="r·(g(θ_j) + m) + b",
    combine=_sphereface2_loss,
    offset=_sphereface2_offset,
    warmable=False,
    check=_check_sphereface2,
)
def sphereface2(inputs: MarginInputs, *, margin: float = 0.4, power: float = 3.0, balance: float = 0.7) -> Tensor:
    """One binary question per class. ``scale`` is r, ``power`` t, ``balance`` λ; b is ``head.offset``, learned.

    ``gradient="detached"`` differentiates as if g(θ) were cos θ, which the authors' code does; it also multiplies the loss by
    50, to be made up for in the learning rate here. b begins at the paper's closed form, which depends on C, r, m, t and λ.
    """
    return 2.0 * ((inputs.target + 1.0) * 0.5).clamp_min(0.0).pow(power) - 1.0 - margin


# -- UniFace -----------------------------------------------------------------------------------------------------------------------


def check_uniface(*, margin: float, negative_weight: float, **_: Any) -> None:
    """Options of UniFace and UniTSFace."""
    check_cosine_difference("margin", margin)
    check_number("negative_weight", negative_weight, above=0.0)


def uniface_loss(target_logit: Tensor, negatives: Tensor, *, negative_weight: float, **_: Any) -> Tensor:
    """``log(1 + exp(-z_y)) + weight·Σ log(1 + exp z_j)``."""
    return F.softplus(-target_logit, threshold=50.0) + negative_weight * negatives


def uniface_offset(*, num_classes: int, **_: Any) -> float:
    """-b at the start: b = log(10·C), as published."""
    return -math.log(10.0 * num_classes)


@register_margin(
    "uniface",
    title="UniFace, unified cross-entropy",
    formula="loss log(1 + exp(b - s·(cos θ_y - m))) + Σ_j log(1 + exp(s·cos θ_j - b))",
    paper="ICCV 2023, Zhou et al.",
    scale=64.0,
    negatives=Negatives(reduction="softplus"),
    other_logits="s·cos θ_j - b",
    combine=uniface_loss,
    offset=uniface_offset,
    warmable=True,
    check=check_uniface,
)
def uniface(inputs: MarginInputs, *, margin: float = 0.4, negative_weight: float = 1.0) -> Tensor:
    """CosFace's margin with one learned threshold b for all classes, which separates same from different at test time too.

    ``head.offset`` is -b. ``negative_weight`` is the paper's λ of the balanced variants.
    """
    return inputs.target - margin
