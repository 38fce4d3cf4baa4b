"""Verification figures from scores: EER, AUC, best accuracy, TAR@FAR, each with its interval.

Definitions (a pair is accepted when ``score >= threshold``; scores are similarities, so higher means more alike):

- FAR is the fraction of impostor pairs accepted, TAR the fraction of genuine pairs accepted, FRR = 1 - TAR.
- The ROC has one point per *distinct* score. Pairs that share a score are accepted together, so ties cannot be won by luck of
  the order.
- EER is the FAR where FAR = FRR on the straight lines between these points. It is computed in integers.
- TAR@FAR=f is the largest TAR at a FAR of at most f. With fewer than 1/f impostor pairs it is *not resolvable* and is NaN.

Everything is a sort and a few cumulative sums; nothing loops over thresholds. The bootstrap resamples genuine and impostor pairs
separately. EER and TAR@FAR draw exact bootstrap replicates in O(log n) each, so 15 million scores cost little more than 6,000.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

ArrayLike: TypeAlias = "Sequence[float] | Sequence[int] | Sequence[bool] | np.ndarray | torch.Tensor"
Interval: TypeAlias = tuple[float, float]

# Above this many pairs the AUC and accuracy intervals are resampled from scores merged into _MERGED_POINTS operating points.
_EXACT_RESAMPLING_LIMIT = 65_536
_MERGED_POINTS = 4_096
# Cells of one block of resampled counts; it bounds the memory of the bootstrap to some ten MiB.
_BLOCK_CELLS = 1 << 19

_NO_INTERVAL: Interval = (math.nan, math.nan)


@dataclass(frozen=True)
class VerificationMetrics:
    """Figures of one list of verification pairs. Rates are fractions of 1, thresholds are in the unit of the scores (cosine).

    Attributes:
        eer: equal error rate on the interpolated empirical ROC.
        auc: area under the ROC; a tie counts one half.
        accuracy: best accuracy over all thresholds *on these very pairs* (optimistic; see ``kfold_accuracy`` for the LFW protocol).
        threshold: threshold of that accuracy, midway between two scores; rule ``score >= threshold``.
        tar_at_far: largest TAR with FAR <= key; NaN where the data cannot resolve it.
        threshold_at_far: the threshold of each entry of ``tar_at_far``; NaN where that is NaN.
        eer_interval: bootstrap percentile interval (low, high); the other intervals likewise. They treat pairs as independent:
            pairs that share images or identities make the true uncertainty larger. NaN if ``bootstrap`` was 0.
        auc_interval: see ``eer_interval``.
        accuracy_interval: see ``eer_interval``.
        threshold_interval: see ``eer_interval``.
        tar_at_far_interval: see ``eer_interval``; (NaN, NaN) where not resolvable.
        num_genuine: number of genuine pairs (same person).
        num_impostor: number of impostor pairs.
        confidence: confidence of the intervals, fraction of 1.
        bootstrap: number of resamples.
        seed: seed of the resampling.
    """

    eer: float
    auc: float
    accuracy: float
    threshold: float
    tar_at_far: dict[float, float]
    threshold_at_far: dict[float, float]
    eer_interval: Interval
    auc_interval: Interval
    accuracy_interval: Interval
    threshold_interval: Interval
    tar_at_far_interval: dict[float, Interval]
    num_genuine: int
    num_impostor: int
    confidence: float
    bootstrap: int
    seed: int

    @property
    def unresolvable_fars(self) -> tuple[float, ...]:
        """The requested FARs below 1/``num_impostor``."""
        return tuple(far for far, tar in self.tar_at_far.items() if math.isnan(tar))

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict: FAR keys as strings (``"0.001"``), intervals as lists, NaN as ``None``."""
        result: dict[str, Any] = jsonable(self.__dict__)
        return result

    def rows(self) -> list[tuple[str, str, str]]:
        """``(quantity, value, interval)`` as text, with the digits that the data resolve. The summary and the report print it."""
        pairs = self.num_genuine + self.num_impostor
        fewest = min(self.num_genuine, self.num_impostor)
        rows = [
            ("EER", *format_figure(self.eer, self.eer_interval, step=1 / fewest, percent=True)),
            ("AUC", *format_figure(self.auc, self.auc_interval, step=1 / fewest)),
            ("best accuracy", *format_figure(self.accuracy, self.accuracy_interval, step=1 / pairs, percent=True)),
            ("its threshold (score >= t)", *format_figure(self.threshold, self.threshold_interval, step=0.01)),
        ]
        for far, tar in self.tar_at_far.items():
            name = f"TAR@FAR={far:g}"
            if math.isnan(tar):
                rows.append((name, "not resolvable", f"needs {math.ceil(1 / far - 1e-9):,} impostor pairs"))
            else:
                interval = self.tar_at_far_interval[far]
                rows.append((name, *format_figure(tar, interval, step=1 / self.num_genuine, percent=True)))
        return rows

    def summary(self) -> str:
        """Readable lines; each figure shows only the digits that its interval resolves."""
        head = f"{self.num_genuine:,} genuine and {self.num_impostor:,} impostor pairs"
        if self.bootstrap:
            head += f"; {self.confidence * 100:g} % intervals from {self.bootstrap:,} resamples"
        lines = [head]
        rows = self.rows()
        width = max(len(name) for name, _, _ in rows)
        lines += [f"{name:<{width}}  {value}  {interval}".rstrip() for name, value, interval in rows]
        if self.auc < 0.5:
            lines.append("AUC is below 0.5: are these distances? A score must be higher for pairs that are more alike.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.summary()


@dataclass(frozen=True, eq=False)
class RocCurve:
    """The empirical ROC, from “accept nothing” to “accept all”; one point per distinct score.

    Attributes:
        far: float64 ``(K + 1,)``, fraction of impostor pairs accepted, ascending from 0 to 1.
        tar: float64 ``(K + 1,)``, fraction of genuine pairs accepted, ascending from 0 to 1.
        thresholds: float64 ``(K + 1,)``, descending; point ``k`` accepts ``score >= thresholds[k]``. The first is above all scores,
            the others are the distinct scores themselves.
    """

    far: np.ndarray
    tar: np.ndarray
    thresholds: np.ndarray


def verification_metrics(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    fars: Iterable[float] = (1e-1, 1e-2, 1e-3),
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> VerificationMetrics:
    """All verification figures of one list of scored pairs.

    Args:
        scores: ``(N,)`` similarities (cosine), higher = more alike; list, numpy array or tensor on any device.
        labels: ``(N,)`` bool or 0/1; true = same person.
        fars: the FARs at which TAR is wanted, fractions in (0, 1].
        confidence: confidence of the intervals, fraction in (0, 1).
        bootstrap: number of resamples, stratified by genuine/impostor; 0 leaves the intervals NaN.
        seed: seed of the resampling. The same input and seed give the same intervals, whatever the order of the pairs.

    Returns:
        The record. If several thresholds reach the best accuracy, ``threshold`` lies in the widest gap between scores among them.
        It is representable in the precision of ``scores``, so that ``scores >= threshold`` gives exactly that accuracy. An
        interval that the bootstrap leaves without width at 0 or 1 (no error seen) gets the exact binomial bound instead (no error
        in n pairs does not mean none ever), and an interval always holds its point estimate.

    Raises:
        ValueError: NaN or infinite scores, lengths that differ, labels other than 0/1, labels of one class only, or an option out
            of range.
        TypeError: scores or labels that are not numbers.
    """
    values, genuine, rounding = check_scores(scores, labels)
    wanted = _check_options(fars, confidence, bootstrap, seed)
    counts = _count(values, genuine)
    num_genuine, num_impostor = counts.num_genuine, counts.num_impostor
    fewest = min(num_genuine, num_impostor)

    eer = _eer(counts)
    auc = _auc(counts)
    point = _best_point(counts)
    accuracy = (int(counts.tp[point]) + num_impostor - int(counts.fp[point])) / len(values)
    threshold = _threshold(counts, point, rounding)

    tar_at_far, threshold_at_far = {}, {}
    for far in wanted:
        allowed = _allowed_false_accepts(far, num_impostor)
        if allowed == 0:
            tar_at_far[far] = threshold_at_far[far] = math.nan
        else:
            point = _point_at(counts, allowed)
            tar_at_far[far] = int(counts.tp[point]) / num_genuine
            threshold_at_far[far] = _threshold(counts, point, rounding)

    eer_interval = auc_interval = accuracy_interval = threshold_interval = _NO_INTERVAL
    tar_intervals: dict[float, Interval] = dict.fromkeys(wanted, _NO_INTERVAL)
    if bootstrap:
        eers = _bootstrap_eer(counts, np.random.default_rng([seed, 0]), bootstrap)
        eer_interval = _interval(eers, eer, confidence, independent=fewest)
        aucs, accuracies, thresholds = _bootstrap_curve(counts, np.random.default_rng([seed, 1]), bootstrap)
        auc_interval = _interval(aucs, auc, confidence, independent=fewest)
        accuracy_interval = _interval(accuracies, accuracy, confidence, independent=len(values))
        threshold_interval = _interval(thresholds, threshold, confidence, independent=None)
        for far in wanted:
            allowed = _allowed_false_accepts(far, num_impostor)
            if allowed:
                tars = _bootstrap_tar(counts, allowed, np.random.default_rng([seed, 2, allowed]), bootstrap)
                tar_intervals[far] = _interval(tars, tar_at_far[far], confidence, independent=num_genuine)

    return VerificationMetrics(
        eer=eer,
        auc=auc,
        accuracy=accuracy,
        threshold=threshold,
        tar_at_far=tar_at_far,
        threshold_at_far=threshold_at_far,
        eer_interval=eer_interval,
        auc_interval=auc_interval,
        accuracy_interval=accuracy_interval,
        threshold_interval=threshold_interval,
        tar_at_far_interval=tar_intervals,
        num_genuine=num_genuine,
        num_impostor=num_impostor,
        confidence=float(confidence),
        bootstrap=int(bootstrap),
        seed=int(seed),
    )


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> RocCurve:
    """The empirical ROC of scored pairs. Arguments and errors are those of :func:`verification_metrics`."""
    values, genuine, rounding = check_scores(scores, labels)
    counts = _count(values, genuine)
    return RocCurve(
        far=counts.fp / counts.num_impostor,
        tar=counts.tp / counts.num_genuine,
        thresholds=np.concatenate([[_threshold(counts, 0, rounding)], counts.value]),
    )


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """The threshold of the best accuracy, as :func:`verification_metrics` gives it, without the other figures."""
    return threshold_of(*check_scores(scores, labels))


def threshold_of(values: np.ndarray, genuine: np.ndarray, rounding: Callable[[float], float]) -> float:
    """:func:`best_threshold` of what :func:`check_scores` returned."""
    counts = _count(values, genuine)
    return _threshold(counts, _best_point(counts), rounding)


def check_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, Callable[[float], float]]:
    """Scores as float64 ``(N,)``, labels as bool ``(N,)``, and the rounding of a float to the precision of the scores.

    The rounding matters since numpy and torch compare a float32 array with a Python float in float32: a threshold that separates
    two scores in float64 may not do so there.

    Raises:
        ValueError, TypeError: as :func:`verification_metrics`.
    """
    raw, rounding = _as_numpy(scores, "scores")
    values = raw.astype(np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be one-dimensional, one per pair; got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"scores must be finite: {bad.size} of {values.size} are NaN or infinite, the first at index {bad[0]} "
            f"({values[bad[0]]}); look at the embeddings of that pair"
        )
    genuine = check_labels(labels)
    if len(genuine) != len(values):
        raise ValueError(f"scores and labels differ in length: {len(values)} scores, {len(genuine)} labels")
    positives = int(genuine.sum())
    if positives == 0 or positives == len(genuine):
        have, lack = ("impostor (0)", "genuine (1)") if positives == 0 else ("genuine (1)", "impostor (0)")
        raise ValueError(
            f"labels hold one class only: all {len(genuine)} pairs are {have}; {lack} pairs are needed too, "
            "since every figure here compares the two"
        )
    return values, genuine, rounding


def check_labels(labels: ArrayLike) -> np.ndarray:
    """Labels as bool ``(N,)``. Raises ValueError for anything but one dimension of true/false or 0/1."""
    raw, _ = _as_numpy(labels, "labels")
    if raw.ndim != 1:
        raise ValueError(f"labels must be one-dimensional, one per pair; got shape {raw.shape}")
    wrong = np.flatnonzero((raw != 0) & (raw != 1))
    if wrong.size:
        raise ValueError(
            f"labels must be 1 (same person) or 0 (different persons); got {raw[wrong[0]]} at index {wrong[0]}"
        )
    return raw.astype(bool)


def format_figure(value: float, interval: Interval, *, step: float, percent: bool = False) -> tuple[str, str]:
    """``("2.1 %", "[1.8, 2.5]")``: value and interval with the digits that the data resolve.

    Args:
        value: the figure.
        interval: (low, high), or NaNs.
        step: the smallest difference the figure could show; sets the digits where there is no interval.
        percent: print 100 times the value, with a per cent sign.

    Returns:
        The value and the interval as text; the second is empty where there is no interval. The last digit shown is of the order of
        half the interval's width.
    """
    if math.isnan(value):
        return "not resolvable", ""
    scale, unit = (100.0, " %") if percent else (1.0, "")
    known = not any(math.isnan(limit) for limit in interval)
    half = (interval[1] - interval[0]) / 2 if known else step
    half = max(half * scale, 1e-9)
    decimals = min(max(0, math.ceil(-math.log10(half) - 1e-9)), 6)
    text = f"{value * scale:.{decimals}f}{unit}"
    if not known:
        return text, ""
    return text, f"[{interval[0] * scale:.{decimals}f}, {interval[1] * scale:.{decimals}f}]"


def jsonable(value: Any) -> Any:
    """``value`` with only JSON types in it: NaN and infinities become ``None``, tuples lists, keys strings."""
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


# ---------------------------------------------------------------------------------------------------------------- the counts


@dataclass(frozen=True, eq=False)
class _Counts:
    """Operating points 0..K: point ``k`` accepts the ``k`` highest distinct scores.

    value: float64 (K,) distinct scores, descending; tp, fp: int64 (K + 1,) genuine and impostor pairs accepted.
    """

    value: np.ndarray
    tp: np.ndarray
    fp: np.ndarray

    @property
    def num_genuine(self) -> int:
        return int(self.tp[-1])

    @property
    def num_impostor(self) -> int:
        return int(self.fp[-1])


def _count(values: np.ndarray, genuine: np.ndarray) -> _Counts:
    """Operating points of the scores. Sorting values (np.sort) costs a tenth of sorting indices (np.argsort), hence the detour."""
    ordered = np.sort(values)
    starts = np.concatenate([[0], np.flatnonzero(ordered[1:] != ordered[:-1]) + 1])
    distinct = ordered[starts]
    sizes = np.diff(starts, append=len(values))
    fewer_genuine = 2 * np.count_nonzero(genuine) <= len(values)
    members = np.sort(values[genuine if fewer_genuine else ~genuine])
    found = np.bincount(np.searchsorted(distinct, members), minlength=len(distinct))
    tp, fp = (found, sizes - found) if fewer_genuine else (sizes - found, found)
    return _Counts(value=distinct[::-1].copy(), tp=_from_the_top(tp), fp=_from_the_top(fp))


def _from_the_top(sizes: np.ndarray) -> np.ndarray:
    cumulative = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes[::-1], out=cumulative[1:])
    return cumulative


