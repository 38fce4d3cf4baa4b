"""Image quality scores from the recognition network itself, and their evaluation.

Two scores need no other network: the length of the embedding before normalization (it tends to be short for images that show
little of a face, 2103.06627), and the cosine between the embeddings of an image and of its mirror image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from facezoo.checks import is_whole
from facezoo.columns import aligned
from facezoo.evaluation.classification import wilson_interval
from facezoo.evaluation.embedding import Embedder, Images, embed_images
from facezoo.evaluation.metrics import verification_metrics
from facezoo.evaluation.scores import ArrayLike, as_numpy, check_scores, jsonable, needed_for


@dataclass(frozen=True, eq=False)
class ImageQuality:
    """Scores of images, higher is better.

    Attributes:
        norm: float32 ``(N,)`` length of the embedding before it is scaled.
        flip_consistency: float32 ``(N,)`` cosine between the embeddings of the image and of its mirror image.
    """

    norm: Tensor
    flip_consistency: Tensor

    def of_pairs(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Both scores for pairs of images, float32 ``(P,)`` by name: the lower score of the two images."""
        scores = {"feature norm": self.norm, "flip consistency": self.flip_consistency}
        return {name: torch.minimum(values[left], values[right]) for name, values in scores.items()}


@dataclass(frozen=True, eq=False)
class DiscardCurve:
    """False reject rate after discarding the pairs of lowest quality. All values are fractions of 1.

    Attributes:
        discarded: float64 ``(S,)`` share of all pairs that is thrown away, ascending from 0.
        frr: float64 ``(S,)`` share of the remaining genuine pairs that is rejected; NaN where none remains.
        low: float64 ``(S,)`` lower end of its 95 % interval (Wilson's, over pairs).
        high: float64 ``(S,)`` upper end.
        far: the false accept rate of all pairs at which the threshold was taken; the threshold stays.
        threshold: that threshold.
    """

    discarded: np.ndarray
    frr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    far: float
    threshold: float

    @property
    def area(self) -> float:
        """Mean FRR over the shares thrown away (trapezoids). Less than ``frr[0]`` if the score finds the bad images."""
        known = ~np.isnan(self.frr)
        places, rates = self.discarded[known], self.frr[known]
        if len(places) < 2:
            return math.nan
        return float(np.sum(np.diff(places) * (rates[1:] + rates[:-1]) / 2) / (places[-1] - places[0]))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; NaN is ``None``."""
        content = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in self.__dict__.items()
        }
        return cast("dict[str, Any]", jsonable({**content, "area": self.area}))


def image_quality(
    model: Embedder,
    images: Images,
    *,
    batch_size: int | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    num_workers: int = 0,
    progress: bool = False,
) -> ImageQuality:
    """Quality scores of images, from the network's embeddings of the images and their mirror images.

    Args:
        model: see :func:`facezoo.evaluation.embed_images`; the others likewise. It must not scale its embeddings itself, or
            all norms are one.
        images: see there.
        batch_size: see there.
        transform: see there.
        num_workers: see there.
        progress: see there.
    """
    both = embed_images(
        model,
        images,
        flip="concat",
        normalize=False,
        batch_size=batch_size,
        transform=transform,
        num_workers=num_workers,
        progress=progress,
    )
    return quality_of(both)


def quality_of(both: Tensor) -> ImageQuality:
    """The quality from float ``(N, 2 D)`` embeddings with ``flip="concat"`` and ``normalize=False``."""
    plain, mirrored = both.chunk(2, dim=1)
    return ImageQuality(torch.linalg.vector_norm(plain, dim=1), cosine_similarity(plain, mirrored, dim=1))


def error_versus_discard(
    scores: ArrayLike, labels: ArrayLike, quality: ArrayLike, *, far: float = 1e-2, steps: int = 10
) -> DiscardCurve:
    """The error-versus-discard curve of a quality score (Grother and Tabassi 2007).

    Args:
        scores: ``(N,)`` similarities.
        labels: ``(N,)`` bool or 0/1, true = same person.
        quality: ``(N,)`` of each pair, higher is better, see :meth:`ImageQuality.of_pairs`. Equal ones are
            thrown away in equal parts, so the order of the pairs does not matter.
        far: the false accept rate of all pairs at which the threshold is taken; the threshold stays.
        steps: points of the curve, from nothing to nine tenths thrown away; at least 2.

    Raises:
        ValueError: as :func:`verification_metrics`, a FAR that the pairs do not resolve, or a quality not finite or not ``(N,)``.
    """
    values, genuine, _ = check_scores(scores, labels)
    worth = as_numpy(quality, "quality")[0].astype(np.float64)
    if worth.shape != values.shape or not np.isfinite(worth).all():
        raise ValueError(
            f"quality is one finite number per pair, ({len(values)},); got {worth.shape} with "
            f"{int((~np.isfinite(worth)).sum())} that are not finite"
        )
    if not is_whole(steps, 2):
        raise ValueError(f"steps is a number of points, at least 2; got {steps!r}")
    threshold = verification_metrics(scores, labels, fars=[far], bootstrap=0).threshold_at_far[far]
    if math.isnan(threshold):
        raise ValueError(
            f"FAR {far:g} is not resolvable from {int((~genuine).sum())} impostor pairs; {needed_for(far):,} are needed"
        )
    ordered, rejected = np.sort(worth), genuine & (values < threshold)
    shares = np.linspace(0, 0.9, steps)
    points = []
    for share in shares:
        gone = round(share * len(ordered))
        limit = ordered[min(gone, len(ordered) - 1)]
        above, tied = worth > limit, worth == limit
        part = (len(ordered) - gone - int(above.sum())) / int(tied.sum())  # of each pair at the limit that is left
        missed, own = (int((kind & above).sum()) + part * int((kind & tied).sum()) for kind in (rejected, genuine))
        points.append((missed / own, *wilson_interval(missed, own)) if own else (math.nan,) * 3)
    frr, low, high = np.array(points).T
    return DiscardCurve(shares, frr, low, high, float(far), float(threshold))


def discard_table(curves: dict[str, DiscardCurve]) -> str:
    """Curves as text: a line for each share thrown away, a column for each score, in per cent."""
    first = next(iter(curves.values()))
    rows = [("thrown away", *curves)]
    for row, share in enumerate(first.discarded):
        cells = [
            "none left"
            if math.isnan(curve.frr[row])
            else f"{curve.frr[row] * 100:.2f} [{curve.low[row] * 100:.2f}, {curve.high[row] * 100:.2f}]"
            for curve in curves.values()
        ]
        rows.append((f"{share * 100:.0f} %", *cells))
    rows.append(("mean", *(f"{curve.area * 100:.2f}" for curve in curves.values())))
    head = f"FRR in % at score >= {first.threshold:.6f} (FAR {first.far:g} of all pairs), worst pairs thrown away first"
    return "\n".join([head, *aligned(rows)])
