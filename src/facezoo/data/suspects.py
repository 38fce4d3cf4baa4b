"""Find images whose label is probably wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_AT_ONCE = 4096


@dataclass(frozen=True)
class Suspect:
    """An image that is nearer to another identity than to its own.

    Attributes:
        index: row of the image.
        own: cosine to the mean of the other images of its identity.
        other: label of the identity whose mean is nearest.
        cosine: to that mean.
    """

    index: int
    own: float
    other: int
    cosine: float


def suspects(embeddings: Tensor, labels: Sequence[int] | Tensor, *, least: int = 3) -> list[Suspect]:
    """Images nearer to another identity's mean than to the mean of the other images of their own.

    An image is not part of the mean that it is compared with, so identities with one image are never reported. Identities with
    fewer than ``least`` images are not considered as the better match, because their mean is unreliable.

    Args:
        embeddings: (N, D); they are scaled to unit length.
        labels: (N,), from 0.
        least: smallest number of images of an identity that may be the better match.

    Returns:
        Those images, the largest difference of cosines first.

    Raises:
        ValueError: shapes that do not fit, a negative label, or embeddings that are not finite.
    """
    targets = torch.as_tensor(labels, dtype=torch.int64)
    if embeddings.ndim != 2 or targets.shape != (len(embeddings),):
        raise ValueError(
            f"expected embeddings (N, D) and N labels, got {tuple(embeddings.shape)} and {tuple(targets.shape)}"
        )
    if len(targets) and int(targets.min()) < 0:
        raise ValueError("a label is negative; leave out images without a label")
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError("an embedding is NaN or infinite")
    units = torch.nn.functional.normalize(embeddings.to(torch.float32), dim=1)
    people = int(targets.max()) + 1 if len(targets) else 0
    sums = torch.zeros(people, units.shape[1]).index_add_(0, targets, units)
    counts = torch.bincount(targets, minlength=people)
    means = torch.nn.functional.normalize(sums, dim=1)
    found = []
    for start in range(0, len(units), _AT_ONCE):
        rows, own = units[start : start + _AT_ONCE], targets[start : start + _AT_ONCE]
        without = torch.nn.functional.normalize(sums[own] - rows, dim=1)
        cosine = (rows * without).sum(dim=1)
        others = rows @ means.T
        others[:, counts < least] = -2.0
        others.scatter_(1, own.unsqueeze(1), -2.0)
        best, which = others.max(dim=1)
        for row in ((best > cosine) & (counts[own] > 1)).nonzero().flatten().tolist():
            found.append(Suspect(start + row, float(cosine[row]), int(which[row]), float(best[row])))
    return sorted(found, key=lambda suspect: suspect.own - suspect.cosine)
