"""Evaluation protocols: verification pairs, LFW's k folds, closed-set classification, and identification in a gallery."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from facezoo.evaluation.embedding import (
    Embedder,
    Flip,
    Images,
    as_dataset,
    embed_images,
    evaluation_mode,
    inference,
    load_batches,
    resolve_device,
    with_progress,
)
from facezoo.evaluation.metrics import (
    ArrayLike,
    Interval,
    VerificationMetrics,
    check_labels,
    check_scores,
    format_figure,
    jsonable,
    threshold_of,
    verification_metrics,
)

if TYPE_CHECKING:
    from facezoo.data import PairList

NO_MATCH = "n000000"
"""What the gallery protocol of HW2P2 (F22-S24) calls a person who is not in the gallery."""


# ------------------------------------------------------------------------------------------------------------ pairs


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
    batch_size: int = 128,
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
        list(pairs.paths),
        batch_size=batch_size,
        device=device,
        flip=flip,
        transform=transform,
        autocast=autocast,
        num_workers=num_workers,
        progress=progress,
    )
    scores = pair_scores(embeddings, pairs.left, pairs.right)
    if pairs.labels is None:
        return PairEvaluation(scores, None, None, None, flip)
    metrics = verification_metrics(
        scores, pairs.labels, fars=fars, confidence=confidence, bootstrap=bootstrap, seed=seed
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
    """
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


# -------------------------------------------------------------------------------------------------- classification


@dataclass(frozen=True)
class ClassificationAccuracy:
    """Closed-set accuracy, fractions of 1.

    Attributes:
        accuracy: share of images whose highest logit is their class.
        top5: share whose class is among the five highest logits (among all, with fewer than five classes).
        accuracy_interval: Wilson score interval of ``accuracy``; it treats images as independent.
        num_images: number of images.
        num_classes: number of classes the model tells apart.
        confidence: confidence of the interval.
    """

    accuracy: float
    top5: float
    accuracy_interval: Interval
    num_images: int
    num_classes: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        return cast("dict[str, Any]", jsonable(self.__dict__))

    def __str__(self) -> str:
        value, interval = format_figure(self.accuracy, self.accuracy_interval, step=1 / self.num_images, percent=True)
        return f"{value} {interval} of {self.num_images:,} images, {self.num_classes:,} classes"


def classification_accuracy(
    model: Embedder,
    dataset: Images,
    *,
    head: nn.Module | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = False,
    confidence: float = 0.95,
) -> ClassificationAccuracy:
    """Closed-set accuracy of a classifier.

    Args:
        model: gives logits ``(N, C)``, or embeddings if ``head`` is given.
        dataset: map-style dataset of ``(image, label)``, label an int in 0..C-1.
        head: a margin head; then the logits are ``head.logits(embeddings)``, free of the margin.
        batch_size: see :func:`embed_images`.
        device: see :func:`embed_images`.
        autocast: see :func:`embed_images`.
        num_workers: see :func:`embed_images`.
        progress: see :func:`embed_images`.
        confidence: confidence of the interval, fraction of 1.

    Raises:
        ValueError: a dataset without labels or with labels outside 0..C-1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a fraction in (0, 1), such as 0.95; got {confidence!r}")
    right = right5 = total = classes = 0
    with evaluation_mode(model, head):
        for logits, labels in _logits(model, dataset, head, None, batch_size, device, autocast, num_workers, progress):
            if labels is None:
                raise ValueError("the dataset gives no labels; classification_accuracy needs (image, label) items")
            classes = logits.shape[1]
            outside = labels[(labels < 0) | (labels >= classes)]
            if len(outside):
                raise ValueError(
                    f"label {int(outside[0])} is outside 0..{classes - 1}: the model tells {classes} classes apart"
                )
            ranked = logits.topk(min(5, classes), dim=1).indices
            hits = ranked == labels.to(logits.device)[:, None]
            right += int(hits[:, 0].sum())
            right5 += int(hits.any(dim=1).sum())
            total += len(labels)
    return ClassificationAccuracy(
        accuracy=right / total,
        top5=right5 / total,
        accuracy_interval=wilson_interval(right, total, confidence),
        num_images=total,
        num_classes=classes,
        confidence=float(confidence),
    )


def classify_images(
    model: Embedder,
    images: Images,
    *,
    head: nn.Module | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    batch_size: int = 128,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """The class of highest logit for each image: int64 ``(N,)`` on the CPU. Arguments as in :func:`classification_accuracy`."""
    with evaluation_mode(model, head):
        batches = _logits(model, images, head, transform, batch_size, device, autocast, num_workers, progress)
        return torch.cat([logits.argmax(dim=1).cpu() for logits, _ in batches])


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, fractions of 1 (Wilson 1927)."""
    z = math.sqrt(2) * float(torch.erfinv(torch.tensor(confidence, dtype=torch.float64)))
    share = successes / trials
    center = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, min(share, (center - half) / scale)), min(1.0, max(share, (center + half) / scale))


