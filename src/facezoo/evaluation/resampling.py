"""Bootstrap over pairs that are taken as independent, genuine and impostor pairs apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facezoo.evaluation.classification import wilson_interval
from facezoo.evaluation.counts import Counts, auc_of, best_point
from facezoo.evaluation.scores import Interval

# Above this many pairs the AUC and accuracy intervals are resampled from scores merged into _MERGED_POINTS operating points.
_EXACT_RESAMPLING_LIMIT = 65_536
_MERGED_POINTS = 4_096
# Cells of one block of resampled counts; it bounds the memory of the bootstrap to some ten MiB.
_BLOCK_CELLS = 1 << 19


def bootstrap_eer(counts: Counts, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Bootstrap replicates of the EER by bisection; their distribution is exactly that of resampling all pairs.

    The resampled counts over the operating points are multinomial. A multinomial splits into conditional binomials, so only the
    O(log K) points that the search for FAR + TAR = 1 visits are drawn.
    """
    genuine, impostor = counts.num_genuine, counts.num_impostor
    low = np.zeros(resamples, dtype=np.int64)
    high = np.full(resamples, len(counts.value), dtype=np.int64)
    tp_low, tp_high = np.zeros_like(low), np.full_like(low, genuine)
    fp_low, fp_high = np.zeros_like(low), np.full_like(low, impostor)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        tp = tp_low + rng.binomial(tp_high - tp_low, _share(counts.tp, low, middle, high))
        fp = fp_low + rng.binomial(fp_high - fp_low, _share(counts.fp, low, middle, high))
        beyond = fp * genuine + tp * impostor >= genuine * impostor
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        tp_low, tp_high = np.where(beyond, tp_low, tp), np.where(beyond, tp, tp_high)
        fp_low, fp_high = np.where(beyond, fp_low, fp), np.where(beyond, fp, fp_high)
    before = fp_low / impostor + tp_low / genuine
    after = fp_high / impostor + tp_high / genuine
    fraction = (1 - before) / (after - before)
    eers: np.ndarray = (fp_low + fraction * (fp_high - fp_low)) / impostor
    return eers


def _share(cumulative: np.ndarray, low: np.ndarray, middle: np.ndarray, high: np.ndarray) -> np.ndarray:
    whole = cumulative[high] - cumulative[low]
    part: np.ndarray = cumulative[middle] - cumulative[low]
    return part / np.maximum(whole, 1)


