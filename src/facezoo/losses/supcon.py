"""Contrastive losses with a softmax: SupCon and NT-Xent."""

from __future__ import annotations

from torch import Tensor

from facezoo.losses._batch import check_positive, log1p_exp, masked_logsumexp, mean_where
from facezoo.losses._pairwise import PairwiseLoss, pairwise_cosines
from facezoo.losses.registry import register_loss


@register_loss("supcon")
class SupConLoss(PairwiseLoss):
    """``-1/|P_i|·Σ_{p∈P_i} log(exp(c_ip/τ) / Σ_{a≠i} exp(c_ia/τ))`` (supervised contrastive, L_out of 2004.11362, equation 2).

    P_i are the other samples of i's class, c cosines; the denominator has positives and negatives. The paper sums over i; its
    code and this loss take the mean over the samples that have a positive. The positives compete in the denominator: with |P|
    positives at distance 0, a term cannot be below log |P|.

    Args:
        temperature: τ; 0.1 in the paper, 0.07 in its code.
    """

    def __init__(self, *, temperature: float = 0.1) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature = temperature

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The mean over the anchors that have a positive."""
        logits = pairwise_cosines(anchors, references) / self.temperature
        denominator = masked_logsumexp(logits, positive | negative, 1)
        found = positive.any(1)
        numerator = logits.where(positive, logits.new_zeros(())).sum(1) / positive.sum(1).clamp_min(1)
        return mean_where(denominator.masked_fill(~found, 0.0) - numerator, found)

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"temperature={self.temperature}"


@register_loss("nt_xent")
class NTXentLoss(PairwiseLoss):
    """``-log(exp(c_ij/τ) / (exp(c_ij/τ) + Σ_{k∈N_i} exp(c_ik/τ)))`` for each pair i, j of one class (SimCLR, 2002.05709).

    The mean over all such pairs, in both orders. SimCLR has two views per instance (labels ``arange(n).repeat(2)``). With more
    samples per class each positive is compared only with the negatives; :class:`SupConLoss` compares it with the other
    positives too.

    Args:
        temperature: τ; SimCLR's best values lie between 0.1 and 0.5.
    """

    def __init__(self, *, temperature: float = 0.07) -> None:
        super().__init__()
        check_positive(temperature=temperature)
        self.temperature = temperature

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The mean over the pairs of one class."""
        logits = pairwise_cosines(anchors, references) / self.temperature
        against = masked_logsumexp(logits, negative, 1)[:, None]
        return mean_where(log1p_exp(against - logits), positive)

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"temperature={self.temperature}"
