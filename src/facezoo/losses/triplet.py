"""Triplet loss with mining inside the batch."""

from __future__ import annotations

from torch import Tensor

from facezoo.losses._batch import check_not_negative, log1p_exp
from facezoo.losses._pairwise import PairwiseLoss, candidates, pairwise_distances
from facezoo.losses.miners import TRIPLET_MINERS, check_mining, mine_triplets
from facezoo.losses.registry import register_loss


@register_loss("triplet")
class TripletLoss(PairwiseLoss):
    """``[d(a, p) - d(a, n) + m]₊`` (FaceNet, 1503.03832; batch-hard, batch-all and soft margin: 1703.07737).

    Batches need several samples of several classes; the loss of a batch without triplets is zero. At the start of a training from
    scratch, batch-hard tends to collapse all embeddings to one point (the loss stays at m). Then start with ``"semi_hard"`` or
    ``"distance_weighted"``, add a classifier, or use ``soft``.

    Args:
        margin: m, in the unit of the distance.
        mining: name of a miner, see :mod:`facezoo.losses.miners`. ``"batch_hard"``, ``"batch_easy_hard"``:
            one per anchor that has a positive and a negative. ``"semi_hard"``, ``"distance_weighted"``: one per anchor and
            positive. The loss is the mean over them. ``"all"``: every triplet; mean over those with a term above zero.
        soft: ``log(1 + exp(d(a, p) - d(a, n)))`` in place of the hinge; it is never zero and has no margin.
        squared: use squared distances, as FaceNet; 1703.07737 finds them harder to train.
        normalize: scale embeddings to length 1 first.
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        mining: str = "batch_hard",
        soft: bool = False,
        squared: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_not_negative(margin=margin)
        check_mining(mining, tuple(TRIPLET_MINERS))
        if mining == "distance_weighted" and not normalize:
            raise ValueError("mining='distance_weighted' is for distances on the unit sphere: it needs normalize=True")
        self.margin = margin
        self.mining = mining
        self.soft = soft
        self.squared = squared
        self.normalize = normalize

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss over the mined triplets."""
        distances = pairwise_distances(anchors, references, normalize=self.normalize)
        chosen = mine_triplets(self.mining, candidates(distances, positive, negative, anchors))
        if self.squared:
            distances = distances.square()
        difference = distances[chosen.anchor, chosen.positive] - distances[chosen.anchor, chosen.negative]
        terms = log1p_exp(difference) if self.soft else (difference + self.margin).clamp_min(0.0)
        counted = (terms > 0).sum() if self.mining == "all" else terms.new_tensor(len(terms))
        return terms.sum() / counted.clamp_min(1)

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return (
            f"margin={self.margin}, mining={self.mining!r}, soft={self.soft}, squared={self.squared}, "
            f"normalize={self.normalize}"
        )
