"""Scores of all pairs of many embeddings, computed and counted tile by tile in bounded memory."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facezoo.arrays import read_arrays
from facezoo.evaluation.embedding import with_progress
from facezoo.evaluation.scores import unit_lengths
from facezoo.evaluation.streaming import Scored, ScoreHistogram
from facezoo.files import atomic_path

_SAVE_EVERY = 60.0  # seconds between two saves of the counts


def all_pairs(
    embeddings: Tensor,
    people: Tensor,
    *,
    tile: int = 2048,
    part: int = 0,
    parts: int = 1,
    start: int = 0,
    reuse: bool = False,
) -> Iterator[Scored]:
    """The score of every pair of ``N`` embeddings, once, and the positions of the genuine pairs; tile by tile, without ``N²``
    memory.

    Args:
        embeddings: float ``(N, D)`` of unit length, on any device.
        people: int64 ``(N,)``.
        tile: rows and columns of a tile.
        part: index of the part of the tiles to compute, such as the rank.
        parts: number of parts.
        start: number of tiles of this part to skip, to resume an interrupted pass.
        reuse: write all tiles into the same memory, which is faster; a tile is overwritten by the next one.

    Yields:
        Float ``(rows, columns)`` of a tile, or ``(n,)`` of the pairs of a tile with itself; and int64 ``(m,)`` positions of the
        genuine pairs among the flattened scores.
    """
    embeddings, people = embeddings.detach(), people.to(embeddings.device)
    blocks = embeddings.split(tile)
    owners = [(block, int(block.min()), int(block.max())) for block in people.split(tile)]
    above: dict[int, Tensor] = {}
    room = embeddings.new_empty(min(tile, len(embeddings)) ** 2) if reuse else None
    for row, column in _tiles(len(blocks), part, parts)[start:]:
        shape = (len(blocks[row]), len(blocks[column]))
        scores = embeddings.new_empty(shape) if room is None else room[: shape[0] * shape[1]].view(shape)
        torch.mm(blocks[row], blocks[column].T, out=scores)
        same = _equal_pairs(owners[row], owners[column])
        if row != column:
            yield scores, same
            continue
        size = len(scores)
        if size not in above:
            first, second = torch.triu_indices(size, size, 1, device=scores.device)
            above = {size: first * size + second}
        places = torch.searchsorted(above[size], same[same // size < same % size])
        yield scores.flatten().index_select(0, above[size]), places


def count_pairs(
    embeddings: Tensor,
    people: Tensor,
    *,
    tile: int = 2048,
    part: int = 0,
    parts: int = 1,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> ScoreHistogram:
    """Count the scores of all pairs in a histogram, for :func:`facezoo.evaluation.streaming.streamed_figures`.

    Args:
        embeddings: see :func:`all_pairs`.
        people: likewise.
        tile: likewise.
        part: likewise; merge the histograms of all parts to get that of all pairs.
        parts: likewise.
        resume: file in which the counts are saved once a minute; if it exists, counting resumes from it.
        progress: show a progress bar.

    Raises:
        ValueError: an embedding is not finite or not of unit length, or ``resume`` belongs to other data.
    """
    lengths = unit_lengths(embeddings)
    histogram, done = ScoreHistogram(), 0
    key = "" if resume is None else _key(embeddings, people, tile, part, parts)
    if resume is not None and Path(resume).exists():
        histogram, done = _resumed(Path(resume), key)
    total = len(_tiles(math.ceil(len(embeddings) / tile), part, parts))
    bounded = float(lengths.max()) ** 2 < 1 + histogram.width / 4
    rest = all_pairs(embeddings, people, tile=tile, part=part, parts=parts, start=done, reuse=True)
    saved = time.monotonic()
    for number, (scores, same) in zip(
        with_progress(range(done, total), show=progress, label="pairs"), rest, strict=True
    ):
        histogram.add(scores, same, bounded=bounded)
        if resume is not None and (time.monotonic() - saved > _SAVE_EVERY or number == total - 1):
            saved = time.monotonic()
            _save(Path(resume), key, histogram, number + 1)
    return histogram


def _tiles(blocks: int, part: int, parts: int) -> list[tuple[int, int]]:
    """Row and column of this part's tiles on and above the diagonal."""
    return [(row, column) for row in range(blocks) for column in range(row, blocks)][part::parts]


def _key(embeddings: Tensor, people: Tensor, *shape: int) -> str:
    """A hash of the data and settings of the count."""
    digest = hashlib.sha256(f"{tuple(embeddings.shape)} {embeddings.dtype} {shape}".encode())
    for rows in (*embeddings.detach().split(4096), people):
        content = rows.cpu()
        digest.update((content.float() if content.is_floating_point() else content).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(file: Path, key: str, histogram: ScoreHistogram, done: int) -> None:
    with atomic_path(file) as temporary, temporary.open("wb") as stream:
        np.savez(stream, key=np.array(key), done=done, genuine=histogram.genuine, impostor=histogram.impostor)


def _resumed(file: Path, key: str) -> tuple[ScoreHistogram, int]:
    try:
        content = read_arrays(file, ("key", "done", "genuine", "impostor"))
        found, done = str(content["key"]), int(content["done"])
        histogram = ScoreHistogram(genuine=content["genuine"], impostor=content["impostor"])
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no counts of pairs ({str(error)[:100]}); remove it to begin anew") from None
    if found != key:
        raise ValueError(f"{file} belongs to other embeddings, people or tiles; remove it to begin anew")
    return histogram, done


_Block = tuple[Tensor, int, int]
"""Index of the people, and the lowest and highest one."""


def _equal_pairs(rows_of: _Block, columns_of: _Block) -> Tensor:
    """Flat positions in the table of rows × columns where the two people are equal."""
    (first, low, high), (second, lowest, highest) = rows_of, columns_of
    if high < lowest or highest < low:  # the usual case if rows are sorted by person
        return torch.zeros(0, dtype=torch.int64, device=first.device)
    ordered, order = second.sort()
    start, end = (torch.searchsorted(ordered, first, right=right) for right in (False, True))
    counts = end - start
    rows = torch.arange(len(first), device=first.device).repeat_interleave(counts)
    within = torch.arange(len(rows), device=first.device) - (counts.cumsum(0) - counts)[rows]
    return rows * len(second) + order[start[rows] + within]
