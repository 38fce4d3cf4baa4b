"""Contrastive loss."""

from __future__ import annotations

from torch import Tensor

from facezoo.losses._batch import check_not_negative, mean_of_active
from facezoo.losses._pairwise import PairwiseLoss, candidates, pairwise_distances
from facezoo.losses.miners import ALL_MINERS, check_mining, mine_pairs
from facezoo.losses.registry import register_loss


@register_loss("contrastive")
class ContrastiveLoss(PairwiseLoss):
    """``½·[d - m₊]₊²`` for pairs of one class, ``½·[m₋ - d]₊²`` for pairs of two (Hadsell et al., CVPR 2006).

    d is the Euclidean distance. The two kinds are averaged separately, each over its pairs with a term above zero, so that the many
    easy negatives do not dominate. If there are no pairs of one kind, or none violates its margin, that kind adds zero.

    Args:
        positive_margin: m₊, distance below which pairs of one class cost nothing.
        negative_margin: m₋, distance above which pairs of two classes cost nothing.
        normalize: scale embeddings to length 1 first (distances then lie in [0, 2]).
        mining: name of a miner, see :mod:`facezoo.losses.miners`; ``"all"`` is the paper's choice.
    """

    def __init__(
        self,
        *,
        positive_margin: float = 0.0,
        negative_margin: float = 1.0,
        normalize: bool = True,
        mining: str = "all",
    ) -> None:
        super().__init__()
        check_not_negative(positive_margin=positive_margin, negative_margin=negative_margin)
        check_mining(mining, ALL_MINERS)
        if mining == "distance_weighted" and not normalize:
            raise ValueError("mining='distance_weighted' is for distances on the unit sphere: it needs normalize=True")
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.normalize = normalize
        self.mining = mining

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss over the chosen pairs."""
        distances = pairwise_distances(anchors, references, normalize=self.normalize)
        pairs = mine_pairs(self.mining, candidates(distances, positive, negative, anchors))
        pull = 0.5 * (distances - self.positive_margin).clamp_min(0.0).square()
        push = 0.5 * (self.negative_margin - distances).clamp_min(0.0).square()
        return mean_of_active(pull, pairs.positive) + mean_of_active(push, pairs.negative)

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return (
            f"positive_margin={self.positive_margin}, negative_margin={self.negative_margin}, "
            f"normalize={self.normalize}, mining={self.mining!r}"
        )