def _logits(
    model: Embedder,
    images: Images,
    head: nn.Module | None,
    transform: Callable[[Any], Tensor] | None,
    batch_size: int,
    device: str | torch.device | None,
    autocast: torch.dtype | None,
    num_workers: int,
    progress: bool,
) -> Iterable[tuple[Tensor, Tensor | None]]:
    """Batches of (logits, labels). The caller sets the evaluation mode: a generator that is left early would not restore it."""
    dataset = as_dataset(images, model=model, transform=transform)
    where = resolve_device(model, device)
    if head is not None:
        if not callable(getattr(head, "logits", None)):
            raise TypeError(
                f"head must have a method logits(embeddings), as a facezoo margin head has; got {type(head).__name__}"
            )
        head.to(where)
    embed = model.embed if head is not None and isinstance(model, nn.Module) and hasattr(model, "embed") else model
    batches = load_batches(dataset, batch_size=batch_size, device=where, num_workers=num_workers)
    for batch, labels in with_progress(batches, show=progress, label="classify"):
        with inference(where, autocast):
            output = cast(Callable[[Tensor], Any], embed)(batch)
            if head is not None:
                output = cast(Any, head).logits(output)
            if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(batch):
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise TypeError(f"the classifier must give logits ({len(batch)}, C); got {got}")
            if not bool(torch.isfinite(output).all()):
                raise RuntimeError("the classifier gives NaN or infinite logits; its weights may have diverged")
        yield output, labels


# --------------------------------------------------------------------------------------------------------- gallery


def identify(
    probes: Tensor,
    gallery: Tensor,
    identities: Sequence[str],
    *,
    threshold: float | None = None,
    no_match: str = NO_MATCH,
) -> tuple[str, ...]:
    """The identity of the nearest gallery row, or ``no_match`` (the HW2P2 verification of F22-S24).

    Args:
        probes: float ``(P, D)`` embeddings of unit length.
        gallery: float ``(G, D)`` embeddings of unit length.
        identities: the G names; a name may occur more than once.
        threshold: cosine; below it the answer is ``no_match``. ``None`` always names someone.
        no_match: the answer for a person who is not in the gallery.
    """
    best, nearest = _nearest(probes, gallery, identities)
    names = [identities[index] for index in nearest.tolist()]
    if threshold is None:
        return tuple(names)
    accepted = (best >= threshold).tolist()
    return tuple(name if known else no_match for name, known in zip(names, accepted, strict=True))


def gallery_threshold(
    probes: Tensor,
    gallery: Tensor,
    identities: Sequence[str],
    truth: Sequence[str],
    *,
    no_match: str = NO_MATCH,
) -> tuple[float, float]:
    """The threshold of :func:`identify` that is best on labeled probes (the ``unknown_dev`` set), and its accuracy.

    Args:
        probes: float ``(P, D)`` embeddings of unit length.
        gallery: float ``(G, D)`` embeddings of unit length.
        identities: the G names.
        truth: the P true names, ``no_match`` for persons outside the gallery.
        no_match: the name that stands for them.

    Returns:
        ``(threshold, accuracy)``; the accuracy is a fraction of 1 and optimistic, since it is the best on these very probes.
    """
    best, nearest = _nearest(probes, gallery, identities)
    if len(truth) != len(best):
        raise ValueError(f"{len(best)} probes but {len(truth)} true names")
    hit = np.array([identities[index] == name for index, name in zip(nearest.tolist(), truth, strict=True)])
    unknown = np.array([name == no_match for name in truth])
    order = np.argsort(-best.numpy(), kind="stable")
    value, hit, unknown = best.numpy()[order], hit[order], unknown[order]
    # Accept the k nearest: right are the hits among them and the unknown among the rest. Only between distinct scores can one cut.
    right = np.concatenate([[0], np.cumsum(hit)]) + unknown.sum() - np.concatenate([[0], np.cumsum(unknown)])
    cut = np.concatenate([[True], value[1:] != value[:-1], [True]])
    point = int(np.argmax(np.where(cut, right, -1)))
    if point == 0:
        threshold = float(np.nextafter(value[0], np.float32(np.inf)))
    elif point == len(value):
        threshold = float(value[-1])
    else:
        middle = np.float32((float(value[point - 1]) + float(value[point])) / 2)
        threshold = float(middle) if middle > value[point] else float(value[point - 1])
    return threshold, int(right[point]) / len(value)


def _nearest(probes: Tensor, gallery: Tensor, identities: Sequence[str]) -> tuple[Tensor, Tensor]:
    if probes.ndim != 2 or gallery.ndim != 2 or probes.shape[1] != gallery.shape[1] or 0 in (len(probes), len(gallery)):
        raise ValueError(
            f"probes and gallery must be (P, D) and (G, D), not empty; got {tuple(probes.shape)} and {tuple(gallery.shape)}"
        )
    if len(identities) != len(gallery):
        raise ValueError(f"the gallery has {len(gallery)} rows but {len(identities)} identities")
    found = [(block.float() @ gallery.float().T).max(dim=1) for block in probes.split(4096)]
    return torch.cat([part.values for part in found]).cpu(), torch.cat([part.indices for part in found]).cpu()
