"""Nearest rows of a gallery: exact, block by block, or by FAISS where there are millions."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from facezoo.evaluation.scores import true_positions

NO_MATCH = "n000000"
"""What the gallery protocol of HW2P2 (F22-S24) calls a person who is not in the gallery."""

Engine: TypeAlias = Literal["exact", "faiss"]
_BLOCK_SCORES = 1 << 22  # scores alive at once: 16 MiB


def nearest(probes: Tensor, templates: Tensor, k: int = 1, *, engine: Engine = "exact") -> tuple[Tensor, Tensor]:
    """The ``k`` templates of greatest dot product with each probe, best first.

    Args:
        probes: float ``(P, D)`` embeddings of unit length.
        templates: float ``(G, D)`` of unit length, on the same device.
        k: how many; all, if there are fewer.
        engine: ``"exact"`` compares everything with everything, in blocks of bounded memory; equal scores are given in the order
            of the templates. ``"faiss"`` searches a graph (HNSW) and misses some; see :func:`search_recall`.

    Returns:
        Scores float32 ``(P, k)`` and rows int64 ``(P, k)``, both on the CPU.

    Raises:
        ValueError: shapes that do not fit, or ``k`` below 1.
        ImportError: FAISS is not installed.
    """
    _check_shapes(probes, templates)
    if k < 1:
        raise ValueError(f"k is at least 1, got {k}")
    k = min(k, len(templates))
    if engine == "faiss":
        return _search_faiss(probes, templates, k)
    if engine != "exact":
        raise ValueError(f"engine is 'exact' or 'faiss', got {engine!r}")
    rows = min(len(probes), 1024)
    columns = max(k, _BLOCK_SCORES // max(rows, 1))
    scores, found = [], []
    for block in probes.float().split(rows):
        values, where = _top(block @ templates[:columns].float().T, k)
        for start in range(columns, len(templates), columns):
            values, where = _merge(values, where, block @ templates[start : start + columns].float().T, start)
        scores.append(values.cpu())
        found.append(where.cpu())
    return torch.cat(scores), torch.cat(found)


def _merge(best: Tensor, where: Tensor, scores: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """The best of what was found before and of a block whose columns begin at ``start``.

    Few scores of a block are above the worst of the best, so it is enough to look at those. An equal score comes too late.
    """
    k = best.shape[1]
    places = true_positions(scores > best[:, -1:])
    row, column = places // scores.shape[1], places % scores.shape[1]
    counts = torch.bincount(row, minlength=len(best))
    most = int(counts.max())
    if most == 0:
        return best, where
    if most > 4 * k + 64:
        values, index = _top(scores, k)
        index += start
    else:
        values = torch.full((len(best), most), -math.inf, device=best.device)
        index = torch.zeros(len(best), most, dtype=torch.int64, device=best.device)
        place = torch.arange(len(row), device=best.device) - (counts.cumsum(0) - counts)[row]
        values[row, place] = scores[row, column]
        index[row, place] = column + start
    values, index = torch.cat([best, values], dim=1), torch.cat([where, index], dim=1)
    order = values.argsort(dim=1, descending=True, stable=True)[:, :k]
    return values.gather(1, order), index.gather(1, order)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` highest of each row, equal ones in order; ``topk`` chooses freely among equal ones."""
    if k == 1:
        return scores.max(dim=1, keepdim=True)
    values, index = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if scores.shape[1] <= k or not bool((values[:, k - 1] == values[:, -1]).any()):
        index = index[:, :k].sort(dim=1).values
    else:
        index = scores.argsort(dim=1, descending=True, stable=True)[:, :k].sort(dim=1).values
    values = scores.gather(1, index)
    order = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order), index.gather(1, order)


def search_recall(probes: Tensor, templates: Tensor, k: int = 1, *, engine: Engine = "faiss") -> float:
    """Share of the exact ``k`` nearest that ``engine`` finds, a fraction of 1. Arguments as in :func:`nearest`."""
    _, exact = nearest(probes, templates, k)
    _, found = nearest(probes, templates, k, engine=engine)
    hits = (exact[:, :, None] == found[:, None, :]).any(dim=2)
    return float(hits.float().mean())


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
    best, names = _nearest_names(probes, gallery, identities)
    if threshold is None:
        return names
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
    best, names = _nearest_names(probes, gallery, identities)
    if len(truth) != len(best):
        raise ValueError(f"{len(best)} probes but {len(truth)} true names")
    hit = np.array([found == name for found, name in zip(names, truth, strict=True)])
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


def _nearest_names(probes: Tensor, gallery: Tensor, identities: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    _check_shapes(probes, gallery)
    if len(identities) != len(gallery):
        raise ValueError(f"the gallery has {len(gallery)} rows but {len(identities)} identities")
    scores, rows = nearest(probes, gallery)
    return scores[:, 0], tuple(identities[row] for row in rows[:, 0].tolist())


def _check_shapes(probes: Tensor, gallery: Tensor) -> None:
    if probes.ndim != 2 or gallery.ndim != 2 or probes.shape[1] != gallery.shape[1] or 0 in (len(probes), len(gallery)):
        raise ValueError(
            f"probes and gallery must be (P, D) and (G, D), not empty; got {tuple(probes.shape)} and {tuple(gallery.shape)}"
        )


def _search_faiss(probes: Tensor, templates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError(
            "this search needs FAISS: pip install 'facezoo[faiss]', or leave the engine 'exact'"
        ) from error
    index = faiss.IndexHNSWFlat(templates.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, max(64, 2 * k)
    index.add(np.ascontiguousarray(templates.detach().cpu().float().numpy()))
    scores, rows = index.search(np.ascontiguousarray(probes.detach().cpu().float().numpy()), k)
    return torch.from_numpy(scores), torch.from_numpy(rows)
