"""Verification pairs: their cosines, their figures, and LFW's k folds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from facezoo.evaluation.clusters import people_of
from facezoo.evaluation.embedding import Embedder, Flip, at_rest, default_transform, embed_images
from facezoo.evaluation.metrics import VerificationMetrics, threshold_of, verification_metrics
from facezoo.evaluation.scores import ArrayLike, check_labels, check_scores, format_figure, jsonable, unit_lengths

if TYPE_CHECKING:
    from facezoo.data import PairList


@dataclass(frozen=True)
class KFoldAccuracy:
    """Accuracy by the LFW protocol (Huang et al. 2007). Fractions of 1; thresholds in the unit of the scores.

    Attributes:
        mean: mean accuracy over the folds.
        std_error: ``std(per_fold, ddof=1) / sqrt(k)``.
        per_fold: accuracy on each fold, with the threshold that is best on all the others.
        thresholds: that threshold for each fold; rule ``score >= threshold``.
        folds: the fold numbers, in the order of ``per_fold``.
    """

    mean: float
    std_error: float
    per_fold: tuple[float, ...]
    thresholds: tuple[float, ...]
    folds: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return cast("dict[str, Any]", jsonable(self.__dict__))

    def __str__(self) -> str:
        limits = (self.mean - self.std_error, self.mean + self.std_error)
        error, _ = format_figure(self.std_error, limits, step=0.0, percent=True)
        mean, _ = format_figure(self.mean, limits, step=0.0, percent=True)
        if self.std_error == 0:  # all folds alike; the digits of the standard error say nothing
            mean, error = f"{self.mean * 100:.2f} %", "0 %"
        return f"{mean} ± {error} (mean and standard error over {len(self.per_fold)} folds)"


@dataclass(frozen=True, eq=False)
class PairEvaluation:
    """What a model makes of a list of pairs.

    Attributes:
        scores: float32 ``(P,)`` cosines, in the order of the list.
        labels: bool ``(P,)``, true = same person; ``None`` for a test list.
        metrics: verification figures; ``None`` without labels.
        kfold: k-fold accuracy; ``None`` without labels or folds.
        flip: the test-time augmentation that made the scores.
    """

    scores: Tensor
    labels: Tensor | None
    metrics: VerificationMetrics | None
    kfold: KFoldAccuracy | None
    flip: str = "none"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict of the figures, without the scores."""
        return {
            "pairs": len(self.scores),
            "flip": self.flip,
            "metrics": self.metrics.to_dict() if self.metrics else None,
            "kfold": self.kfold.to_dict() if self.kfold else None,
        }

    def __str__(self) -> str:
        lines = [self.metrics.summary() if self.metrics else f"{len(self.scores):,} scored pairs without labels"]
        if self.kfold:
            lines.append(f"{len(self.kfold.per_fold)}-fold accuracy  {self.kfold}")
        return "\n".join(lines)


