"""Margins by the length of the embedding, MagFace and AdaFace, and losses without a margin, AdaCos and P2SGrad."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from facezoo.margins.catalog.checks import EASY, check_angle, check_choice, check_number, check_share
from facezoo.margins.margin import Batch, Gradient, Margin, register_margin
from facezoo.margins.negatives import Negatives
from facezoo.ops.margin import Easy, angular_margin_per_sample, clipped_angular_margin

# -- MagFace -----------------------------------------------------------------------------------------------------------------------


@register_margin("magface")
class MagFace(Margin):
    """ArcFace with a margin that grows with the length of the embedding; the length becomes a measure of image quality.

    Lengths are clipped to [``norm_min``, ``norm_max``]. Outside this range neither margin nor penalty (``norm_weight`` is λ_g)
    has a gradient, so an embedding layer with lengths far from 10 to 110 learns no quality. The gradient passes through m(a) to
    ‖x‖; a detached gradient would be another loss, so there is no ``gradient`` option. The published code gives NaN in float16;
    here the margin is always float32.
    """

    title = "MagFace"
    formula = (
        "s·cos(θ_y + m(a)),  m(a) from m_min at a = a_min to m_max at a_max,  a = ‖x‖;  loss + λ_g·(a/a_max² + 1/a)"
    )
    paper = "arXiv 2103.06627"

    scale: float = 64.0
    norm_min: float = 10.0
    norm_max: float = 110.0
    margin_min: float = 0.45
    margin_max: float = 0.8
    norm_weight: float = 35.0
    easy: Easy = "monotone"

    def check(self) -> None:
        """Both ranges must be in ascending order."""
        check_number("norm_min", self.norm_min, above=0.0)
        check_number("norm_max", self.norm_max, above=self.norm_min)
        check_angle("margin_min", self.margin_min)
        check_angle("margin_max", self.margin_max)
        if self.margin_max < self.margin_min:
            raise ValueError(f"margin_max is not below margin_min; got {self.margin_max} < {self.margin_min}")
        check_number("norm_weight", self.norm_weight, least=0.0)
        check_choice("easy", self.easy, EASY)

    def target(self, batch: Batch) -> Tensor:
        """``cos(θ + m(a))``."""
        slope = (self.margin_max - self.margin_min) / (self.norm_max - self.norm_min)
        norm = batch.norm.clamp(self.norm_min, self.norm_max)
        return angular_margin_per_sample(batch.target, self.margin_min + slope * (norm - self.norm_min), easy=self.easy)

    def penalty(self, batch: Batch) -> Tensor:
        """``λ_g·(a/a_max² + 1/a)``."""
        norm = batch.norm.clamp(self.norm_min, self.norm_max)
        return self.norm_weight * (norm / self.norm_max**2 + 1.0 / norm)


# -- AdaFace -----------------------------------------------------------------------------------------------------------------------

_EPS = 1e-3


@register_margin("adaface")
class AdaFace(Margin):
    """Emphasizes hard samples of good image quality and easy samples of bad quality; the length of the embedding measures it.

    μ and σ are running means over batches (``rate`` 0.01) of the mean and standard deviation of the lengths; they start at 20
    and 100, as published. The head needs embeddings that are not normalized. There is no gradient through ẑ. The shifted angle is
    clipped to [0, π], as published; clipped targets have no gradient. Published weights expect BGR images.
    """

    title = "AdaFace"
    formula = "s·(cos(θ_y - m·ẑ) - (m + m·ẑ)),  ẑ = clip(h·(‖x‖ - μ)/σ, ±1)"
    paper = "arXiv 2204.00964"

    scale: float = 64.0
    margin: float = 0.4
    h: float = 0.333
    rate: float = 0.01
    gradient: Gradient = "exact"

    def check(self) -> None:
        """``margin`` is an angle in radians, ``h`` above 0, ``rate`` from 0 to 1."""
        check_angle("margin", self.margin)
        check_number("h", self.h, above=0.0)
        check_share("rate", self.rate)

    def state(self, num_classes: int) -> dict[str, Tensor]:
        """μ and σ, as published."""
        return {"norm_mean": torch.tensor(20.0), "norm_std": torch.tensor(100.0)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update the running means."""
        norm, state = _safe_norm(batch), batch.state
        mean = self.rate * norm.mean() + (1.0 - self.rate) * state["norm_mean"]
        if len(norm) < 2:  # one sample has no standard deviation
            return {"norm_mean": mean}
        return {"norm_mean": mean, "norm_std": self.rate * norm.std() + (1.0 - self.rate) * state["norm_std"]}

    def target(self, batch: Batch) -> Tensor:
        """``cos(θ - m·ẑ) - (m + m·ẑ)``."""
        z = (_safe_norm(batch) - batch.state["norm_mean"]) / (batch.state["norm_std"] + _EPS)
        z = (self.h * z).clamp(-1.0, 1.0).to(batch.target.dtype)
        return clipped_angular_margin(batch.target, shift=-self.margin * z) - (self.margin + self.margin * z)


