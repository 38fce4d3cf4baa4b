"""Binary classification, one binary problem per class with a learned threshold: SphereFace2 and UniFace.

The reduction over the other classes is Σ log(1 + exp z), so label smoothing has no meaning here. (UniTSFace, the same against
stored features, is in :mod:`.memory`.)
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from facezoo.margins.catalog.checks import check_cosine_difference, check_number, check_share
from facezoo.margins.margin import Batch, Gradient, Margin, register_margin
from facezoo.margins.negatives import Coefficients, Negatives, register_negatives

# -- SphereFace2 -------------------------------------------------------------------------------------------------------------------


def _half(cosine: Tensor) -> Tensor:
    return ((cosine + 1.0) * 0.5).clamp_min(0.0)  # a rounding error below -1 has no real power


@register_negatives("power")
class Power(Negatives):
    """``ν(c) = 2·((c + 1)/2)^power - 1 + margin``."""

    power: float
    margin: float

    @property
    def bound(self) -> float:
        """1 + the margin."""
        return 1.0 + abs(self.margin)

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``2·((c + 1)/2)^power - 1 + margin``."""
        return 2.0 * _half(cosine).pow(self.power) + (self.margin - 1.0)

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``power·((c + 1)/2)^(power - 1)``."""
        return self.power * _half(cosine).pow(self.power - 1.0)


@register_negatives("power_detached")
class DetachedPower(Power):
    """:class:`Power`, with the gradient of the cosine."""

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """1."""
        return cosine.new_ones(()).expand_as(cosine)


@register_margin("sphereface2")
class SphereFace2(Margin):
    """One binary problem per class. ``scale`` is r, ``power`` t, ``balance`` λ; b is the learned ``head.offset``.

    ``gradient="detached"`` uses the gradient of cos θ in place of g(θ)'s, as the authors' code does. Their code also multiplies
    the loss by 50; here adapt the learning rate instead. b starts at the paper's closed form, which depends on C, r, m, t and λ.
    """

    title = "SphereFace2"
    formula = "loss λ/r·log(1 + exp(-r·(g(θ_y) - m) - b)) + (1-λ)/r·Σ_j log(1 + exp(r·(g(θ_j) + m) + b)), g = 2((cos θ+1)/2)^t - 1"
    paper = "arXiv 2108.01513"
    other_formula = "r·(g(θ_j) + m) + b"
    warmable = False

    scale: float = 40.0
    margin: float = 0.4
    power: float = 3.0
    balance: float = 0.7
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is a difference of cosines, ``power`` at least 1, ``balance`` between 0 and 1."""
        check_cosine_difference("margin", self.margin)
        check_number("power", self.power, least=1.0)
        check_share("balance", self.balance)
        if not 0.0 < self.balance < 1.0:
            raise ValueError(
                f"balance is the weight of the own class, strictly between 0 and 1 (typically 0.7); got {self.balance}"
            )

    @property
    def negatives(self) -> Negatives:
        """g with its margin."""
        form = Power if self.gradient == "exact" else DetachedPower
        return form(power=self.power, margin=self.margin, reduction="softplus")

    def target(self, batch: Batch) -> Tensor:
        """``g(θ) - m``."""
        return 2.0 * _half(batch.target).pow(self.power) - 1.0 - self.margin

    def combine(self, target_logit: Tensor, negatives: Tensor) -> Tensor:
        """The two binary cross-entropies, weighted by λ, over r."""
        own = F.softplus(-target_logit, threshold=50.0)
        return (self.balance * own + (1.0 - self.balance) * negatives) / self.scale

    def offset(self, num_classes: int) -> float:
        """b at which the gradients of the own class and of all others are balanced if all cosines are 0 (paper, section 3.2)."""
        # The paper's root of the quadratic in exp(b), with asinh: as it stands it cancels where there are but a few classes.
        odds = self.balance / ((1.0 - self.balance) * max(1, num_classes - 1))
        middle, half = self.scale * (2.0 * 0.5**self.power - 1.0), self.scale * self.margin
        factor = 0.5 * (odds - 1.0) / math.sqrt(odds)
        if factor != 0.0 and half > 300.0:  # exp would overflow; asinh is a logarithm here
            root = math.copysign(math.log(2.0 * abs(factor)) + half, factor)
        else:
            root = math.asinh(factor * math.exp(min(half, 300.0)))
        return 0.5 * math.log(odds) - middle + root


# -- UniFace -----------------------------------------------------------------------------------------------------------------------


@register_margin("uniface")
class UniFace(Margin):
    """CosFace's margin with one learned threshold b for all classes, which can also be used at test time.

    ``head.offset`` is -b. ``negative_weight`` is the paper's λ of the balanced variants.
    """

    title = "UniFace, unified cross-entropy"
    formula = "loss log(1 + exp(b - s·(cos θ_y - m))) + Σ_j log(1 + exp(s·cos θ_j - b))"
    paper = "ICCV 2023, Zhou et al."
    other_formula = "s·cos θ_j - b"
    negatives = Negatives(reduction="softplus")

    scale: float = 64.0
    margin: float = 0.4
    negative_weight: float = 1.0
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is a difference of cosines."""
        check_cosine_difference("margin", self.margin)
        check_number("negative_weight", self.negative_weight, above=0.0)

    def target(self, batch: Batch) -> Tensor:
        """``cos θ - m``."""
        return batch.target - self.margin

    def combine(self, target_logit: Tensor, negatives: Tensor) -> Tensor:
        """``log(1 + exp(-z_y)) + λ·Σ log(1 + exp z_j)``."""
        return F.softplus(-target_logit, threshold=50.0) + self.negative_weight * negatives

    def offset(self, num_classes: int) -> float:
        """-b at the start: b = log(10·C), as published."""
        return -math.log(10.0 * num_classes)
