"""Lifted structure loss."""

from __future__ import annotations

import torch
from torch import Tensor

from facezoo.losses._batch import check_not_negative, masked_logsumexp
from facezoo.losses._pairwise import PairwiseLoss, pairwise_distances
from facezoo.losses.registry import register_loss


@register_loss("lifted_structure")
class LiftedStructureLoss(PairwiseLoss):
    """``1/(2|P|)·Σ_{(i,j)∈P} [J_ij]₊²``, ``J_ij = log(Σ_{k∈N_i} exp(α - d_ik) + Σ_{l∈N_j} exp(α - d_jl)) + d_ij`` (1511.06452).

    P are the pairs of one class, N_i the samples of other classes than i's, d Euclidean distances: each pair is compared with all
    negatives of both of its ends. The sums grow with the number of negatives, and the loss with their logarithm: losses of
    batches of different size are not comparable. Where there are no positive or no negative pairs the loss is zero.

    Args:
        margin: α, in the unit of the distance.
        normalize: scale embeddings to length 1 first. The paper does not; without it the distances of an untrained network
            may be so large that every J is dominated by d_ij.
    """

    def __init__(self, *, margin: float = 1.0, normalize: bool = True) -> None:
        super().__init__()
        check_not_negative(margin=margin)
        self.margin = margin
        self.normalize = normalize

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The mean over the pairs of one class; those with references from outside the batch count their negatives in the batch."""
        distances = pairwise_distances(anchors, references, normalize=self.normalize)
        near = self.margin - distances
        of_anchor = masked_logsumexp(near, negative, 1)
        # The other end has the negatives of its own row if it is in the batch, and of its column, the batch's, if it is not.
        of_outside = masked_logsumexp(near[:, len(anchors) :], negative[:, len(anchors) :], 0)
        of_reference = torch.cat([of_anchor, of_outside])
        first, second = positive.nonzero(as_tuple=True)
        held = of_anchor.isfinite()[first] | of_reference.isfinite()[second]
        terms = torch.logaddexp(of_anchor[first[held]], of_reference[second[held]])
        hinge = (terms + distances[first[held], second[held]]).clamp_min(0.0)
        # Here each pair of the batch occurs in both orders, and 2|P| is the number of them.
        return 0.5 * hinge.square().sum() / max(len(first), 1)

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"margin={self.margin}, normalize={self.normalize}"