def _eer(counts: _Counts) -> float:
    """Where FAR + TAR = 1 on the polygon. Python integers, one division at the end: correctly rounded."""
    genuine, impostor = counts.num_genuine, counts.num_impostor
    sums = counts.fp * genuine + counts.tp * impostor  # (FAR + TAR) * genuine * impostor, strictly increasing
    k = int(np.searchsorted(sums, genuine * impostor))
    before, after = int(sums[k - 1]), int(sums[k])
    fp_before, fp_after = int(counts.fp[k - 1]), int(counts.fp[k])
    numerator = fp_before * (after - before) + (genuine * impostor - before) * (fp_after - fp_before)
    return numerator / (impostor * (after - before))


def _auc(counts: _Counts) -> float:
    """The Mann-Whitney statistic; a tie between a genuine and an impostor pair counts one half. Integers until the division."""
    twice = int(np.sum(np.diff(counts.fp) * (counts.tp[1:] + counts.tp[:-1])))
    return twice / (2 * counts.num_genuine * counts.num_impostor)


def _best_point(counts: _Counts) -> int:
    correct = counts.tp - counts.fp
    best = np.flatnonzero(correct == correct.max())
    gaps = np.concatenate(
        [[0.0], counts.value[:-1] - counts.value[1:], [0.0]]
    )  # none beyond the first and the last score
    return int(best[np.argmax(gaps[best])])