def evaluate_pairs(
    model: Embedder,
    pairs: PairList,
    *,
    flip: Flip = "none",
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    autocast: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = False,
    fars: Iterable[float] = (1e-1, 1e-2, 1e-3),
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> PairEvaluation:
    """Embed each image of the list once, score the pairs by cosine, and compute the figures that the list allows.

    Args:
        model: see :func:`embed_images`.
        pairs: a ``facezoo.data.PairList``; without labels only the scores are computed.
        flip: see :func:`embed_images`.
        batch_size: see :func:`embed_images`.
        device: see :func:`embed_images`.
        transform: PIL image to float tensor; default: the evaluation transform of ``model.preprocessing``.
        autocast: see :func:`embed_images`.
        num_workers: see :func:`embed_images`.
        progress: see :func:`embed_images`.
        fars: see :func:`verification_metrics`.
        confidence: see :func:`verification_metrics`.
        bootstrap: see :func:`verification_metrics`.
        seed: see :func:`verification_metrics`.

    Raises:
        ValueError: an empty list, or labels or folds that allow no figures.
    """
    if len(pairs) == 0:
        raise ValueError("the pair list is empty")
    embeddings = embed_images(
        model,
        pairs.images(transform or default_transform(at_rest(model))),
        batch_size=batch_size,
        device=device,
        flip=flip,
        autocast=autocast,
        num_workers=num_workers,
        progress=progress,
    )
    return evaluate_embedded_pairs(
        embeddings, pairs, flip=flip, fars=fars, confidence=confidence, bootstrap=bootstrap, seed=seed
    )


def evaluate_embedded_pairs(
    embeddings: Tensor,
    pairs: PairList,
    *,
    flip: Flip = "none",
    fars: Iterable[float] = (1e-1, 1e-2, 1e-3),
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> PairEvaluation:
    """:func:`evaluate_pairs` from the embeddings of the list's images, ``(N, D)`` of unit length, in the order of its paths."""
    scores = pair_scores(embeddings, pairs.left, pairs.right)
    if pairs.labels is None:
        return PairEvaluation(scores, None, None, None, flip)
    metrics = verification_metrics(
        scores, pairs.labels, fars=fars, confidence=confidence, bootstrap=bootstrap, seed=seed, people=people_of(pairs)
    )
    kfold = None if pairs.folds is None else kfold_accuracy(scores, pairs.labels, pairs.folds)
    return PairEvaluation(scores, pairs.labels, metrics, kfold, flip)


def pair_scores(embeddings: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Cosines of pairs of rows.

    Args:
        embeddings: float ``(N, D)`` of unit length.
        left: int64 ``(P,)`` rows of the first images.
        right: int64 ``(P,)`` rows of the second images.

    Returns:
        float32 ``(P,)`` in [-1, 1]. Pairs are gathered in blocks: millions of them need no ``(P, D)`` copy.

    Raises:
        ValueError: an embedding is neither of unit length nor zero.
    """
    unit_lengths(embeddings, empty_too=True)
    scores = torch.empty(len(left))
    for start in range(0, len(left), 65_536):
        block = slice(start, start + 65_536)
        scores[block] = (embeddings[left[block]] * embeddings[right[block]]).sum(dim=1)
    return scores.clamp_(-1, 1)


def kfold_accuracy(scores: ArrayLike, labels: ArrayLike, folds: ArrayLike) -> KFoldAccuracy:
    """The LFW protocol: the threshold from all other folds, the accuracy on the fold.

    Args:
        scores: ``(N,)`` similarities.
        labels: ``(N,)`` bool or 0/1, true = same person.
        folds: ``(N,)`` integers, the fold of each pair; their values are free.

    Raises:
        ValueError: fewer than two folds, a fold with one class only (lists that hold all genuine pairs first, cut without
            shuffling, have such folds), and what :func:`verification_metrics` raises.
    """
    values, genuine, rounding = check_scores(scores, labels)
    numbers = np.asarray(folds.detach().cpu() if isinstance(folds, Tensor) else folds)
    if numbers.shape != values.shape:
        raise ValueError(f"folds must have one entry per pair: {numbers.shape} folds, {values.shape} scores")
    if numbers.dtype.kind not in "iu":
        raise TypeError(f"folds must be integers, got {numbers.dtype}")
    names = np.unique(numbers)
    if len(names) < 2:
        raise ValueError(f"k-fold accuracy needs at least two folds; all pairs are in fold {names.tolist()}")
    for name in names:
        members = genuine[numbers == name]
        if members.all() or not members.any():
            raise ValueError(
                f"fold {name} holds {len(members)} {'genuine' if members[0] else 'impostor'} pairs only; every fold needs both "
                "kinds (a list with all genuine pairs first must not be cut into contiguous folds; see make_folds)"
            )
    per_fold, thresholds = [], []
    for name in names:
        own = numbers == name
        threshold = threshold_of(values[~own], genuine[~own], rounding)
        per_fold.append(float(np.mean((values[own] >= threshold) == genuine[own])))
        thresholds.append(threshold)
    return KFoldAccuracy(
        mean=float(np.mean(per_fold)),
        std_error=float(np.std(per_fold, ddof=1) / math.sqrt(len(per_fold))),
        per_fold=tuple(per_fold),
        thresholds=tuple(thresholds),
        folds=tuple(int(name) for name in names),
    )


def make_folds(labels: ArrayLike, num_folds: int = 10, *, seed: int = 0) -> Tensor:
    """Folds for a list that has none: each gets its share of genuine and of impostor pairs, by lot.

    Args:
        labels: ``(N,)`` bool or 0/1.
        num_folds: number of folds, at least 2 and at most the number of pairs of the smaller class.
        seed: seed of the lot.

    Returns:
        int64 ``(N,)`` in 0..num_folds-1. Unlike LFW's own folds they do not keep identities apart.
    """
    genuine = check_labels(labels)
    fewest = int(min(genuine.sum(), (~genuine).sum()))
    if not 2 <= num_folds <= fewest:
        raise ValueError(f"num_folds must lie between 2 and {fewest}, the size of the smaller class; got {num_folds}")
    rng = np.random.default_rng(seed)
    folds = np.empty(len(genuine), dtype=np.int64)
    for kind in (True, False):
        members = rng.permutation(np.flatnonzero(genuine == kind))
        folds[members] = np.arange(len(members)) % num_folds
    return torch.from_numpy(folds)
