"""Margins by the length of the embedding, MagFace and AdaFace, and losses without a margin, AdaCos and P2SGrad."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from facezoo.margins.catalog.checks import EASY, check_angle, check_choice, check_number, check_share
from facezoo.margins.engines.statistics import Negatives
from facezoo.margins.spec import MarginInputs, register_margin
from facezoo.ops.margin import Easy, angular_margin_per_sample, clipped_angular_margin

# -- MagFace -----------------------------------------------------------------------------------------------------------------------


def _check_magface(
    *,
    norm_min: float,
    norm_max: float,
    margin_min: float,
    margin_max: float,
    norm_weight: float,
    easy: str,
    **_: Any,
) -> None:
    check_number("norm_min", norm_min, above=0.0)
    check_number("norm_max", norm_max, above=norm_min)
    check_angle("margin_min", margin_min)
    check_angle("margin_max", margin_max)
    if margin_max < margin_min:
        raise ValueError(f"margin_max is not below margin_min; got {margin_max} < {margin_min}")
    check_number("norm_weight", norm_weight, least=0.0)
    check_choice("easy", easy, EASY)


def _magface_penalty(inputs: MarginInputs, *, norm_min: float, norm_max: float, norm_weight: float, **_: Any) -> Tensor:
    norm = inputs.norm.clamp(norm_min, norm_max)
    return norm_weight * (norm / norm_max**2 + 1.0 / norm)


@register_margin(
    "magface",
    title="MagFace",
    formula="s·cos(θ_y + m(a)),  m(a) from m_min at a = a_min to m_max at a_max,  a = ‖x‖;  loss + λ_g·(a/a_max² + 1/a)",
    paper="arXiv 2103.06627",
    scale=64.0,
    needs=frozenset({"norm"}),
    penalty=_magface_penalty,
    detachable=False,
    warmable=True,
    check=_check_magface,
)
def magface(
    inputs: MarginInputs,
    *,
    norm_min: float = 10.0,
    norm_max: float = 110.0,
    margin_min: float = 0.45,
    margin_max: float = 0.8,
    norm_weight: float = 35.0,
    easy: Easy = "monotone",
) -> Tensor:
    """ArcFace whose margin grows with the length of the embedding, which becomes a measure of quality.

    Lengths are clipped to [``norm_min``, ``norm_max``]: outside, neither the margin nor the penalty (``norm_weight`` is λ_g) moves
    them, so an embedding layer whose lengths are far from 10 to 110 learns no quality. The gradient passes through m(a) to ‖x‖;
    a detached one would be another loss, so there is no ``gradient`` option. Published code gives NaN in float16: here the
    margin is float32 always.
    """
    norm = inputs.norm.clamp(norm_min, norm_max)
    margin = margin_min + (margin_max - margin_min) / (norm_max - norm_min) * (norm - norm_min)
    return angular_margin_per_sample(inputs.target, margin, easy=easy)


# -- AdaFace -----------------------------------------------------------------------------------------------------------------------

_EPS = 1e-3


def _check_adaface(*, margin: float, h: float, rate: float, **_: Any) -> None:
    check_angle("margin", margin)
    check_number("h", h, above=0.0)
    check_share("rate", rate)


def _adaface_state(**_: Any) -> dict[str, Tensor]:
    return {"norm_mean": torch.tensor(20.0), "norm_std": torch.tensor(100.0)}


def _safe_norm(inputs: MarginInputs) -> Tensor:
    return inputs.norm.detach().clamp(0.001, 100.0)


def _adaface_update(inputs: MarginInputs, *, rate: float, **_: Any) -> dict[str, Tensor]:
    norm, state = _safe_norm(inputs), inputs.state
    mean = rate * norm.mean() + (1.0 - rate) * state["norm_mean"]
    if len(norm) < 2:  # one sample has no spread
        return {"norm_mean": mean}
    return {"norm_mean": mean, "norm_std": rate * norm.std() + (1.0 - rate) * state["norm_std"]}


@register_margin(
    "adaface",
    title="AdaFace",
    formula="s·(cos(θ_y - m·ẑ) - (m + m·ẑ)),  ẑ = clip(h·(‖x‖ - μ)/σ, ±1)",
    paper="arXiv 2204.00964",
    scale=64.0,
    needs=frozenset({"norm", "state"}),
    state=_adaface_state,
    update=_adaface_update,
    check=_check_adaface,
)
def adaface(inputs: MarginInputs, *, margin: float = 0.4, h: float = 0.333, rate: float = 0.01) -> Tensor:
    """Emphasizes hard samples where the image is good, easy ones where it is bad; the length of the embedding tells which.

    μ and σ are running means over batches (``rate`` 0.01) of the mean and standard deviation of the lengths; they start at 20
    and 100, as published. The head needs the embeddings as the network gives them, not normalized. No gradient through ẑ. The
    shifted angle is clipped to [0, π], as published; there the target has no gradient. Published weights want BGR images.
    """
    state = inputs.state
    z = (_safe_norm(inputs) - state["norm_mean"]) / (state["norm_std"] + _EPS)
    z = (h * z).clamp(-1.0, 1.0).to(inputs.target.dtype)
    return clipped_angular_margin(inputs.target, shift=-margin * z) - (margin + margin * z)


# -- AdaCos ------------------------------------------------------------------------------------------------------------------------

_MODES = ("dynamic", "fixed")


def _check_adacos(*, mode: str, **_: Any) -> None:
    check_choice("mode", mode, _MODES)


def _adacos_state(*, num_classes: int, **_: Any) -> dict[str, Tensor]:
    if num_classes < 3:
        raise ValueError(
            f"adacos derives its scale from the number of identities, √2·ln(C - 1): it needs at least 3, got {num_classes}"
        )
    return {"s": torch.tensor(math.sqrt(2.0) * math.log(num_classes - 1))}


def _adacos_is_fixed(*, mode: str, **_: Any) -> bool:
    return mode == "fixed"


def _adacos_update(inputs: MarginInputs, **_: Any) -> dict[str, Tensor]:
    assert inputs.negatives is not None
    log_average = torch.logsumexp(inputs.negatives, 0) - math.log(len(inputs.negatives))
    angle = torch.acos(inputs.target.clamp(-1.0, 1.0)).median().clamp_max(math.pi / 4)
    # With a handful of classes all far away the average falls below 1 and its logarithm below 0, where no scale is.
    return {"s": (log_average / torch.cos(angle)).clamp_min(1.0)}


@register_margin(
    "adacos",
    title="AdaCos",
    formula="s·cos θ_y,  s = √2·ln(C - 1) at first and if fixed, then ln(B_avg)/cos(min(π/4, θ_med))",
    paper="arXiv 1905.00292",
    needs=frozenset({"state", "negatives"}),
    state=_adacos_state,
    update=_adacos_update,
    frozen=_adacos_is_fixed,
    scale_state="s",
    detachable=False,
    check=_check_adacos,
)
def adacos(inputs: MarginInputs, *, mode: str = "dynamic") -> Tensor:
    """Softmax over cosines whose scale follows the training; no margin, nothing to tune.

    B_avg is the batch mean of Σ_{j≠y} exp(s·cos θ_j) with the scale of the step before, θ_med the batch's median angle.
    s is a buffer. ``mode="dynamic"`` costs a further pass over the classes, ``"fixed"`` nothing. The scale is kept at 1 or more.
    """
    return inputs.target


# -- P2SGrad -----------------------------------------------------------------------------------------------------------------------


def _p2sgrad_loss(target_logit: Tensor, negatives: Tensor, **_: Any) -> Tensor:
    return (1.0 - target_logit).square() + negatives


@register_margin(
    "p2sgrad",
    title="P2SGrad, as a mean squared error",
    formula="loss Σ_j (cos θ_j - δ_jy)²",
    paper="arXiv 1905.02479",
    logits="cosine",
    negatives=Negatives(reduction="square"),
    combine=_p2sgrad_loss,
    detachable=False,
)
def p2sgrad(inputs: MarginInputs) -> Tensor:
    """The loss whose gradient is P2SGrad's: cos θ_j - δ_jy for each class, without scale, margin or softmax.

    Summed over classes and averaged over samples; an average over N·C would shrink with the number of identities.
    """
    return inputs.target