def bootstrap_tar(counts: Counts, allowed: int, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Bootstrap replicates of TAR@FAR, exact.

    Accepted are the scores above the (allowed + 1)-th highest impostor. In a resample its rank among the original impostors is that
    order statistic of uniform draws, hence a beta variate; the genuine pairs above it are then binomial.
    """
    genuine, impostor = counts.num_genuine, counts.num_impostor
    if allowed >= impostor:
        return np.ones(resamples)
    rank = np.minimum((impostor * rng.beta(allowed + 1, impostor - allowed, resamples)).astype(np.int64), impostor - 1)
    point = np.searchsorted(counts.fp, rank, side="right") - 1
    tars: np.ndarray = rng.binomial(genuine, counts.tp[point] / genuine) / genuine
    return tars


@dataclass(frozen=True, eq=False)
class CurveReplicates:
    """Bootstrap replicates of what needs the whole curve of each resample."""

    auc: np.ndarray
    accuracy: np.ndarray
    threshold: np.ndarray


def bootstrap_curve(counts: Counts, rng: np.random.Generator, resamples: int) -> CurveReplicates:
    """Replicates of AUC, best accuracy, and its threshold."""
    total = counts.num_genuine + counts.num_impostor
    used = counts if total <= _EXACT_RESAMPLING_LIMIT else _merge_points(counts, _MERGED_POINTS)
    middles = _all_thresholds(used)
    genuine, impostor = used.num_genuine, used.num_impostor
    rows = max(1, _BLOCK_CELLS // max(len(used.value), 1))
    aucs, accuracies, thresholds = [], [], []
    for start in range(0, resamples, rows):
        block = min(rows, resamples - start)
        tp = _resample(used.tp, rng, block)
        fp = _resample(used.fp, rng, block)
        twice = np.einsum("rk,rk->r", np.diff(fp), tp[:, 1:] + tp[:, :-1])
        aucs.append(twice / (2 * genuine * impostor))
        correct = tp - fp
        best = correct.max(axis=1)
        accuracies.append((best + impostor) / total)
        # The center of the best points: argmax alone would lean towards high thresholds when several are best.
        first = correct.argmax(axis=1)
        last = correct.shape[1] - 1 - correct[:, ::-1].argmax(axis=1)
        thresholds.append((middles[first] + middles[last]) / 2)
    auc_shift = auc_of(counts) - auc_of(used)  # merged points see some pairs as tied: move the replicates back
    accuracy_shift = (int((counts.tp - counts.fp).max()) - int((used.tp - used.fp).max())) / total
    return CurveReplicates(
        auc=np.clip(np.concatenate(aucs) + auc_shift, 0, 1),
        accuracy=np.clip(np.concatenate(accuracies) + accuracy_shift, 0, 1),
        threshold=np.concatenate(thresholds),
    )


def _resample(cumulative: np.ndarray, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Cumulative counts ``(rows, K + 1)`` of ``rows`` resamples of one class, drawn with replacement."""
    total, groups = int(cumulative[-1]), len(cumulative) - 1
    if total <= 4 * groups:
        group_of = np.repeat(np.arange(groups), np.diff(cumulative))
        drawn = group_of[rng.integers(0, total, size=(rows, total))]
        drawn += np.arange(rows)[:, None] * groups
        sizes = np.bincount(drawn.ravel(), minlength=rows * groups).reshape(rows, groups)
    else:
        sizes = rng.multinomial(total, np.diff(cumulative) / total, size=rows)
    resampled = np.zeros((rows, groups + 1), dtype=np.int64)
    np.cumsum(sizes, axis=1, out=resampled[:, 1:])
    return resampled


def _merge_points(counts: Counts, points: int) -> Counts:
    """At most ``points`` (+ a few) of the operating points, spread evenly over the mass of both classes."""
    mass = counts.tp / counts.num_genuine + counts.fp / counts.num_impostor
    kept = np.unique(np.searchsorted(mass, np.linspace(0, mass[-1], points + 1)))
    kept = np.unique(np.concatenate([[0], kept, [best_point(counts), len(counts.value)]]))
    return Counts(value=counts.value[kept[1:] - 1], tp=counts.tp[kept], fp=counts.fp[kept])


def _all_thresholds(counts: Counts) -> np.ndarray:
    value = counts.value
    return np.concatenate([value[:1], (value[1:] + value[:-1]) / 2, value[-1:]])


def percentile_interval(
    replicates: np.ndarray, point: float, confidence: float, *, independent: int | None
) -> Interval:
    """Percentile interval that holds ``point``; without errors (width 0 at 0 or 1) the exact bound of ``independent`` trials."""
    tail = (1 - confidence) / 2
    low, high = (float(limit) for limit in np.quantile(replicates, [tail, 1 - tail]))
    low, high = min(low, point), max(high, point)
    if independent is not None and low == high:
        surprise = tail ** (
            1 / independent
        )  # the rate of success at which n successes in n trials are just as rare as tail
        if point == 1:
            low = surprise
        elif point == 0:
            high = 1 - surprise
    return low, high


def cost_interval(
    errors: tuple[int, int],
    trials: tuple[int, int],
    prior: float,
    confidence: float,
    *,
    inflation: tuple[float, float] = (1.0, 1.0),
) -> Interval:
    """Interval of the minimum detection cost, from those of its two error rates at its threshold.

    A bootstrap of a minimum over thresholds is biased and too narrow where a few false accepts decide. The threshold is taken as
    it is instead: Wilson's intervals of the two rates are put together by their distances from the rates (Zou and Donner 2008).

    Args:
        errors: rejected genuine and accepted impostor pairs at the threshold of the least cost.
        trials: genuine and impostor pairs.
        prior: see :func:`facezoo.evaluation.counts.detection_costs`.
        confidence: confidence, fraction of 1.
        inflation: how many times the variance of each rate is that of independent pairs; at least 1.
    """
    weights = np.array([prior, 1 - prior]) / min(prior, 1 - prior)
    rates = np.array(errors) / np.array(trials)
    limits = [
        wilson_interval(error / factor, trial / factor, confidence)
        for error, trial, factor in zip(errors, trials, inflation, strict=True)
    ]
    below, above = (np.array(side) for side in zip(*limits, strict=True))
    cost = float(weights @ rates)
    low, high = (float(np.linalg.norm(weights * (limit - rates))) for limit in (below, above))
    return max(0.0, cost - low), max(cost, min(1.0, cost + high))
