"""Operating points of scored pairs, and figures computed from them. Exact: integers until a single division at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Counts:
    """Operating points 0..K: point ``k`` accepts the ``k`` highest distinct scores.

    value: float64 (K,) distinct scores, descending; tp, fp: int64 (K + 1,) genuine and impostor pairs accepted.
    """

    value: np.ndarray
    tp: np.ndarray
    fp: np.ndarray

    @property
    def num_genuine(self) -> int:
        """All genuine pairs."""
        return int(self.tp[-1])

    @property
    def num_impostor(self) -> int:
        """All impostor pairs."""
        return int(self.fp[-1])


def count_scores(values: np.ndarray, genuine: np.ndarray) -> Counts:
    """Operating points of the scores. It sorts values (np.sort), which takes a tenth of the time of sorting indices
    (np.argsort)."""
    ordered = np.sort(values)
    starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    distinct = ordered[starts]
    sizes = np.diff(starts, append=len(values))
    fewer_genuine = 2 * np.count_nonzero(genuine) <= len(values)
    members = np.sort(values[genuine if fewer_genuine else ~genuine])
    found = np.bincount(np.searchsorted(distinct, members), minlength=len(distinct))
    tp, fp = (found, sizes - found) if fewer_genuine else (sizes - found, found)
    return Counts(value=distinct[::-1].copy(), tp=_from_the_top(tp), fp=_from_the_top(fp))


def _from_the_top(sizes: np.ndarray) -> np.ndarray:
    cumulative = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes[::-1], out=cumulative[1:])
    return cumulative


def _in_whole_numbers(counts: Counts) -> tuple[np.ndarray, np.ndarray]:
    """False and true accepts in a type in which their products are exact: Python's integers where 64 bits are too few."""
    fits = 2 * counts.num_genuine * counts.num_impostor < 2**63
    return (counts.fp, counts.tp) if fits else (counts.fp.astype(object), counts.tp.astype(object))


def crossing_sums(counts: Counts) -> np.ndarray:
    """(FAR + TAR) * genuine * impostor at every operating point, strictly increasing and exact."""
    fp, tp = _in_whole_numbers(counts)
    return fp * counts.num_genuine + tp * counts.num_impostor


def eer_of(counts: Counts) -> float:
    """The FAR where FAR + TAR = 1 on the interpolated ROC. Python integers and one division: correctly rounded."""
    genuine, impostor = counts.num_genuine, counts.num_impostor
    sums = crossing_sums(counts)
    k = int(np.searchsorted(sums, genuine * impostor))
    before, after = int(sums[k - 1]), int(sums[k])
    fp_before, fp_after = int(counts.fp[k - 1]), int(counts.fp[k])
    numerator = fp_before * (after - before) + (genuine * impostor - before) * (fp_after - fp_before)
    return numerator / (impostor * (after - before))


def auc_of(counts: Counts) -> float:
    """AUC as the Mann-Whitney statistic; a tie between a genuine and an impostor pair counts one half. Integers until the
    division."""
    fp, tp = _in_whole_numbers(counts)
    twice = int(np.sum(np.diff(fp) * (tp[1:] + tp[:-1])))
    return twice / (2 * counts.num_genuine * counts.num_impostor)


def best_point(counts: Counts) -> int:
    """The operating point with the best accuracy; among equals, the one in the widest gap between scores."""
    correct = counts.tp - counts.fp
    best = np.flatnonzero(correct == correct.max())
    gaps = np.concatenate(
        [[0.0], counts.value[:-1] - counts.value[1:], [0.0]]
    )  # no gap beyond the first and the last score
    return int(best[np.argmax(gaps[best])])


def threshold_at(counts: Counts, point: int, rounding: Callable[[float], float]) -> float:
    """The threshold of an operating point: midway between the scores on its two sides, in the precision of the scores."""
    if point == len(counts.value):
        return float(counts.value[-1])
    rejected = float(counts.value[point])
    if point == 0:  # accept nothing: the next number above the highest score
        step = max(abs(rejected), 1e-30) * 2.0**-54
        while not rounding(rejected + step) > rejected:
            step *= 2
        return rounding(rejected + step)
    accepted = float(counts.value[point - 1])
    middle = rounding(rejected + (accepted - rejected) / 2)
    return middle if rejected < middle <= accepted else accepted  # adjacent floating-point numbers have no midpoint


def allowed_false_accepts(far: float, num_impostor: int) -> int:
    """The largest k with k / num_impostor <= far. 0.29 * 100 is 28.999..., hence the corrections."""
    allowed = min(int(far * num_impostor), num_impostor)
    while allowed < num_impostor and (allowed + 1) / num_impostor <= far:
        allowed += 1
    while allowed > 0 and allowed / num_impostor > far:
        allowed -= 1
    return allowed


def point_at(counts: Counts, allowed: int) -> int:
    """The last operating point with at most ``allowed`` false accepts; it has the largest TAR among them."""
    return int(np.searchsorted(counts.fp, allowed, side="right")) - 1


def detection_costs(tp: np.ndarray, fp: np.ndarray, prior: float) -> np.ndarray:
    """Detection cost of every operating point (last axis), divided by that of the better of “accept all” and “accept nothing”.

    A miss and a false accept cost the same; ``prior`` is the probability of a genuine pair.
    """
    misses = 1 - tp / tp[..., -1:]
    costs: np.ndarray = (prior * misses + (1 - prior) * (fp / fp[..., -1:])) / min(prior, 1 - prior)
    return costs
