"""Circle loss on pairs."""

from __future__ import annotations

from torch import Tensor

from facezoo.losses._batch import check_number, check_positive, log1p_exp, masked_logsumexp, mean_where
from facezoo.losses._pairwise import PairwiseLoss, pairwise_cosines
from facezoo.losses.registry import register_loss


@register_loss("circle")
class CircleLoss(PairwiseLoss):
    """``log(1 + Σ_{n∈N} exp(γ·α_n(c_n - m)) · Σ_{p∈P} exp(-γ·α_p(c_p - 1 + m)))`` (2002.10857, equation 6).

    P and N are the positives and negatives of a sample, c its cosines with them. ``α_p = [1 + m - c_p]₊`` and
    ``α_n = [c_n + m]₊`` weigh each cosine by its distance from its optimum. They are constants to the
    gradient, as in the paper; differentiating through them gives another loss. The mean over the samples that have both a positive
    and a negative. The margin head of the same name, ``create_margin("circle")``, is the paper's class-level form.

    Args:
        margin: m, a cosine.
        scale: γ. The paper has m = 0.25 and γ = 256 for faces with class centers, 128 for persons; m = 0.4, γ = 80 for retrieval
            with pairs, the default here.
    """

    def __init__(self, *, margin: float = 0.4, scale: float = 80.0) -> None:
        super().__init__()
        check_positive(scale=scale)
        check_number(margin=margin)
        if not 0.0 <= margin < 1.0:
            raise ValueError(f"margin is a cosine in [0, 1), got {margin}")
        self.margin = margin
        self.scale = scale

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The mean over the anchors that have both a positive and a negative."""
        cosines = pairwise_cosines(anchors, references)
        fixed = cosines.detach()
        pull = -self.scale * (1.0 + self.margin - fixed).clamp_min(0.0) * (cosines - 1.0 + self.margin)
        push = self.scale * (fixed + self.margin).clamp_min(0.0) * (cosines - self.margin)
        terms = log1p_exp(masked_logsumexp(push, negative, 1) + masked_logsumexp(pull, positive, 1))
        return mean_where(terms, positive.any(1) & negative.any(1))

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"margin={self.margin}, scale={self.scale}"
