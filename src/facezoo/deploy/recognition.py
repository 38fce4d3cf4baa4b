"""Compare verification figures before and after a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from facezoo.evaluation import embed_images, verification_metrics
from facezoo.evaluation.embedding import Embedder, Flip, at_rest, default_transform
from facezoo.evaluation.pairs import pair_scores

if TYPE_CHECKING:
    from facezoo.data import PairList


@dataclass(frozen=True)
class RecognitionDrop:
    """Two networks on one list of pairs. Rates are fractions of 1.

    Attributes:
        num_pairs: number of pairs.
        min_cosine: smallest cosine between the two embeddings of an image.
        mean_cosine: mean of those cosines.
        max_score_change: largest change of a pair's cosine score.
        eer_reference: equal error rate of the reference; None for pairs without labels.
        eer_candidate: equal error rate of the candidate.
        eer_change: candidate minus reference; a value above 0 is worse.
        eer_change_interval: 95 % bootstrap interval of the change, both networks on the same resampled pairs. It treats pairs as
            independent.
    """

    num_pairs: int
    min_cosine: float
    mean_cosine: float
    max_score_change: float
    eer_reference: float | None = None
    eer_candidate: float | None = None
    eer_change: float | None = None
    eer_change_interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        text = (
            f"{self.num_pairs} pairs: cosine between the embeddings mean {self.mean_cosine:.5f}, min. {self.min_cosine:.5f}; "
            f"biggest change of a score {self.max_score_change:.4f}"
        )
        if self.eer_change is None or self.eer_change_interval is None:
            return text
        low, high = self.eer_change_interval
        return (
            f"{text}\nEER {self.eer_reference:.2%} -> {self.eer_candidate:.2%}, change {self.eer_change:+.2%} "
            f"(95 % interval {low:+.2%} to {high:+.2%})"
        )


def compare_recognition(
    reference: Embedder,
    candidate: Embedder,
    pairs: PairList,
    *,
    flip: Flip = "none",
    batch_size: int = 128,
    bootstrap: int = 200,
    seed: int = 0,
) -> RecognitionDrop:
    """Compare ``candidate`` (such as an 8-bit file) with ``reference`` on labeled or unlabeled pairs.

    Args:
        reference: network or callable, see :func:`facezoo.evaluation.embed_images`; each uses its own preprocessing.
        candidate: another network or callable, such as an :class:`ExportedNetwork`.
        pairs: a ``facezoo.data.PairList``.
        flip: test-time augmentation of both.
        batch_size: images per batch.
        bootstrap: number of resamples for the interval of the change.
        seed: seed of the resampling.

    Raises:
        ValueError: an empty list, or labels of only one kind.
    """
    if len(pairs) == 0:
        raise ValueError("the pair list is empty")
    embeddings = [
        embed_images(model, pairs.images(default_transform(at_rest(model))), flip=flip, batch_size=batch_size)
        for model in (reference, candidate)
    ]
    cosines = (embeddings[0] * embeddings[1]).sum(dim=1)
    scores = [pair_scores(embedding, pairs.left, pairs.right) for embedding in embeddings]
    shared: dict[str, Any] = {
        "num_pairs": len(pairs),
        "min_cosine": float(cosines.min()),
        "mean_cosine": float(cosines.mean()),
        "max_score_change": float((scores[1] - scores[0]).abs().max()),
    }
    if pairs.labels is None:
        return RecognitionDrop(**shared)
    errors = [_eer(values, pairs.labels) for values in scores]
    return RecognitionDrop(
        **shared,
        eer_reference=errors[0],
        eer_candidate=errors[1],
        eer_change=errors[1] - errors[0],
        eer_change_interval=_paired_interval(scores, pairs.labels, bootstrap, seed),
    )


def _eer(scores: Tensor, labels: Tensor) -> float:
    return verification_metrics(scores, labels, bootstrap=0).eer


def _paired_interval(scores: list[Tensor], labels: Tensor, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the change. Genuine and impostor pairs are resampled separately, in the same way for both
    networks."""
    rng = np.random.default_rng(seed)
    kinds = [labels.nonzero().flatten().numpy(), (~labels).nonzero().flatten().numpy()]
    changes = []
    for _ in range(resamples):
        drawn = torch.from_numpy(np.concatenate([rng.choice(kind, len(kind)) for kind in kinds]))
        changes.append(_eer(scores[1][drawn], labels[drawn]) - _eer(scores[0][drawn], labels[drawn]))
    low, high = np.quantile(changes, [0.025, 0.975])
    return float(low), float(high)
