"""SphereFace and SphereFace-R: margins that multiply the angle. (SphereFace2 is a binary loss, see :mod:`.binary`.)"""

from __future__ import annotations

import torch
from torch import Tensor

from facezoo.margins.catalog.checks import check_choice, check_number
from facezoo.margins.margin import Batch, Gradient, Logits, Margin, register_margin
from facezoo.margins.negatives import Coefficients, Negatives, register_negatives
from facezoo.ops.margin import (
    annealed_margin,
    clipped_angular_margin,
    folded_angular_margin,
    multiplicative_angular_margin,
    sphereface_annealing,
)


@register_margin("sphereface")
class SphereFace(Margin):
    """Multiplicative angular margin, annealed by λ; the number of training steps is a buffer."""

    title = "SphereFace (A-Softmax), annealed"
    formula = "‖x‖·(λ·cos θ_y + ψ(θ_y)) / (1 + λ),  ψ = (-1)^k·cos(m·θ) - 2k, k = ⌊m·θ/π⌋,  λ = max(λ_min, λ_max/(1 + γ·step))"
    paper = "arXiv 1704.08063"
    logits = "norm_cosine"

    margin: int = 4
    lambda_max: float = 1000.0
    lambda_min: float = 5.0
    gamma: float = 0.12
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is a whole number; λ falls."""
        if not isinstance(self.margin, int) or isinstance(self.margin, bool) or not 1 <= self.margin <= 10:
            raise ValueError(
                f"margin of sphereface multiplies the angle: a whole number from 1 to 10 (typically 4); got {self.margin!r}. "
                "For other factors use the 'combined' margin's m1"
            )
        for name in ("lambda_max", "lambda_min", "gamma"):
            value = getattr(self, name)
            check_number(name, value)
            if value < 0.0:
                raise ValueError(f"{name} is not negative; got {value}")
        if self.lambda_max < self.lambda_min:
            raise ValueError(
                "lambda falls from lambda_max to lambda_min; "
                f"got lambda_max={self.lambda_max} < lambda_min={self.lambda_min}"
            )

    def state(self, num_classes: int) -> dict[str, Tensor]:
        """The number of training steps."""
        return {"iteration": torch.zeros((), dtype=torch.int64)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Count the step."""
        return {"iteration": batch.state["iteration"] + 1}

    def target(self, batch: Batch) -> Tensor:
        """``(λ·cos θ + ψ(θ)) / (1 + λ)``."""
        weight = sphereface_annealing(
            batch.state["iteration"].to(batch.target.dtype),
            lambda_max=self.lambda_max,
            lambda_min=self.lambda_min,
            gamma=self.gamma,
        )
        return annealed_margin(batch.target, multiplicative_angular_margin(batch.target, self.margin), weight)


_VARIANTS = ("v0", "v1", "v2")
_FEATURE_NORMS = ("hard", "soft", "none")


@register_negatives("wide_angle")
class WideAngle(Negatives):
    """``ν(c) = cos(θ/factor)``."""

    factor: float

    @property
    def bound(self) -> float:
        """1."""
        return 1.0

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``cos(θ/factor)``."""
        return torch.cos(torch.acos(cosine.clamp(-1.0, 1.0)) / self.factor)

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``sin(θ/factor)/(factor·sin θ)``: 1/factor² at θ = 0, infinite at π, where it is limited by the rounding of the
        dtype."""
        eps = torch.finfo(cosine.dtype).eps
        angle = torch.acos(cosine.clamp(-1.0, 1.0)) / self.factor
        sine = ((1.0 - cosine) * (1.0 + cosine)).clamp_min(eps).sqrt()
        return torch.where(cosine > 1.0 - 4.0 * eps, 1.0 / self.factor**2, torch.sin(angle) / (self.factor * sine))


@register_negatives("wide_angle_detached")
class DetachedWideAngle(WideAngle):
    """:class:`WideAngle`, with the gradient of the cosine."""

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """1."""
        return cosine.new_ones(()).expand_as(cosine)


@register_margin("sphereface_r")
class SphereFaceR(Margin):
    """Multiplicative margin without annealing; detaching the characteristic gradient makes it trainable.

    ``gradient="detached"``, the default, is the paper's CGD: ``s·(cos θ + detach(ψ - cos θ))``, for the other classes of ``"v2"``
    too. ``feature_norm``: ``"hard"`` scales cosines by s (HFN), ``"none"`` by ‖x‖ (NFN), ``"soft"`` by ‖x‖ with a penalty
    ``norm_weight·abs(‖x‖ - s)`` that keeps it near s (SFN, as in the authors' published code). For ``"none"`` s is not used.
    m = 1 is NormFace.
    """

    title = "SphereFace-R"
    formula = "s·ψ(θ_y),  ψ = (-1)^k·cos(m·θ) - 2k (v0), cos(min(m·θ, π)) (v1), cos θ against cos(θ_j/m) (v2)"
    paper = "arXiv 2109.05565"

    scale: float = 30.0
    margin: float = 1.7
    variant: str = "v0"
    feature_norm: str = "hard"
    norm_weight: float = 0.01
    gradient: Gradient = "detached"

    def check(self) -> None:
        """``margin`` is a factor from 1 to 10."""
        check_number("margin", self.margin, least=1.0)
        if self.margin > 10.0:
            raise ValueError(
                f"margin of sphereface_r multiplies the angle, from 1 to 10 (typically 1.4 to 1.7); got {self.margin}"
            )
        check_choice("variant", self.variant, _VARIANTS)
        check_choice("feature_norm", self.feature_norm, _FEATURE_NORMS)
        check_number("norm_weight", self.norm_weight, least=0.0)

    @property
    def logits(self) -> Logits:
        """Depends on the feature norm."""
        return "scaled_cosine" if self.feature_norm == "hard" else "norm_cosine"

    @property
    def negatives(self) -> Negatives:
        """Plain cosines, except for v2."""
        if self.variant != "v2":
            return Negatives()
        return (WideAngle if self.gradient == "exact" else DetachedWideAngle)(factor=self.margin)

    def target(self, batch: Batch) -> Tensor:
        """ψ(θ), or cos θ for v2."""
        if self.variant == "v2":
            return batch.target
        form = folded_angular_margin if self.variant == "v0" else clipped_angular_margin
        return form(batch.target, self.margin)

    def penalty(self, batch: Batch) -> Tensor:
        """``norm_weight·abs(‖x‖ - s)`` for the soft feature norm."""
        if self.feature_norm != "soft":
            return torch.zeros_like(batch.norm)
        return self.norm_weight * (batch.norm - self.scale).abs()
