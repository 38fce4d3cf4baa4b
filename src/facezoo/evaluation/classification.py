"""Closed-set classification: which identity of the training set an image shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from facezoo.evaluation.embedding import (
    Embedder,
    Images,
    as_dataset,
    at_rest,
    device_of,
    embeddings_in,
    in_type_of,
    inference,
    load_batches,
    logits_in,
    with_progress,
)
from facezoo.evaluation.scores import Interval, format_figure, jsonable
from facezoo.modes import view_in_mode


@dataclass(frozen=True)
class ClassificationAccuracy:
    """Closed-set accuracy, fractions of 1.

    Attributes:
        accuracy: share of images whose highest logit is their class.
        top5: share whose class is among the five highest logits (among all, with fewer than five classes).
        accuracy_interval: Wilson score interval of ``accuracy``; it treats images as independent.
        num_images: number of images.
        num_classes: number of classes of the model.
        confidence: confidence of the interval.
        loss: mean cross-entropy of the logits, nats.
    """

    accuracy: float
    top5: float
    accuracy_interval: Interval
    num_images: int
    num_classes: int
    confidence: float
    loss: float = math.nan

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
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = False,
    confidence: float = 0.95,
) -> ClassificationAccuracy:
    """Closed-set accuracy of a classifier.

    Args:
        model: gives logits ``(N, C)``, or embeddings if ``head`` is given.
        dataset: map-style dataset of ``(image, label)``, label a whole number in 0..C-1 (also NumPy's, or a tensor).
        head: a margin head; the logits are then ``head.logits(embeddings)``, without the margin.
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
    loss = 0.0
    for logits, labels in _logits(model, dataset, head, None, batch_size, device, autocast, num_workers, progress):
        if labels is None:
            raise ValueError(
                "the dataset gives no labels; classification_accuracy needs (image, label) items, each label a whole number"
            )
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
        loss += float(cross_entropy(logits.float(), labels.to(logits.device), reduction="sum"))
    return ClassificationAccuracy(
        accuracy=right / total,
        top5=right5 / total,
        accuracy_interval=wilson_interval(right, total, confidence),
        num_images=total,
        num_classes=classes,
        confidence=float(confidence),
        loss=loss / total,
    )


def classify_images(
    model: Embedder,
    images: Images,
    *,
    head: nn.Module | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    batch_size: int | None = None,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """The class with the highest logit for each image: int64 ``(N,)`` on the CPU. Arguments as in
    :func:`classification_accuracy`."""
    batches = _logits(model, images, head, transform, batch_size, device, autocast, num_workers, progress)
    return torch.cat([logits.argmax(dim=1).cpu() for logits, _ in batches])


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion, fractions of 1 (Wilson 1927). The number of effective trials may be fractional."""
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
    batch_size: int | None,
    device: str | torch.device | None,
    autocast: torch.dtype | None,
    num_workers: int,
    progress: bool,
) -> Iterable[tuple[Tensor, Tensor | None]]:
    """Batches of (logits, labels)."""
    where = device_of(model, device)
    model = at_rest(model)
    dataset = as_dataset(images, model=model, transform=transform)
    if head is not None:
        if not callable(getattr(head, "logits", None)):
            raise TypeError(
                f"head must have a method logits(embeddings), as a facezoo margin head has; got {type(head).__name__}"
            )
        head = view_in_mode(head.to(where), training=False)
    embed = model.embed if head is not None and hasattr(model, "embed") else model
    batches = load_batches(dataset, batch_size=batch_size, device=where, num_workers=num_workers)
    for batch, labels in with_progress(batches, show=progress, label="classify"):
        with inference(where, autocast):
            output = cast(Callable[[Tensor], Any], embed)(in_type_of(model, batch, autocast))
            output = logits_in(output) if head is None else cast(Any, head).logits(embeddings_in(output))
            if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(batch):
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise TypeError(f"the classifier must give logits ({len(batch)}, C); got {got}")
            if not bool(torch.isfinite(output).all()):
                raise RuntimeError("the classifier gives NaN or infinite logits; its weights may have diverged")
        yield output, labels
