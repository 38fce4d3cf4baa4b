"""Miners: choose the pairs and triplets of a batch for a loss.

A miner is a pure function of the :class:`Candidates` of a batch: it chooses from the allowed pairs, by distance. Some choose
:class:`Triplets`, some pairs; :func:`mine_triplets` and :func:`mine_pairs` run them by name, and convert triplets to pairs for
losses on pairs. Nothing here has a gradient.

| Name | Chooses |
|---|---|
| ``all`` | all allowed pairs or triplets |
| ``batch_hard`` | per anchor: the farthest positive and the closest negative (1703.07737) |
| ``batch_easy_hard`` | per anchor: the closest positive and the closest negative (1904.04370) |
| ``semi_hard`` | per anchor and positive: the closest negative that is farther than the positive (1503.03832) |
| ``distance_weighted`` | per anchor and positive: one negative, drawn so that all distances are equally frequent (1706.07567) |
| ``multi_similarity`` | pairs only: those that are hard by a tolerance ε (1904.06627) |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from facezoo.registry import unknown_name_message


class Candidates(NamedTuple):
    """The input of a miner: N anchors and M references.

    Attributes:
        distances: ``(N, M)``, larger means less similar; Euclidean, unless a miner says otherwise. No gradient.
        positive: ``(N, M)`` bool, pairs of one class (without those of a sample with itself).
        negative: ``(N, M)`` bool, pairs of two classes.
        dim: width D of the embeddings.
    """

    distances: Tensor
    positive: Tensor
    negative: Tensor
    dim: int


class Triplets(NamedTuple):
    """T triplets; each an index of an anchor, and two of references. ``(T,)`` int64 each."""

    anchor: Tensor
    positive: Tensor
    negative: Tensor


class Pairs(NamedTuple):
    """Chosen pairs: ``(N, M)`` bool each."""

    positive: Tensor
    negative: Tensor


# -- triplets ---------------------------------------------------------------------------------------------------------------------


def all_triplets(candidates: Candidates) -> Triplets:
    """All allowed triplets: up to N·M²."""
    anchor, positive = candidates.positive.nonzero(as_tuple=True)
    pair, negative = candidates.negative[anchor].nonzero(as_tuple=True)
    return Triplets(anchor[pair], positive[pair], negative)


def batch_hard(candidates: Candidates) -> Triplets:
    """Each anchor with its farthest positive and its closest negative (1703.07737); anchors without either are left out."""
    distances, positive, negative, _ = candidates
    anchor = (positive.any(1) & negative.any(1)).nonzero()[:, 0]
    farthest = distances[anchor].masked_fill(~positive[anchor], -math.inf).argmax(1)
    return Triplets(anchor, farthest, _closest(distances[anchor], negative[anchor]))


def batch_easy_hard(candidates: Candidates) -> Triplets:
    """Each anchor with its closest positive and its closest negative (“easy positive, hard negative”, 1904.04370).

    It does not collapse a class to one point: every sample must only be near *some* other sample of its class.
    """
    distances, positive, negative, _ = candidates
    anchor = (positive.any(1) & negative.any(1)).nonzero()[:, 0]
    chosen = distances[anchor]
    return Triplets(anchor, _closest(chosen, positive[anchor]), _closest(chosen, negative[anchor]))


def semi_hard(candidates: Candidates) -> Triplets:
    """Each anchor-positive pair with the closest negative that is farther than the positive (FaceNet, 1503.03832).

    If all negatives are closer than the positive, the farthest negative is chosen.
    """
    distances, positive, negative, _ = candidates
    anchor, partner = (positive & negative.any(1)[:, None]).nonzero(as_tuple=True)
    rows, allowed = distances[anchor], negative[anchor]
    farther = allowed & (rows > distances[anchor, partner][:, None])
    farthest = rows.masked_fill(~allowed, -math.inf).argmax(1)
    return Triplets(anchor, partner, torch.where(farther.any(1), _closest(rows, farther), farthest))


def distance_weighted(candidates: Candidates, *, cutoff: float = 0.5, reach: float = 1.4) -> Triplets:
    """Each anchor-positive pair with one negative, drawn by :func:`negative_weights` (1706.07567).

    It uses torch's global generator of the device. Embeddings must have length 1.
    """
    weights = negative_weights(candidates, cutoff=cutoff, reach=reach)
    anchor, partner = (candidates.positive & candidates.negative.any(1)[:, None]).nonzero(as_tuple=True)
    if len(anchor) == 0:
        return Triplets(anchor, partner, partner)
    return Triplets(anchor, partner, torch.multinomial(weights[anchor], 1)[:, 0])


def negative_weights(candidates: Candidates, *, cutoff: float = 0.5, reach: float = 1.4) -> Tensor:
    """Probability of drawing each negative for an anchor, ``(N, M)``: the inverse of the density of its distance.

    On the sphere in D dimensions the distance d of two random points has the density ``q(d) ∝ d^(D-2)·(1 - d²/4)^((D-3)/2)``,
    a sharp peak at √2. Drawn with 1/q all distances are equally frequent (1706.07567, section 4).

    Args:
        candidates: with Euclidean distances of embeddings of length 1.
        cutoff: smaller distances are treated as this one; otherwise label noise would be drawn nearly always.
        reach: negatives at this distance or farther are not drawn, since their loss is zero; an anchor without closer negatives
            draws from all of its negatives with equal probability.

    Returns:
        Rows sum to 1, or to 0 if an anchor has no negative.
    """
    distances, _, negative, dim = candidates
    # 1 - d²/4 is zero for opposite points (and a little below, by rounding): there the weight would be infinite.
    clipped = distances.clamp(cutoff, 2.0 - 1e-4)
    log_weights = (2.0 - dim) * clipped.log() - 0.5 * (dim - 3.0) * torch.log1p(-0.25 * clipped.square())
    near = negative & (distances < reach)
    log_weights = log_weights.masked_fill(~near, -math.inf)
    weights = torch.where(near, (log_weights - log_weights.amax(1, keepdim=True)).exp(), 0.0)
    weights = torch.where(near.any(1, keepdim=True), weights, negative.to(weights.dtype))
    return weights / weights.sum(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


# -- pairs ------------------------------------------------------------------------------------------------------------------------


def all_pairs(candidates: Candidates) -> Pairs:
    """All allowed pairs."""
    return Pairs(candidates.positive, candidates.negative)


def multi_similarity(candidates: Candidates, *, epsilon: float = 0.1) -> Pairs:
    """The miner of the multi-similarity loss (1904.06627, equations 6 and 7).

    A positive is chosen if it is farther than the closest negative of its anchor less ε, a negative if it is closer than the
    farthest positive plus ε. An anchor without negatives chooses none of its positives, one without positives no negative.

    Args:
        candidates: with any distance of the same order; the paper uses minus the cosine (1 minus it is equivalent).
        epsilon: ε, in the unit of the distance.
    """
    distances, positive, negative, _ = candidates
    closest_negative = distances.masked_fill(~negative, math.inf).amin(1, keepdim=True)
    farthest_positive = distances.masked_fill(~positive, -math.inf).amax(1, keepdim=True)
    return Pairs(
        positive & (distances > closest_negative - epsilon), negative & (distances < farthest_positive + epsilon)
    )


def pairs_of(triplets: Triplets, candidates: Candidates) -> Pairs:
    """The pairs in triplets, without repetitions."""
    positive, negative = torch.zeros_like(candidates.positive), torch.zeros_like(candidates.negative)
    positive[triplets.anchor, triplets.positive] = True
    negative[triplets.anchor, triplets.negative] = True
    return Pairs(positive, negative)


# -- by name ----------------------------------------------------------------------------------------------------------------------

TRIPLET_MINERS: dict[str, Callable[[Candidates], Triplets]] = {
    "all": all_triplets,
    "batch_hard": batch_hard,
    "batch_easy_hard": batch_easy_hard,
    "semi_hard": semi_hard,
    "distance_weighted": distance_weighted,
}
PAIR_MINERS: dict[str, Callable[[Candidates], Pairs]] = {"all": all_pairs, "multi_similarity": multi_similarity}
ALL_MINERS = tuple(sorted({**TRIPLET_MINERS, **PAIR_MINERS}))


@torch.no_grad()
def mine_triplets(mining: str, candidates: Candidates) -> Triplets:
    """The triplets chosen by the miner called ``mining``."""
    check_mining(mining, tuple(TRIPLET_MINERS))
    return TRIPLET_MINERS[mining](candidates)


@torch.no_grad()
def mine_pairs(mining: str, candidates: Candidates) -> Pairs:
    """The pairs chosen by the miner called ``mining``, or the pairs in its triplets."""
    check_mining(mining, ALL_MINERS)
    if mining in PAIR_MINERS:
        return PAIR_MINERS[mining](candidates)
    return pairs_of(TRIPLET_MINERS[mining](candidates), candidates)


def check_mining(mining: str, known: tuple[str, ...]) -> None:
    """Raise ValueError for a miner that is not in ``known``."""
    if mining not in known:
        raise ValueError(
            unknown_name_message("mining", str(mining), known, hint=f"one of {', '.join(map(repr, known))}")
        )


def _closest(distances: Tensor, allowed: Tensor) -> Tensor:
    return distances.masked_fill(~allowed, math.inf).argmin(1)
