"""Label noise found by sub-centers: each class's dominant sub-center, and the samples far from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from facezoo.margins.head import MarginHead
from facezoo.ops.checks import check_embeddings, check_finite, checked_labels
from facezoo.ops.margin import unit_vectors


@dataclass(frozen=True)
class SubCenterReport:
    """Result of :func:`sub_center_report`.

    Attributes:
        dominant: index of the sub-center that is nearest to most samples of a class, 0 for a class without samples, ``(C,)``.
        angle: angle of each sample to the dominant sub-center of its class, in radians, ``(N,)``.
        outliers: whether that angle exceeds the limit, ``(N,)``: samples that the paper drops.
        counts: number of samples for which this sub-center is the nearest, ``(C, K)``.
        centers: the dominant sub-centers, ``(C, D)``, for a head with one center per class.
    """

    dominant: Tensor
    angle: Tensor
    outliers: Tensor
    counts: Tensor
    centers: Tensor


@torch.no_grad()
def sub_center_report(
    head: MarginHead, embeddings: Tensor, labels: Tensor, *, max_angle: float = math.radians(75.0)
) -> SubCenterReport:
    """Find label noise with a trained ``"subcenter_arcface"`` head (Sub-center ArcFace, ECCV 2020).

    The paper trains with K = 3, drops samples farther than 75° from the dominant sub-center of their class, and trains again on
    the rest with one center.

    Args:
        head: a head with sub-centers.
        embeddings: of the training set, ``(N, D)``, on the device of the head.
        labels: int, in [0, C), ``(N,)``.
        max_angle: limit in radians.

    Returns:
        The report, on the device of the head.

    Raises:
        ValueError: the head has one center per class or only a part of the classes, the angle is out of range (degrees, for
            example), a wrong width, no samples, or a label out of range.
        TypeError: labels that are not integers.
        NonFiniteError: NaN or infinity in the embeddings.
    """
    if head.shard is not None:
        raise ValueError("this head holds a part of the classes: load its checkpoint into a head without process_group")
    if head.weight.dim() != 3:
        raise ValueError(f"margin {head.name!r} has one center per class; sub-centers belong to 'subcenter_arcface'")
    if not 0.0 < max_angle <= math.pi:
        raise ValueError(f"max_angle is in radians, above 0 and up to π; got {max_angle}")
    check_embeddings(embeddings, width=head.embedding_dim)
    labels = checked_labels(embeddings, labels, num_classes=head.num_classes)
    check_finite(embeddings, "the embeddings")
    centers = unit_vectors(head.weight)[0]
    cosines = torch.einsum("nd,nkd->nk", unit_vectors(embeddings.to(centers.dtype))[0], centers[labels])
    classes, per_class = centers.shape[:2]
    counts = torch.bincount(labels * per_class + cosines.argmax(1), minlength=classes * per_class)
    counts = counts.view(classes, per_class)
    dominant = counts.argmax(1)
    angle = torch.acos(cosines.gather(1, dominant[labels, None])[:, 0].clamp(-1.0, 1.0))
    return SubCenterReport(
        dominant=dominant,
        angle=angle,
        outliers=angle > max_angle,
        counts=counts,
        centers=head.weight[torch.arange(classes, device=dominant.device), dominant],
    )
