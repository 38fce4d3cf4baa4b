"""Triplet loss with mining inside the batch."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.losses._batch import check_not_negative, checked_batch, mean_of_active, pair_masks, pairwise_distances
from facezoo.losses.registry import register_loss
from facezoo.registry import unknown_name_message

Mining = Literal["batch_hard", "semi_hard", "all"]

_MINING = ("batch_hard", "semi_hard", "all")


@register_loss("triplet")
class TripletLoss(nn.Module):
    """``[d(a, p) - d(a, n) + m]₊`` (FaceNet, 1503.03832; batch-hard, batch-all and soft margin: 1703.07737).

    Batches need several samples of each of several classes; one without a triplet costs zero.

    Args:
        margin: m, in the unit of the distance.
        mining: which triplets of the batch take part. ``"batch_hard"``: each anchor with its farthest positive and its closest
            negative; mean over the anchors that have both. ``"semi_hard"``: each anchor-positive pair with the closest negative
            that is farther than the positive, or with the farthest negative if all are closer; mean over the pairs. ``"all"``:
            every triplet, N³ of them; mean over those with a term above zero.
        soft: ``log(1 + exp(d(a, p) - d(a, n)))`` in place of the hinge; it never reaches zero and knows no margin.
        squared: squared distances, as FaceNet has them; 1703.07737 finds them harder to train.
        normalise: scale embeddings to length 1 first.
    """

    def __init__(
        self,
        *,
        margin: float = 0.2,
        mining: Mining = "batch_hard",
        soft: bool = False,
        squared: bool = False,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        check_not_negative(margin=margin)
        if mining not in _MINING:
            raise ValueError(
                unknown_name_message("mining", str(mining), _MINING, hint=f"one of {', '.join(map(repr, _MINING))}")
            )
        self.margin = margin
        self.mining = mining
        self.soft = soft
        self.squared = squared
        self.normalise = normalise

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss over the mined triplets of a batch.

        Args:
            embeddings: ``(N, D)``.
            labels: int, ``(N,)``; any values.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, labels = checked_batch(embeddings, labels)
            distances = pairwise_distances(embeddings, normalise=self.normalise)
            if self.squared:
                distances = distances.square()
            positive, negative = pair_masks(labels)
            if self.mining == "batch_hard":
                return self._batch_hard(distances, positive, negative)
            if self.mining == "semi_hard":
                return self._semi_hard(distances, positive, negative)
            return self._all(distances, positive, negative)

    def _batch_hard(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        # The index is looked for, then gathered: infinities of the masks never enter the graph.
        farthest = _gather(distances, distances.masked_fill(~positive, -math.inf).argmax(1))
        closest = _gather(distances, distances.masked_fill(~negative, math.inf).argmin(1))
        return _mean(self._term(farthest, closest), positive.any(1) & negative.any(1))

    def _semi_hard(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        farther = negative[:, None, :] & (distances[:, None, :] > distances[:, :, None])  # (anchor, positive, negative)
        closest = torch.where(farther, distances[:, None, :], math.inf).argmin(2)
        farthest = distances.masked_fill(~negative, -math.inf).argmax(1)[:, None]
        chosen = distances.gather(1, torch.where(farther.any(2), closest, farthest))
        return _mean(self._term(distances, chosen), positive & negative.any(1)[:, None])

    def _all(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        terms = self._term(distances[:, :, None], distances[:, None, :])
        return mean_of_active(terms, positive[:, :, None] & negative[:, None, :])

    def _term(self, to_positive: Tensor, to_negative: Tensor) -> Tensor:
        difference = to_positive - to_negative
        return F.softplus(difference) if self.soft else (difference + self.margin).clamp_min(0.0)

    def extra_repr(self) -> str:
        """The options."""
        return (
            f"margin={self.margin}, mining={self.mining!r}, soft={self.soft}, squared={self.squared}, "
            f"normalise={self.normalise}"
        )


def _gather(distances: Tensor, index: Tensor) -> Tensor:
    return distances.gather(1, index[:, None])[:, 0]


def _mean(terms: Tensor, valid: Tensor) -> Tensor:
    return torch.where(valid, terms, 0.0).sum() / valid.sum().clamp_min(1)
