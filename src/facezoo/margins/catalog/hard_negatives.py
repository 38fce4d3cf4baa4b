"""Margins that also weight the other classes: ArcNegFace, MV-Softmax, CurricularFace, Circle loss, each with its form of
negatives.

The thresholds for the other classes' cosines are constants in the backward pass, as in all published implementations.
"""

from __future__ import annotations

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
from facezoo.margins.margin import Batch, Gradient, Margin, register_margin
from facezoo.margins.negatives import Coefficients, Negatives, factor_of, register_negatives, threshold_of
from facezoo.ops.margin import Easy, additive_angular_margin, additive_cosine_margin

# -- ArcNegFace --------------------------------------------------------------------------------------------------------------------


@register_negatives("gaussian")
class Gaussian(Negatives):
    """``ν(c) = w·(c + 1) - 1`` with ``w = height·exp(-(c - f)²/width)``: cosines near the threshold f count more."""

    height: float
    width: float
    reads_threshold = True

    @property
    def bound(self) -> float:
        """The weight is at most ``height``."""
        return max(1.0, 2.0 * self.height - 1.0)

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``w·(c + 1) - 1``."""
        return self._weight(cosine, coefficients) * (cosine + 1.0) - 1.0

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``w·(1 - 2·(c + 1)·(c - f)/width)``."""
        away = cosine - threshold_of(coefficients)
        return self._weight(cosine, coefficients) * (1.0 - (2.0 / self.width) * (cosine + 1.0) * away)

    def _weight(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        return self.height * torch.exp((cosine - threshold_of(coefficients)).square() / -self.width)


@register_margin("arcnegface")
class ArcNegFace(Margin):
    """ArcFace, with a larger weight for other classes whose cosine is close to the target's.

    The gradient passes through cos θ_j in t, and not through the target's cosine in t.
    """

    title = "ArcNegFace"
    formula = "s·cos(θ_y + m)"
    paper = "arXiv 1909.00632"
    other_formula = "s·(t·cos θ_j + t - 1),  t = α·exp(-(cos θ_j - cos(θ_y + m))²/σ)"

    scale: float = 64.0
    margin: float = 0.5
    easy: Easy = "monotone"
    alpha: float = 1.2
    sigma: float = 2.0
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is an angle in radians; the others are above 0."""
        check_angular_margin(self.margin, self.easy)
        check_number("alpha", self.alpha, above=0.0)
        check_number("sigma", self.sigma, above=0.0)

    @property
    def negatives(self) -> Negatives:
        """Weighted by α and σ."""
        return Gaussian(height=self.alpha, width=self.sigma)

    def target(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``."""
        return additive_angular_margin(batch.target, self.margin, easy=self.easy)

    def thresholds(self, batch: Batch, margined: Tensor) -> Coefficients:
        """The target cosine with its margin."""
        return Coefficients(threshold=margined)


# -- MV-Softmax --------------------------------------------------------------------------------------------------------------------

_KINDS = ("am", "arc")
_WEIGHTINGS = ("adaptive", "fixed")


@register_negatives("hard_affine")
class HardAffine(Negatives):
    """``ν(c) = factor·c + shift`` where c exceeds the threshold, else c."""

    factor: float
    shift: float
    reads_threshold = True

    @property
    def bound(self) -> float:
        """The bound of the affine part, if that is larger than 1."""
        return max(1.0, abs(self.factor) + abs(self.shift))

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``factor·c + shift``, or c."""
        return torch.where(cosine > threshold_of(coefficients), self.factor * cosine + self.shift, cosine)

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``factor``, or 1."""
        hard = (cosine > threshold_of(coefficients)).to(cosine.dtype)  # torch.where of two numbers would be float32
        return hard * (self.factor - 1.0) + 1.0


@register_margin("mv_softmax")
class MVSoftmax(Margin):
    """CosFace or ArcFace with mis-classified vectors emphasized: classes that beat the target with its margin.

    ``kind``: ``"am"`` (MV-AM-Softmax) or ``"arc"`` (MV-Arc-Softmax, usually with margin 0.5; ``easy`` applies only to it).
    """

    title = "MV-Softmax"
    formula = 's·(cos θ_y - m), or s·cos(θ_y + m) for kind="arc"'
    paper = "arXiv 1912.00833"
    other_formula = (
        's·(t·cos θ_j + t - 1) where cos θ_j exceeds the target with its margin (cos θ_j + t - 1 for weighting="fixed")'
    )

    scale: float = 32.0
    margin: float = 0.35
    t: float = 1.12
    kind: str = "am"
    weighting: str = "adaptive"
    easy: Easy = "monotone"
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is in the unit of the kind; ``t`` is at least 1."""
        check_choice("kind", self.kind, _KINDS)
        check_choice("weighting", self.weighting, _WEIGHTINGS)
        check_choice("easy", self.easy, EASY)
        (check_cosine_difference if self.kind == "am" else check_angle)("margin", self.margin)
        check_number("t", self.t, least=1.0)

    @property
    def negatives(self) -> Negatives:
        """Raised by t."""
        return HardAffine(factor=self.t if self.weighting == "adaptive" else 1.0, shift=self.t - 1.0)

    def target(self, batch: Batch) -> Tensor:
        """``cos θ - m`` or ``cos(θ + m)``."""
        if self.kind == "am":
            return additive_cosine_margin(batch.target, self.margin)
        return additive_angular_margin(batch.target, self.margin, easy=self.easy)

    def thresholds(self, batch: Batch, margined: Tensor) -> Coefficients:
        """The target cosine with its margin."""
        return Coefficients(threshold=margined)


# -- CurricularFace ----------------------------------------------------------------------------------------------------------------


@register_negatives("hard_quadratic")
class HardQuadratic(Negatives):
    """``ν(c) = c·(t + c)`` where c exceeds the threshold, else c; t is a mean of cosines, at most 1."""

    reads_threshold = True

    @property
    def bound(self) -> float:
        """2."""
        return 2.0

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``c·(t + c)``, or c."""
        return torch.where(cosine > threshold_of(coefficients), cosine * (factor_of(coefficients) + cosine), cosine)

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``t + 2c``, or 1."""
        return torch.where(cosine > threshold_of(coefficients), factor_of(coefficients) + 2.0 * cosine, 1.0)


@register_margin("curricularface")
class CurricularFace(Margin):
    """ArcFace, with smaller weights for hard classes early in training and larger ones later. ``rate`` is the rate of the
    running mean t."""

    title = "CurricularFace"
    formula = "s·cos(θ_y + m)"
    paper = "arXiv 2004.00288"
    other_formula = (
        "s·cos θ_j·(t + cos θ_j) where cos θ_j exceeds the target with its margin; t = running mean of cos θ_y"
    )
    negatives = HardQuadratic()

    scale: float = 64.0
    margin: float = 0.5
    easy: Easy = "monotone"
    rate: float = 0.01
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is an angle in radians, ``rate`` a share."""
        check_angular_margin(self.margin, self.easy)
        check_share("rate", self.rate)

    def state(self, num_classes: int) -> dict[str, Tensor]:
        """t = 0."""
        return {"t": torch.zeros(())}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update the running mean."""
        return {"t": self.rate * batch.target.mean() + (1.0 - self.rate) * batch.state["t"]}

    def target(self, batch: Batch) -> Tensor:
        """``cos(θ + m)``."""
        return additive_angular_margin(batch.target, self.margin, easy=self.easy)

    def thresholds(self, batch: Batch, margined: Tensor) -> Coefficients:
        """The target cosine with its margin, and t."""
        return Coefficients(threshold=margined, factor=batch.state["t"].to(margined.dtype))


# -- Circle loss -------------------------------------------------------------------------------------------------------------------


@register_negatives("circle")
class CircleNegatives(Negatives):
    """``ν(c) = [c + margin]₊·(c - margin)``; the weight in brackets is constant in the backward pass."""

    margin: float

    @property
    def bound(self) -> float | None:
        """1 for a margin from 0 to 1: there ``(c + m)(c - m)`` lies between -m² and 1 - m²."""
        return 1.0 if 0.0 <= self.margin <= 1.0 else None

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``[c + margin]₊·(c - margin)``."""
        return self.slope(cosine, coefficients) * (cosine - self.margin)

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``[c + margin]₊``."""
        return (cosine + self.margin).clamp_min(0.0)


@register_margin("circle")
class Circle(Margin):
    """Each cosine gets a gradient proportional to its distance from the optimum; ``scale`` is γ.

    The weights in brackets are constant in the backward pass, as in the paper, so the gradient is not that of the value.
    """

    title = "Circle loss, class level"
    formula = "γ·[1 + m - cos θ_y]₊·(cos θ_y - 1 + m)"
    paper = "arXiv 2002.10857"
    other_formula = "γ·[cos θ_j + m]₊·(cos θ_j - m)"
    warmable = False

    scale: float = 256.0
    margin: float = 0.25

    def check(self) -> None:
        """``margin`` is a relaxation of cosines."""
        check_number("margin", self.margin)
        if not 0.0 <= self.margin <= 1.0:
            raise ValueError(
                f"margin of circle is a relaxation of cosines, from 0 to 1 (typically 0.25); got {self.margin}"
            )

    @property
    def negatives(self) -> Negatives:
        """Weighted by their distance from the optimum, -m."""
        return CircleNegatives(margin=self.margin)

    def target(self, batch: Batch) -> Tensor:
        """``[1 + m - cos θ]₊·(cos θ - 1 + m)``."""
        weight = (1.0 + self.margin - batch.target.detach()).clamp_min(0.0)
        return weight * (batch.target - (1.0 - self.margin))