def _safe_norm(batch: Batch) -> Tensor:
    return batch.norm.detach().clamp(0.001, 100.0)


# -- AdaCos ------------------------------------------------------------------------------------------------------------------------

_MODES = ("dynamic", "fixed")


@register_margin("adacos")
class AdaCos(Margin):
    """Softmax over cosines with a scale that adapts during training; no margin, no hyperparameters.

    B_avg is the batch mean of Σ_{j≠y} exp(s·cos θ_j) with the scale of the step before, θ_med the batch's median angle.
    s is a buffer. ``mode="dynamic"`` needs another pass over the classes, ``"fixed"`` does not. The scale is at least 1.
    """

    title = "AdaCos"
    formula = "s·cos θ_y,  s = √2·ln(C - 1) at first and if fixed, then ln(B_avg)/cos(min(π/4, θ_med))"
    paper = "arXiv 1905.00292"
    warmable = False

    mode: str = "dynamic"

    def check(self) -> None:
        """``mode`` is one of two."""
        check_choice("mode", self.mode, _MODES)

    @property
    def frozen(self) -> bool:
        """In the fixed mode."""
        return self.mode == "fixed"

    @property
    def updates_by_negatives(self) -> bool:
        """For B_avg."""
        return True

    def state(self, num_classes: int) -> dict[str, Tensor]:
        """s from the number of classes."""
        if num_classes < 3:
            raise ValueError(
                "adacos derives its scale from the number of identities, √2·ln(C - 1): it needs at least 3, "
                f"got {num_classes}"
            )
        return {"s": torch.tensor(math.sqrt(2.0) * math.log(num_classes - 1))}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """s from the batch."""
        assert batch.negatives is not None
        log_average = torch.logsumexp(batch.negatives, 0) - math.log(len(batch.negatives))
        angle = torch.acos(batch.target.clamp(-1.0, 1.0)).median().clamp_max(math.pi / 4)
        # With few classes, all far away, the average is below 1 and its logarithm negative, which is not a valid scale.
        return {"s": (log_average / torch.cos(angle)).clamp_min(1.0)}

    def running_scale(self, state: Mapping[str, Tensor]) -> Tensor:
        """s."""
        return state["s"]

    def target(self, batch: Batch) -> Tensor:
        """``cos θ``."""
        return batch.target


# -- P2SGrad -----------------------------------------------------------------------------------------------------------------------


@register_margin("p2sgrad")
class P2SGrad(Margin):
    """The loss whose gradient is P2SGrad's: cos θ_j - δ_jy for each class, without scale, margin or softmax.

    Summed over classes and averaged over samples; an average over N·C would shrink with the number of identities.
    """

    title = "P2SGrad, as a mean squared error"
    formula = "loss Σ_j (cos θ_j - δ_jy)²"
    paper = "arXiv 1905.02479"
    logits = "cosine"
    negatives = Negatives(reduction="square")
    warmable = False

    def target(self, batch: Batch) -> Tensor:
        """``cos θ``."""
        return batch.target

    def combine(self, target_logit: Tensor, negatives: Tensor) -> Tensor:
        """``(1 - cos θ_y)² + Σ cos² θ_j``."""
        return (1.0 - target_logit).square() + negatives