def _threshold(counts: _Counts, point: int, rounding: Callable[[float], float]) -> float:
    """A threshold of this operating point: midway between the scores on its two sides, in the precision of the scores."""
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
    return middle if rejected < middle <= accepted else accepted  # neighboring numbers have no middle


def _allowed_false_accepts(far: float, num_impostor: int) -> int:
    """The largest k with k / num_impostor <= far. 0.29 * 100 is 28.999..., hence the corrections."""
    allowed = min(int(far * num_impostor), num_impostor)
    while allowed < num_impostor and (allowed + 1) / num_impostor <= far:
        allowed += 1
    while allowed > 0 and allowed / num_impostor > far:
        allowed -= 1
    return allowed


def _point_at(counts: _Counts, allowed: int) -> int:
    """The last operating point with at most ``allowed`` false accepts; it has the largest TAR among them."""
    return int(np.searchsorted(counts.fp, allowed, side="right")) - 1


# -------------------------------------------------------------------------------------------------------------- the bootstrap


def _bootstrap_eer(counts: _Counts, rng: np.random.Generator, resamples: int) -> np.ndarray:
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


def _bootstrap_tar(counts: _Counts, allowed: int, rng: np.random.Generator, resamples: int) -> np.ndarray:
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


def _bootstrap_curve(
    counts: _Counts, rng: np.random.Generator, resamples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bootstrap replicates of AUC, best accuracy and its threshold; they need the whole curve of each resample."""
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
    auc_shift = _auc(counts) - _auc(used)  # merged points see some pairs as tied: move the replicates back
    accuracy_shift = (int((counts.tp - counts.fp).max()) - int((used.tp - used.fp).max())) / total
    return (
        np.clip(np.concatenate(aucs) + auc_shift, 0, 1),
        np.clip(np.concatenate(accuracies) + accuracy_shift, 0, 1),
        np.concatenate(thresholds),
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


def _merge_points(counts: _Counts, points: int) -> _Counts:
    """At most ``points`` (+ a few) of the operating points, spread evenly over the mass of both classes."""
    mass = counts.tp / counts.num_genuine + counts.fp / counts.num_impostor
    kept = np.unique(np.searchsorted(mass, np.linspace(0, mass[-1], points + 1)))
    kept = np.unique(np.concatenate([[0], kept, [_best_point(counts), len(counts.value)]]))
    return _Counts(value=counts.value[kept[1:] - 1], tp=counts.tp[kept], fp=counts.fp[kept])


def _all_thresholds(counts: _Counts) -> np.ndarray:
    value = counts.value
    return np.concatenate([value[:1], (value[1:] + value[:-1]) / 2, value[-1:]])


def _interval(replicates: np.ndarray, point: float, confidence: float, *, independent: int | None) -> Interval:
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


# ------------------------------------------------------------------------------------------------------------------ the checks


def _as_numpy(data: ArrayLike, name: str) -> tuple[np.ndarray, Callable[[float], float]]:
    if isinstance(data, torch.Tensor):
        dtype = data.dtype
        if dtype.is_complex:
            raise TypeError(f"{name} must be real numbers, got a tensor of {dtype}")
        if dtype in (torch.bfloat16, torch.float16, torch.float32):
            array = data.detach().to("cpu", torch.float32).numpy()
            return array, lambda value: float(torch.tensor(value, dtype=torch.float64).to(dtype))
        return data.detach().cpu().numpy(), float
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise TypeError(f"{name} must be a flat list of numbers, a numpy array or a tensor: {error}") from error
    if array.dtype == object or array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numbers, got {type(data).__name__} of {array.dtype}")
    if array.dtype in (np.float16, np.float32):
        scalar = array.dtype.type
        return array, lambda value: float(scalar(value))
    return array, float


def _check_options(fars: Iterable[float], confidence: float, bootstrap: int, seed: int) -> tuple[float, ...]:
    wanted = tuple(dict.fromkeys(float(far) for far in fars))
    for far in wanted:
        if not 0 < far <= 1:
            raise ValueError(f"fars are fractions in (0, 1], such as 1e-3; got {far!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a fraction in (0, 1), such as 0.95; got {confidence!r}")
    if isinstance(bootstrap, bool) or not isinstance(bootstrap, int) or bootstrap < 0:
        raise ValueError(f"bootstrap is a number of resamples, 0 for no intervals; got {bootstrap!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is an integer >= 0; got {seed!r}")
    return wanted
