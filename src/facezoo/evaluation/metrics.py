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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from facezoo.evaluation.counts import (
    allowed_false_accepts,
    auc_of,
    best_point,
    count_scores,
    eer_of,
    point_at,
    threshold_at,
)
from facezoo.evaluation.resampling import bootstrap_curve, bootstrap_eer, bootstrap_tar, percentile_interval
from facezoo.evaluation.scores import (
    NO_INTERVAL,
    ArrayLike,
    Interval,
    check_scores,
    format_figure,
    jsonable,
)


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
    counts = count_scores(values, genuine)
    num_genuine, num_impostor = counts.num_genuine, counts.num_impostor
    fewest = min(num_genuine, num_impostor)

    eer = eer_of(counts)
    auc = auc_of(counts)
    point = best_point(counts)
    accuracy = (int(counts.tp[point]) + num_impostor - int(counts.fp[point])) / len(values)
    threshold = threshold_at(counts, point, rounding)

    tar_at_far, threshold_at_far = {}, {}
    for far in wanted:
        allowed = allowed_false_accepts(far, num_impostor)
        if allowed == 0:
            tar_at_far[far] = threshold_at_far[far] = math.nan
        else:
            point = point_at(counts, allowed)
            tar_at_far[far] = int(counts.tp[point]) / num_genuine
            threshold_at_far[far] = threshold_at(counts, point, rounding)

    eer_interval = auc_interval = accuracy_interval = threshold_interval = NO_INTERVAL
    tar_intervals: dict[float, Interval] = dict.fromkeys(wanted, NO_INTERVAL)
    if bootstrap:
        eers = bootstrap_eer(counts, np.random.default_rng([seed, 0]), bootstrap)
        eer_interval = percentile_interval(eers, eer, confidence, independent=fewest)
        aucs, accuracies, thresholds = bootstrap_curve(counts, np.random.default_rng([seed, 1]), bootstrap)
        auc_interval = percentile_interval(aucs, auc, confidence, independent=fewest)
        accuracy_interval = percentile_interval(accuracies, accuracy, confidence, independent=len(values))
        threshold_interval = percentile_interval(thresholds, threshold, confidence, independent=None)
        for far in wanted:
            allowed = allowed_false_accepts(far, num_impostor)
            if allowed:
                tars = bootstrap_tar(counts, allowed, np.random.default_rng([seed, 2, allowed]), bootstrap)
                tar_intervals[far] = percentile_interval(tars, tar_at_far[far], confidence, independent=num_genuine)

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
    counts = count_scores(values, genuine)
    return RocCurve(
        far=counts.fp / counts.num_impostor,
        tar=counts.tp / counts.num_genuine,
        thresholds=np.concatenate([[threshold_at(counts, 0, rounding)], counts.value]),
    )


def best_threshold(scores: ArrayLike, labels: ArrayLike) -> float:
    """The threshold of the best accuracy, as :func:`verification_metrics` gives it, without the other figures."""
    return threshold_of(*check_scores(scores, labels))


def threshold_of(values: np.ndarray, genuine: np.ndarray, rounding: Callable[[float], float]) -> float:
    """:func:`best_threshold` of what :func:`check_scores` returned."""
    counts = count_scores(values, genuine)
    return threshold_at(counts, best_point(counts), rounding)


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
