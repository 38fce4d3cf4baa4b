"""Nearest rows of a gallery: exact, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

NO_MATCH = "n000000"
"""What the gallery protocol of HW2P2 (F22-S24) calls a person who is not in the gallery."""


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
