"""Margins that are a fixed function of the target cosine: plain softmax, CosFace, ArcFace and their kin."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from facezoo.margins.catalog.checks import (
    EASY,
    check_angle,
    check_angular_margin,
    check_choice,
    check_cosine_difference,
    check_cosine_margin,
    check_number,
)
from facezoo.margins.spec import MarginInputs, register_margin
from facezoo.ops.margin import (
    Easy,
    additive_angular_margin,
    additive_cosine_margin,
    angular_margin_per_sample,
    combined_margin,
    monotone_limit,
)

# -- no margin ---------------------------------------------------------------------------------------------------------------------


@register_margin(
    "linear", title="Linear classifier", formula="x·w_y + b_y", paper="plain softmax", logits="affine", detachable=False
)
def linear(inputs: MarginInputs) -> Tensor:
    """The plain classifier: an affine map and cross-entropy."""
    return inputs.target


@register_margin(
    "normface",
    title="NormFace, normalized softmax",
    formula="s·cos θ_y",
    paper="arXiv 1704.06369",
    scale=30.0,
    detachable=False,
)
def normface(inputs: MarginInputs) -> Tensor:
    """Softmax over scaled cosines, without a margin."""
    return inputs.target


# -- margins on the cosine ---------------------------------------------------------------------------------------------------------


@register_margin(
    "cosface",
    title="CosFace",
    formula="s·(cos θ_y - m)",
    paper="arXiv 1801.09414",
    scale=64.0,
    check=check_cosine_margin,
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
    check=check_cosine_margin,
)
def am_softmax(inputs: MarginInputs, *, margin: float = 0.35) -> Tensor:
    """CosFace's formula with its own paper's scale of 30."""
    return additive_cosine_margin(inputs.target, margin)


# -- margins on the angle ----------------------------------------------------------------------------------------------------------


@register_margin(
    "arcface",
    title="ArcFace",
    formula="s·cos(θ_y + m)",
    paper="arXiv 1801.07698",
    scale=64.0,
    check=check_angular_margin,
)
def arcface(inputs: MarginInputs, *, margin: float = 0.5, easy: Easy = "monotone") -> Tensor:
    """Additive angular margin in radians."""
    return additive_angular_margin(inputs.target, margin, easy=easy)


def _check_combined(*, m1: float, m2: float, m3: float, easy: str, **_: Any) -> None:
    check_number("m1", m1)
    if m1 <= 0.0:
        raise ValueError(f"m1 multiplies the angle: it is above 0 (1 leaves the angle as it is); got {m1}")
    check_angle("m2", m2)
    check_cosine_difference("m3", m3)
    check_choice("easy", easy, EASY)
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


# -- ArcFace with several centers, or a margin that differs between samples --------------------------------------------------------


def _check_subcenter(*, margin: float, easy: str, sub_centers: int, **_: Any) -> None:
    check_angular_margin(margin=margin, easy=easy)
    if not isinstance(sub_centers, int) or isinstance(sub_centers, bool) or not 1 <= sub_centers <= 100:
        raise ValueError(
            f"sub_centers is how many centers a class has, a whole number from 1 (typically 3); got {sub_centers!r}"
        )


@register_margin(
    "subcenter_arcface",
    title="Sub-center ArcFace",
    formula="s·cos(θ_y + m),  cos θ_j = max_k x·w_jk",
    paper="ECCV 2020, Deng et al.",
    scale=64.0,
    sub_centers="sub_centers",
    check=_check_subcenter,
)
def subcenter_arcface(
    inputs: MarginInputs, *, margin: float = 0.5, easy: Easy = "monotone", sub_centers: int = 3
) -> Tensor:
    """ArcFace with K centers per class, of which the nearest counts, so that label noise finds a center of its own.

    ``head.weight`` is ``(C, K, D)``: K times the memory. After training, :func:`facezoo.margins.sub_center_report` names each
    class's dominant sub-center and the samples far from it; the paper drops those beyond 75° and trains again with K = 1.
    """
    return additive_angular_margin(inputs.target, margin, easy=easy)


def _check_dyn(*, a: float, b: float, exponent: float, easy: str, **_: Any) -> None:
    check_number("exponent", exponent, least=0.0)
    check_angle("b", b)
    check_angle("a + b, the margin of a class with one image,", a + b)
    check_choice("easy", easy, EASY)


def _class_counts(*, num_classes: int, **_: Any) -> dict[str, Tensor]:
    return {"class_counts": torch.zeros(num_classes, dtype=torch.int64)}  # nobody has said so far


@register_margin(
    "dyn_arcface",
    title="Dyn-ArcFace, margin by class size",
    formula="s·cos(θ_y + m_y),  m_y = a·n_y^(-λ) + b",
    paper="arXiv 2010.05350",
    scale=64.0,
    needs=frozenset({"labels", "state"}),
    state=_class_counts,
    check=_check_dyn,
)
def dyn_arcface(
    inputs: MarginInputs, *, a: float = 0.45, b: float = 0.05, exponent: float = 0.25, easy: Easy = "monotone"
) -> Tensor:
    """ArcFace with a larger margin for classes with fewer images: from a + b for one image down to b.

    Tell the head the numbers of images n with ``head.set_class_counts(counts)``, without which it computes no loss; the trainer
    does. ``exponent`` is λ, 1/4 in the paper, which leaves a and b to the data set; the defaults span 0.05 to 0.5.
    """
    counts = inputs.state["class_counts"][inputs.labels].to(inputs.target.dtype)
    return angular_margin_per_sample(inputs.target, a * counts.pow(-exponent) + b, easy=easy)


_VARIANTS = ("plain", "plus")


def _check_elastic(*, margin: float, sigma: float | None, variant: str, **_: Any) -> None:
    check_choice("variant", variant, _VARIANTS)
    if sigma is not None:
        check_number("sigma", sigma, least=0.0)
        if sigma > 0.5:
            raise ValueError(f"sigma is in the unit of the margin (typically 0.0175 to 0.05); got {sigma}")


def _check_elastic_arcface(**options: Any) -> None:
    check_angular_margin(margin=options["margin"], easy=options["easy"])
    _check_elastic(**options)


def _check_elastic_cosface(**options: Any) -> None:
    check_cosine_difference("margin", options["margin"])
    _check_elastic(**options)


def _elastic_margins(inputs: MarginInputs, margin: float, sigma: float, variant: str) -> Tensor:
    """m_i ~ N(m, σ²); with ``"plus"`` dealt out so that the sample nearest to its center gets the smallest."""
    noise = inputs.noise
    if variant == "plus":
        nearest_first = inputs.target.detach().argsort(descending=True)
        noise = torch.empty_like(noise).scatter_(0, nearest_first, noise.sort().values)
    return margin + sigma * noise


@register_margin(
    "elastic_arcface",
    title="ElasticFace-Arc",
    formula="s·cos(θ_y + m_i),  m_i ~ N(m, σ²)",
    paper="arXiv 2109.09416",
    scale=64.0,
    needs=frozenset({"noise"}),
    check=_check_elastic_arcface,
)
def elastic_arcface(
    inputs: MarginInputs,
    *,
    margin: float = 0.5,
    sigma: float | None = None,
    variant: str = "plain",
    easy: Easy = "monotone",
) -> Tensor:
    """ArcFace with a margin drawn anew for each sample in each training step; in evaluation mode it is m.

    ``variant="plus"`` (ElasticFace+) gives larger margins to samples farther from their center. ``sigma=None`` is the paper's,
    0.05, and 0.0175 for ``"plus"``. (The published code for “+” indexes the sorted margins with the order instead of its inverse,
    which shuffles them; here the sample with the largest cosine gets the smallest margin.) The paper has ``easy="none"``.
    """
    sigma = {"plain": 0.05, "plus": 0.0175}[variant] if sigma is None else sigma
    return angular_margin_per_sample(inputs.target, _elastic_margins(inputs, margin, sigma, variant), easy=easy)


@register_margin(
    "elastic_cosface",
    title="ElasticFace-Cos",
    formula="s·(cos θ_y - m_i),  m_i ~ N(m, σ²)",
    paper="arXiv 2109.09416",
    scale=64.0,
    needs=frozenset({"noise"}),
    check=_check_elastic_cosface,
)
def elastic_cosface(
    inputs: MarginInputs, *, margin: float = 0.35, sigma: float | None = None, variant: str = "plain"
) -> Tensor:
    """CosFace with a margin drawn anew for each sample in each training step; in evaluation mode it is m.

    ``variant="plus"`` as for ``"elastic_arcface"``. ``sigma=None`` is the paper's, 0.05, and 0.02 for ``"plus"``.
    """
    sigma = {"plain": 0.05, "plus": 0.02}[variant] if sigma is None else sigma
    return inputs.target - _elastic_margins(inputs, margin, sigma, variant)
