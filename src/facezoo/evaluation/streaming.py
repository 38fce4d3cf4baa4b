"""Figures of billions of scores in bounded memory: counts in fixed bins, and exact figures by a second pass over a few bins.

The first pass counts genuine and impostor scores in bins of equal width. A figure read off these counts has its threshold right to
one bin. For the exact figure a second pass keeps the scores of those bins alone in which it can lie; what is above them is known
as a count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from facezoo.evaluation.counts import Counts, allowed_false_accepts, auc_of, eer_of, point_at, threshold_at

Scored = tuple[Tensor, Tensor]


@dataclass(eq=False)
class ScoreHistogram:
    """Counts of scores in bins of equal width. Counts of several parts (ranks, tiles, sessions) add up.

    Attributes:
        bins: number of bins.
        low: lower edge of the first bin; lower scores are counted in it.
        high: upper edge of the last bin; higher scores are counted in it.
        genuine: int64 ``(bins,)`` genuine scores per bin.
        impostor: int64 ``(bins,)`` impostor scores per bin.
    """

    bins: int = 1 << 16
    low: float = -1.0
    high: float = 1.0
    genuine: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    impostor: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def __post_init__(self) -> None:
        if self.bins < 2 or not self.low < self.high:
            raise ValueError(f"bins is at least 2 and low is below high; got {self.bins}, {self.low}, {self.high}")
        for name in ("genuine", "impostor"):
            counts = getattr(self, name)
            setattr(self, name, np.zeros(self.bins, dtype=np.int64) if not len(counts) else counts)
            if getattr(self, name).shape != (self.bins,):
                raise ValueError(f"{name} has {len(counts)} counts for {self.bins} bins")

    @property
    def width(self) -> float:
        """Width of a bin: how far a threshold can be from the exact one."""
        return (self.high - self.low) / self.bins

    def bin_of(self, scores: Tensor) -> Tensor:
        """The bin of every score, int64 of the same shape. A monotone function: bins never change the order of scores."""
        scale, offset = self.bins / (self.high - self.low), -self.low * self.bins / (self.high - self.low)
        return (scores.float() * scale + offset).clamp_(0, self.bins - 1).long()

    def add(self, scores: Tensor, genuine: Tensor) -> None:
        """Count scores of any shape, with bool labels of the same shape.

        Raises:
            ValueError: NaN scores, or shapes that differ.
        """
        if scores.shape != genuine.shape:
            raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(genuine.shape)} differ in shape")
        if bool(torch.isnan(scores).any()):
            raise ValueError("scores must not be NaN; look at the embeddings")
        bins = self.bin_of(scores.flatten())
        every = torch.bincount(bins, minlength=self.bins)
        same = torch.bincount(bins[genuine.flatten()], minlength=self.bins)
        self.genuine += same.cpu().numpy()
        self.impostor += (every - same).cpu().numpy()

    def merge(self, other: ScoreHistogram) -> None:
        """Add the counts of another one. Raises ValueError for other bins."""
        if (self.bins, self.low, self.high) != (other.bins, other.low, other.high):
            raise ValueError(
                f"other bins: {self.bins} in [{self.low}, {self.high}] and {other.bins} in [{other.low}, {other.high}]"
            )
        self.genuine += other.genuine
        self.impostor += other.impostor

    def counts(self) -> Counts:
        """Operating points at the lower edges of the bins that hold something. Raises ValueError if one kind has no score."""
        if not self.genuine.sum() or not self.impostor.sum():
            raise ValueError("genuine and impostor scores are needed, and one kind has none")
        held = np.flatnonzero(self.genuine + self.impostor)[::-1]
        edges = self.low + held * self.width
        tp, fp = (np.concatenate([[0], np.cumsum(kind[held])]) for kind in (self.genuine, self.impostor))
        return Counts(value=edges, tp=tp, fp=fp)


@dataclass(frozen=True)
class StreamedFigures:
    """Figures of streamed scores. Rates are fractions of 1.

    Attributes:
        eer: equal error rate.
        auc: area under the ROC from the bins; pairs in one bin count as ties.
        auc_error: how far the exact area can be from ``auc``.
        tar_at_far: FAR -> TAR; NaN where not resolvable.
        threshold_at_far: FAR -> threshold, rule ``score >= threshold``.
        exact: whether EER, TARs and thresholds are those of the scores themselves; else they are those of scores moved down by at
            most ``bin_width``.
        bin_width: width of a bin.
        num_genuine: genuine scores.
        num_impostor: impostor scores.
    """

    eer: float
    auc: float
    auc_error: float
    tar_at_far: dict[float, float]
    threshold_at_far: dict[float, float]
    exact: bool
    bin_width: float
    num_genuine: int
    num_impostor: int


def streamed_figures(
    batches: Callable[[], Iterable[Scored]],
    *,
    fars: Iterable[float] = (1e-3, 1e-4, 1e-5, 1e-6),
    exact: bool = True,
    histogram: ScoreHistogram | None = None,
) -> StreamedFigures:
    """EER, AUC and TAR@FAR of scores that come in batches, in memory that does not grow with their number.

    Args:
        batches: called for each pass; gives the same ``(scores, bool labels)`` each time.
        fars: FARs, fractions in (0, 1].
        exact: make a second pass for the exact figures. It keeps the scores of the few bins that matter.
        histogram: counts of a first pass that was made already (of several ranks, merged); None makes it here.

    Raises:
        ValueError: one kind of pair only, NaN, or a second pass that gives other scores than the first.
    """
    wanted = tuple(dict.fromkeys(float(far) for far in fars))
    if histogram is None:
        histogram = ScoreHistogram()
        for scores, genuine in batches():
            histogram.add(scores, genuine)
    counts = histogram.counts()
    both = histogram.genuine.astype(np.float64) * histogram.impostor
    auc_error = float(both.sum() / (2.0 * counts.num_genuine * counts.num_impostor))
    binned = counts
    if exact:
        counts = _refined(histogram, binned, wanted, batches)
    tars, thresholds = {}, {}
    for far in wanted:
        allowed = allowed_false_accepts(far, counts.num_impostor)
        tars[far] = thresholds[far] = math.nan
        if allowed:
            point = point_at(counts, allowed)
            tars[far] = int(counts.tp[point]) / counts.num_genuine
            thresholds[far] = threshold_at(counts, point, float) if point else math.inf
            if exact and point:
                thresholds[far] = float(counts.value[point - 1])
    return StreamedFigures(
        eer_of(counts), auc_of(binned), auc_error, tars, thresholds, exact, histogram.width,
        counts.num_genuine, counts.num_impostor,
    )  # fmt: skip


def _refined(
    histogram: ScoreHistogram, binned: Counts, fars: Iterable[float], batches: Callable[[], Iterable[Scored]]
) -> Counts:
    """Operating points at which the bins in which a figure can lie are taken apart into their scores."""
    held = np.flatnonzero(histogram.genuine + histogram.impostor)[::-1]
    sums = binned.fp * binned.num_genuine + binned.tp * binned.num_impostor
    crossing = int(np.searchsorted(sums, binned.num_genuine * binned.num_impostor))
    points = {crossing}
    for far in fars:
        allowed = allowed_false_accepts(far, binned.num_impostor)
        if allowed:
            first = point_at(binned, allowed)
            # The lowest score that is accepted lies in the next bin, or in this one where the next has too many false accepts.
            points |= {max(first, 1), min(first + 1, len(held))}
    taken = torch.zeros(histogram.bins, dtype=torch.bool)
    taken[torch.from_numpy(held[[point - 1 for point in sorted(points)]].copy())] = True
    found: list[tuple[Tensor, Tensor]] = []
    for scores, genuine in batches():
        flat = scores.flatten()
        chosen = taken.to(flat.device)[histogram.bin_of(flat)]
        found.append((flat[chosen].cpu().double(), genuine.flatten()[chosen].cpu()))
    values, labels = (torch.cat([pair[part] for pair in found]).numpy() for part in (0, 1))
    in_bins = histogram.bin_of(torch.from_numpy(values)).numpy()
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number in held:
        if not bool(taken[int(number)]):
            edge = np.array([histogram.low + number * histogram.width])
            pieces.append((edge, histogram.genuine[[number]], histogram.impostor[[number]]))
            continue
        own, same = values[in_bins == number], labels[in_bins == number]
        if int(same.sum()) != histogram.genuine[number] or int((~same).sum()) != histogram.impostor[number]:
            raise ValueError("the second pass gave other scores than the first; batches must be the same each time")
        distinct, index = np.unique(own, return_inverse=True)
        mine = np.bincount(index[same], minlength=len(distinct))
        others = np.bincount(index[~same], minlength=len(distinct))
        pieces.append((distinct[::-1], mine[::-1], others[::-1]))
    value, tp, fp = (np.concatenate([piece[part] for piece in pieces]) for part in range(3))
    return Counts(value, np.concatenate([[0], np.cumsum(tp)]), np.concatenate([[0], np.cumsum(fp)]))


def all_pairs(
    embeddings: Tensor, people: Tensor, *, tile: int = 2048, part: int = 0, parts: int = 1, start: int = 0
) -> Iterator[Scored]:
    """Scores and labels of every pair of ``N`` embeddings once, tile by tile, without ``N²`` memory.

    Args:
        embeddings: float ``(N, D)`` of unit length, on any device.
        people: int64 ``(N,)``.
        tile: rows and columns of a tile.
        part: which of ``parts`` shares of the tiles (of a rank).
        parts: number of shares.
        start: tiles of this share to pass over: where an interrupted pass goes on.
    """
    count = (len(embeddings) + tile - 1) // tile
    tiles = [(row, column) for row in range(count) for column in range(row, count)][part::parts]
    people = people.to(embeddings.device)
    for row, column in tiles[start:]:
        first, second = slice(row * tile, (row + 1) * tile), slice(column * tile, (column + 1) * tile)
        scores = embeddings[first] @ embeddings[second].T
        same = people[first, None] == people[None, second]
        if row == column:
            above = torch.ones_like(same).triu(1)
            scores, same = scores[above], same[above]
        yield scores, same
