"""Figures of billions of scores in bounded memory: counts in fixed bins, and exact figures by a second pass over a few bins.

The first pass counts genuine and impostor scores in bins of equal width. A figure read off these counts has its threshold right to
one bin. For the exact figure a second pass keeps the scores of those bins alone in which it can lie; what is above them is known
as a count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from facezoo.columns import aligned
from facezoo.evaluation.counts import (
    Counts,
    allowed_false_accepts,
    auc_of,
    crossing_sums,
    eer_of,
    point_at,
    threshold_at,
)
from facezoo.evaluation.scores import NO_INTERVAL, check_fars, format_figure, jsonable, needed_for, true_positions

Scored = tuple[Tensor, Tensor]
"""Scores of any shape, and which of them are genuine: bool of the same shape, or int64 positions among the flattened scores."""

_PIECE = 1 << 19  # scores binned at once: few enough to stay in the processor's cache
_FEW = 10_000  # scores counted one by one
_COUNTED = 1 << 20  # bins counted at once


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
        """The bin of every score, int32 of the same shape. A monotone function: bins never change the order of scores.

        Raises:
            ValueError: NaN scores.
        """
        bins = torch.empty(scores.shape, dtype=torch.int32, device=scores.device)
        self._bin_into(bins, torch.empty(scores.shape, device=scores.device), scores)
        return bins

    def add(self, scores: Tensor, genuine: Tensor, *, bounded: bool = False) -> None:
        """Count scores of any shape.

        Args:
            scores: float, any shape and device.
            genuine: which of them are: bool of the same shape, or int64 ``(n,)`` positions among the flattened scores.
            bounded: promise that there is no NaN, and that scores are outside ``low`` to ``high`` by rounding at most: they are
                then not looked at, which is faster.

        Raises:
            ValueError: NaN scores, or shapes that differ.
        """
        flat, own = genuine_scores(scores, genuine)
        every = self._count(flat, bounded)
        if len(own) <= _FEW:  # a table of all bins would cost more than they
            same = self.bin_of(own).cpu().numpy()
            np.add.at(self.genuine, same, 1)
            np.subtract.at(every, same, 1)
        else:
            table = self._count(own, bounded)
            self.genuine += table
            every -= table
        self.impostor += every

    def _count(self, flat: Tensor, bounded: bool) -> np.ndarray:
        counts = torch.zeros(self.bins + 1, dtype=torch.int64, device=flat.device)
        # Room that is used again, since new memory for every piece costs a third more; and few calls to bincount, since each makes
        # a table of all bins.
        bins = torch.empty(min(len(flat), _COUNTED), dtype=torch.int32, device=flat.device)
        places = torch.empty(min(len(flat), _PIECE), device=flat.device)
        for part in flat.split(_COUNTED):
            for piece, into in zip(part.split(_PIECE), bins[: len(part)].split(_PIECE), strict=True):
                self._bin_into(into, places[: len(piece)], piece, bounded=bounded)
            counts += torch.bincount(bins[: len(part)], minlength=self.bins + 1)
        counts[-2] += counts[-1]  # a bounded score at ``high`` itself
        return counts[:-1].cpu().numpy()

    def _bin_into(self, bins: Tensor, places: Tensor, scores: Tensor, *, bounded: bool = False) -> None:
        """:meth:`bin_of` into ``bins``; ``places`` is float32 room of that shape. A bounded ``high`` gets a bin of its own."""
        if not scores.numel():
            return
        inside = bounded
        if not bounded:
            lowest, highest = (float(limit) for limit in torch.aminmax(scores))  # NaN wherever a score is
            if math.isnan(lowest):
                raise ValueError("scores must not be NaN; look at the embeddings")
            inside = lowest >= self.low and highest < self.high - self.width  # rounding is far below a bin
        scale, offset = self.bins / (self.high - self.low), -self.low * self.bins / (self.high - self.low)
        if math.frexp(scale)[0] == 0.5:  # by a power of two the product is exact: one step rounds as two do
            torch.add(torch.tensor(offset), scores.float(), alpha=scale, out=places)
        else:
            torch.mul(scores.float(), scale, out=places).add_(offset)
        if not inside:
            places.clamp_(0, self.bins - 1)
        bins.copy_(places)

    def merge(self, other: ScoreHistogram) -> None:
        """Add the counts of another one. Raises ValueError for other bins."""
        if (self.bins, self.low, self.high) != (other.bins, other.low, other.high):
            raise ValueError(
                f"other bins: {self.bins} in [{self.low}, {self.high}] and {other.bins} in [{other.low}, {other.high}]"
            )
        self.genuine += other.genuine
        self.impostor += other.impostor

    def merge_over_ranks(self) -> None:
        """Add up the counts of all ranks of ``torch.distributed``, on every rank. A collective call; alone it does nothing."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        for kind in (self.genuine, self.impostor):
            total = torch.from_numpy(kind).to(_rank_device())
            dist.all_reduce(total)
            kind[:] = total.cpu().numpy()

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

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict; NaN and infinities are ``None``."""
        return cast("dict[str, Any]", jsonable(self.__dict__))

    def __str__(self) -> str:
        how = "exact" if self.exact else f"from bins of {self.bin_width:.2g}"
        fewest = min(self.num_genuine, self.num_impostor)

        def shown(value: float, step: float, *, percent: bool = True) -> str:
            return format_figure(value, NO_INTERVAL, step=step, percent=percent)[0]

        rows = [
            ("EER", shown(self.eer, 1 / fewest), ""),
            ("AUC", shown(self.auc, max(1 / fewest, self.auc_error), percent=False), ""),
        ]
        for far, tar in self.tar_at_far.items():
            if math.isnan(tar):
                rows.append((f"TAR@FAR={far:g}", "not resolvable", f"needs {needed_for(far):,} impostor pairs"))
            else:
                threshold = f"score >= {self.threshold_at_far[far]:.7f}"
                rows.append((f"TAR@FAR={far:g}", shown(tar, 1 / self.num_genuine), threshold))
        head = f"{self.num_genuine:,} genuine and {self.num_impostor:,} impostor pairs, {how}"
        last = "no intervals: pairs that share images and people say less than as many independent ones"
        return "\n".join([head, *aligned(rows), last])


def streamed_figures(
    batches: Callable[[], Iterable[Scored]],
    *,
    fars: Iterable[float] = (1e-3, 1e-4, 1e-5, 1e-6),
    exact: bool = True,
    histogram: ScoreHistogram | None = None,
    over_ranks: bool = False,
) -> StreamedFigures:
    """EER, AUC and TAR@FAR of scores that come in batches, in memory that does not grow with their number.

    Args:
        batches: called for each pass; gives the same ``(scores, bool labels)`` each time.
        fars: FARs, fractions in (0, 1].
        exact: make a second pass for the exact figures. It keeps the scores of the few bins that matter.
        histogram: counts of a first pass that was made already (of several ranks, merged); None makes it here.
        over_ranks: ``batches`` and ``histogram`` are the share of this rank of ``torch.distributed``: they are put together, and
            every rank gets the figures of all. A collective call. ``histogram`` then holds the counts of all ranks.

    Raises:
        ValueError: a FAR out of range, one kind of pair only, NaN, or a second pass that gives other scores than the first.
    """
    wanted = check_fars(fars)
    if histogram is None:
        histogram = ScoreHistogram()
        for scores, genuine in batches():
            histogram.add(scores, genuine)
    if over_ranks:
        histogram.merge_over_ranks()
    counts = histogram.counts()
    both = histogram.genuine.astype(np.float64) * histogram.impostor
    auc_error = float(both.sum() / (2.0 * counts.num_genuine * counts.num_impostor))
    binned = counts
    if exact:
        counts = _refined(histogram, binned, wanted, batches, over_ranks=over_ranks)
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
    histogram: ScoreHistogram,
    binned: Counts,
    fars: Iterable[float],
    batches: Callable[[], Iterable[Scored]],
    *,
    over_ranks: bool,
) -> Counts:
    """Operating points at which the bins in which a figure can lie are taken apart into their scores."""
    held = np.flatnonzero(histogram.genuine + histogram.impostor)[::-1]
    crossing = int(np.searchsorted(crossing_sums(binned), binned.num_genuine * binned.num_impostor))
    points = {crossing}
    for far in fars:
        allowed = allowed_false_accepts(far, binned.num_impostor)
        if allowed:
            first = point_at(binned, allowed)
            # The lowest score that is accepted lies in the next bin, or in this one where the next has too many false accepts.
            points |= {max(first, 1), min(first + 1, len(held))}
    places = [point - 1 for point in sorted(points)]
    every, own = _scores_in(histogram, held[places], batches, over_ranks=over_ranks)
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for place, before in zip([*places, len(held)], [-1, *places], strict=True):
        between = held[before + 1 : place]
        edges = histogram.low + between * histogram.width
        pieces.append((edges, histogram.genuine[between], histogram.impostor[between]))
        if place == len(held):
            break
        number = int(held[place])
        distinct, sizes = np.unique(every[number], return_counts=True)
        mine = np.bincount(np.searchsorted(distinct, own[number]), minlength=len(distinct))
        if int(mine.sum()) != histogram.genuine[number] or int((sizes - mine).sum()) != histogram.impostor[number]:
            raise ValueError("the second pass gave other scores than the first; batches must be the same each time")
        pieces.append((distinct[::-1], mine[::-1], (sizes - mine)[::-1]))
    value, tp, fp = (np.concatenate([piece[part] for piece in pieces]) for part in range(3))
    return Counts(value, np.concatenate([[0], np.cumsum(tp)]), np.concatenate([[0], np.cumsum(fp)]))


def _scores_in(
    histogram: ScoreHistogram, numbers: np.ndarray, batches: Callable[[], Iterable[Scored]], *, over_ranks: bool
) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
    """Float64 scores of these bins, of all pairs and of the genuine ones, by bin."""
    taken = torch.zeros(histogram.bins, dtype=torch.bool)
    taken[torch.from_numpy(numbers.copy())] = True
    # A look at the lowest of the bins (less one, for rounding) spares most scores the search for their bin.
    lowest = int(numbers.min())
    floor = -math.inf if lowest < 2 else histogram.low + (lowest - 1) * histogram.width

    def chosen(flat: Tensor) -> Tensor:
        high = _at_least(flat, floor)
        return high[taken.to(high.device)[histogram.bin_of(high)]].cpu()

    kept: tuple[list[Tensor], list[Tensor]] = ([], [])
    for scores, genuine in batches():
        for part, flat in zip(kept, genuine_scores(scores, genuine), strict=True):
            part.append(chosen(flat))
    every, own = (torch.cat(part) if part else torch.zeros(0) for part in kept)
    if over_ranks:
        every, own = _of_all_ranks(every), _of_all_ranks(own)
    in_bins = [histogram.bin_of(part).numpy() for part in (every, own)]
    first, second = (
        {int(number): part.double().numpy()[bins == number] for number in numbers}
        for part, bins in zip((every, own), in_bins, strict=True)
    )
    return first, second


def _of_all_ranks(scores: Tensor) -> Tensor:
    """The scores of every rank, one after the other, on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return scores
    pieces: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(pieces, scores.numpy())
    return torch.cat([torch.from_numpy(piece) for piece in pieces])


def _rank_device() -> torch.device:
    """Where collective calls of the default group take tensors."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _at_least(flat: Tensor, floor: float) -> Tensor:
    """The scores from ``floor`` on, in any order. Most have none near them, so eight are looked at at once."""
    table = flat[: len(flat) // 8 * 8].view(8, -1)
    if table.shape[1]:
        reached = true_positions(table.amax(dim=0) >= floor)
        flat = torch.cat([table.index_select(1, reached).flatten(), flat[table.numel() :]])
    return flat[true_positions(flat >= floor)]


def genuine_scores(scores: Tensor, genuine: Tensor) -> tuple[Tensor, Tensor]:
    """The flattened scores, and the genuine ones among them. Raises ValueError for a mask of another shape."""
    if genuine.dtype == torch.bool and scores.shape != genuine.shape:
        raise ValueError(f"scores {tuple(scores.shape)} and labels {tuple(genuine.shape)} differ in shape")
    flat = scores.detach().flatten()
    return flat, flat[true_positions(genuine) if genuine.dtype == torch.bool else genuine]
