"""Multi-similarity loss."""

from __future__ import annotations

from torch import Tensor

from facezoo.losses._batch import check_number, check_positive, log1p_exp, masked_logsumexp
from facezoo.losses._pairwise import PairwiseLoss, candidates, pairwise_cosines
from facezoo.losses.miners import ALL_MINERS, check_mining, mine_pairs
from facezoo.losses.registry import register_loss


@register_loss("multi_similarity")
class MultiSimilarityLoss(PairwiseLoss):
    """``1/α·log(1 + Σ_{k∈P_i} exp(-α(c_ik - λ))) + 1/β·log(1 + Σ_{k∈N_i} exp(β(c_ik - λ)))`` (1904.06627, equation 15).

    P_i and N_i are the positives and negatives of sample i chosen by the miner, c cosines. The mean is over the whole batch;
    samples without a chosen pair count as zero.

    Args:
        alpha: α, sharpness among the positives.
        beta: β, sharpness among the negatives.
        base: λ, the cosine that separates them; the paper's text says 1, its code 0.5, which works.
        mining: name of a miner, see :mod:`facezoo.losses.miners`. ``"multi_similarity"`` is the paper's, with ε = 0.1; it
            compares cosines. ``"distance_weighted"`` is not possible, since it needs Euclidean distances.
    """

    def __init__(
        self, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, mining: str = "multi_similarity"
    ) -> None:
        super().__init__()
        check_positive(alpha=alpha, beta=beta)
        check_number(base=base)
        if not -1.0 <= base <= 1.0:
            raise ValueError(f"base is a cosine in [-1, 1], got {base}")
        check_mining(mining, tuple(name for name in ALL_MINERS if name != "distance_weighted"))
        self.alpha = alpha
        self.beta = beta
        self.base = base
        self.mining = mining

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The mean over the anchors."""
        cosines = pairwise_cosines(anchors, references)
        pairs = mine_pairs(self.mining, candidates(1.0 - cosines, positive, negative, anchors))
        pull = log1p_exp(masked_logsumexp(self.alpha * (self.base - cosines), pairs.positive, 1)) / self.alpha
        push = log1p_exp(masked_logsumexp(self.beta * (cosines - self.base), pairs.negative, 1)) / self.beta
        return (pull + push).mean()

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"alpha={self.alpha}, beta={self.beta}, base={self.base}, mining={self.mining!r}"
