"""Margins that are a fixed function of the target cosine: plain softmax, CosFace, ArcFace and their kin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facezoo.margins.catalog.checks import (
    EASY,
    check_angle,
    check_angular_margin,
    check_choice,
    check_cosine_difference,
    check_number,
)
from facezoo.margins.margin import Batch, Gradient, Margin, register_margin
from facezoo.ops.margin import (
    Easy,
    additive_angular_margin,
    additive_cosine_margin,
    angular_margin_per_sample,
    combined_margin,
    monotone_limit,
)

# -- no margin ---------------------------------------------------------------------------------------------------------------------


@register_margin("linear")
class Linear(Margin):
    """The plain classifier: an affine map and cross-entropy."""

    title = "Linear classifier"
    formula = "x·w_y + b_y"
    paper = "plain softmax"
    logits = "affine"
    warmable = False

    def target(self, batch: Batch) -> Tensor:
        """The affine logit."""
        return batch.target


@register_margin("normface")
class NormFace(Margin):
    """Softmax over scaled cosines, without a margin."""

    title = "NormFace, normalized softmax"
    formula = "s·cos θ_y"
    paper = "arXiv 1704.06369"
    warmable = False

    scale: float = 30.0

    def target(self, batch: Batch) -> Tensor:
        """``cos θ``."""
        return batch.target


# -- margins on the cosine ---------------------------------------------------------------------------------------------------------


@register_margin("cosface")
class CosFace(Margin):
    """Large-margin cosine loss. The paper's margin is 0.35; insightface trains with 0.4."""

    title = "CosFace"
    formula = "s·(cos θ_y - m)"
    paper = "arXiv 1801.09414"

    scale: float = 64.0
    margin: float = 0.35
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is a difference of cosines."""
        check_cosine_difference("margin", self.margin)

    def target(self, batch: Batch) -> Tensor:
        """``cos θ - m``."""
        return additive_cosine_margin(batch.target, self.margin)


@register_margin("am_softmax")
class AMSoftmax(CosFace):
    """CosFace's formula with its own paper's scale of 30."""

    title = "AM-Softmax"
    paper = "arXiv 1801.05599"

    scale: float = 30.0


# -- margins on the angle ----------------------------------------------------------------------------------------------------------


@register_margin("arcface")
class ArcFace(Margin):
    """Additive angular margin in radians."""

    title = "ArcFace"
    formula = "s·cos(θ_y + m)"
    paper = "arXiv 1801.07698"

    scale: float = 64.0
    margin: float = 0.5
    easy: Easy = "monotone"
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is an angle in radians."""
        check_angular_margin(self.margin, self.easy)

    def target(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``."""
        return additive_angular_margin(batch.target, self.margin, easy=self.easy)


@register_margin("combined")
class Combined(Margin):
    """All three margins at once. (insightface's class of this name ignores m1 and m2 when m3 > 0.)"""

    title = "Combined margin"
    formula = "s·(cos(m1·θ_y + m2) - m3)"
    paper = "arXiv 1801.07698, equation 4"

    scale: float = 64.0
    m1: float = 1.0
    m2: float = 0.3
    m3: float = 0.2
    easy: Easy = "monotone"
    gradient: Gradient = "exact"

    def check(self) -> None:
        """The margins together must give a function that decreases with the angle."""
        check_number("m1", self.m1)
        if self.m1 <= 0.0:
            raise ValueError(f"m1 multiplies the angle: it is above 0 (1 leaves the angle as it is); got {self.m1}")
        check_angle("m2", self.m2)
        check_cosine_difference("m3", self.m3)
        check_choice("easy", self.easy, EASY)
        # Beyond θ₀ the target continues at cos θ₀ - (π - θ₀)·sin θ₀. Only up to this limit it is below -1, where cos(m1·θ + m2)
        # ends.
        if self.easy == "monotone" and math.pi - monotone_limit(self.m1, self.m2) > 2.33:
            raise ValueError(
                f"m1={self.m1}, m2={self.m2} turn the angle by more than 2.33 rad, where easy='monotone' cannot continue it "
                "monotonically; use smaller margins, easy='none', or the 'sphereface' margin for large multiples of the angle"
            )

    def target(self, batch: Batch) -> Tensor:
        """``cos(m1·θ + m2) - m3``."""
        return combined_margin(batch.target, self.m1, self.m2, self.m3, easy=self.easy)


# -- ArcFace with several centers, or a margin that differs between samples --------------------------------------------------------


@register_margin("subcenter_arcface")
class SubCenterArcFace(ArcFace):
    """ArcFace with K centers per class. Only the nearest counts, so wrongly labeled images can gather at a separate center.

    ``head.weight`` is ``(C, K, D)``: K times the memory. After training, :func:`facezoo.margins.sub_center_report` gives each
    class's dominant sub-center and the samples far from it; the paper drops those beyond 75° and trains again with K = 1.
    """

    title = "Sub-center ArcFace"
    formula = "s·cos(θ_y + m),  cos θ_j = max_k x·w_jk"
    paper = "ECCV 2020, Deng et al."

    sub_centers: int = 3

    @property
    def centers_per_class(self) -> int:
        """K."""
        return self.sub_centers

    def check(self) -> None:
        """ArcFace's options, and a whole number of centers."""
        super().check()
        if (
            not isinstance(self.sub_centers, int)
            or isinstance(self.sub_centers, bool)
            or not 1 <= self.sub_centers <= 100
        ):
            raise ValueError(
                f"sub_centers is how many centers a class has, a whole number from 1 (typically 3); got {self.sub_centers!r}"
            )


@register_margin("dyn_arcface")
class DynArcFace(Margin):
    """ArcFace with a larger margin for classes with fewer images: from a + b for one image down to b.

    Set the numbers of images n with ``head.set_class_counts(counts)`` before the first loss; the trainer does this.
    ``exponent`` is λ, 1/4 in the paper, which chooses a and b by data set; the defaults give margins from 0.05 to 0.5.
    """

    title = "Dyn-ArcFace, margin by class size"
    formula = "s·cos(θ_y + m_y),  m_y = a·n_y^(-λ) + b"
    paper = "arXiv 2010.05350"

    scale: float = 64.0
    a: float = 0.45
    b: float = 0.05
    exponent: float = 0.25
    easy: Easy = "monotone"
    gradient: Gradient = "exact"

    def check(self) -> None:
        """The largest margin, a + b, is an angle in radians."""
        check_number("exponent", self.exponent, least=0.0)
        check_angle("b", self.b)
        check_angle("a + b, the margin of a class with one image,", self.a + self.b)
        check_choice("easy", self.easy, EASY)

    def state(self, num_classes: int) -> dict[str, Tensor]:
        """The class counts, 0 until they are set."""
        return {"class_counts": torch.zeros(num_classes, dtype=torch.int64)}

    def target(self, batch: Batch) -> Tensor:
        """``cos(θ + m_y)``."""
        counts = batch.state["class_counts"][batch.labels].to(batch.target.dtype)
        return angular_margin_per_sample(batch.target, self.a * counts.pow(-self.exponent) + self.b, easy=self.easy)


_VARIANTS = ("plain", "plus")


def _check_elastic(sigma: float | None, variant: str) -> None:
    check_choice("variant", variant, _VARIANTS)
    if sigma is not None:
        check_number("sigma", sigma, least=0.0)
        if sigma > 0.5:
            raise ValueError(f"sigma is in the unit of the margin (typically 0.0175 to 0.05); got {sigma}")


def _elastic_margins(batch: Batch, margin: float, sigma: float, variant: str) -> Tensor:
    """m_i ~ N(m, σ²); with ``"plus"`` they are sorted so that the sample nearest to its center gets the smallest."""
    noise = batch.noise
    if variant == "plus":
        nearest_first = batch.target.detach().argsort(descending=True)
        noise = torch.empty_like(noise).scatter_(0, nearest_first, noise.sort().values)
    return margin + sigma * noise


@register_margin("elastic_arcface")
class ElasticArcFace(Margin):
    """ArcFace with a random margin for each sample in each training step; in evaluation mode it is m.

    ``variant="plus"`` (ElasticFace+) gives larger margins to samples farther from their center. ``sigma=None`` is the paper's,
    0.05, and 0.0175 for ``"plus"``. (The published code for “+” indexes the sorted margins with the order instead of its inverse,
    which shuffles them; here the sample with the largest cosine gets the smallest margin.) The paper has ``easy="none"``.
    """

    title = "ElasticFace-Arc"
    formula = "s·cos(θ_y + m_i),  m_i ~ N(m, σ²)"
    paper = "arXiv 2109.09416"
    uses_noise = True

    scale: float = 64.0
    margin: float = 0.5
    sigma: float | None = None
    variant: str = "plain"
    easy: Easy = "monotone"
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is an angle in radians, ``sigma`` too."""
        check_angular_margin(self.margin, self.easy)
        _check_elastic(self.sigma, self.variant)

    def target(self, batch: Batch) -> Tensor:
        """``cos(θ + m_i)``."""
        sigma = {"plain": 0.05, "plus": 0.0175}[self.variant] if self.sigma is None else self.sigma
        margins = _elastic_margins(batch, self.margin, sigma, self.variant)
        return angular_margin_per_sample(batch.target, margins, easy=self.easy)


@register_margin("elastic_cosface")
class ElasticCosFace(Margin):
    """CosFace with a random margin for each sample in each training step; in evaluation mode it is m.

    ``variant="plus"`` as for ``"elastic_arcface"``. ``sigma=None`` is the paper's, 0.05, and 0.02 for ``"plus"``.
    """

    title = "ElasticFace-Cos"
    formula = "s·(cos θ_y - m_i),  m_i ~ N(m, σ²)"
    paper = "arXiv 2109.09416"
    uses_noise = True

    scale: float = 64.0
    margin: float = 0.35
    sigma: float | None = None
    variant: str = "plain"
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is a difference of cosines, ``sigma`` too."""
        check_cosine_difference("margin", self.margin)
        _check_elastic(self.sigma, self.variant)

    def target(self, batch: Batch) -> Tensor:
        """``cos θ - m_i``."""
        sigma = {"plain": 0.05, "plus": 0.02}[self.variant] if self.sigma is None else self.sigma
        return batch.target - _elastic_margins(batch, self.margin, sigma, self.variant)
