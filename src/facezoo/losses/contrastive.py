"""Contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.losses._batch import check_not_negative, checked_batch, mean_of_active, pair_masks, pairwise_distances
from facezoo.losses.registry import register_loss


@register_loss("contrastive")
class ContrastiveLoss(nn.Module):
    """``½·[d - m₊]₊²`` for pairs of one class, ``½·[m₋ - d]₊²`` for pairs of two (Hadsell et al., CVPR 2006).

    All pairs in the batch take part; d is the Euclidean distance. The two kinds are averaged separately, each over its pairs with
    a term above zero, so that the many easy negatives do not drown the rest. A batch without pairs of one kind, or with none
    that violates its margin, adds zero.

    Args:
        positive_margin: m₊, distance below which pairs of one class cost nothing.
        negative_margin: m₋, distance above which pairs of two classes cost nothing.
        normalise: scale embeddings to length 1 first (distances then lie in [0, 2]).
    """

    def __init__(self, *, positive_margin: float = 0.0, negative_margin: float = 1.0, normalise: bool = True) -> None:
        super().__init__()
        check_not_negative(positive_margin=positive_margin, negative_margin=negative_margin)
        self.positive_margin = positive_margin
        self.negative_margin = negative_margin
        self.normalise = normalise

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss over all pairs of a batch.

        Args:
            embeddings: ``(N, D)``.
            labels: int, ``(N,)``; any values.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, labels = checked_batch(embeddings, labels)
            distances = pairwise_distances(embeddings, normalise=self.normalise)
            positive, negative = pair_masks(labels)
            pull = 0.5 * (distances - self.positive_margin).clamp_min(0.0).square()
            push = 0.5 * (self.negative_margin - distances).clamp_min(0.0).square()
            return mean_of_active(pull, positive) + mean_of_active(push, negative)

    def extra_repr(self) -> str:
        """The options."""
        return f"positive_margin={self.positive_margin}, negative_margin={self.negative_margin}, normalise={self.normalise}"
