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

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from facezoo.checks import is_whole
from facezoo.columns import aligned
from facezoo.evaluation.clusters import (
    ClusterBootstrap,
    WeightedFigures,
    interval_around,
    replicates_of,
    weighted_accuracy,
    weighted_auc,
    weighted_eer,
    weighted_tar,
    without_double_counting,
)
from facezoo.evaluation.counts import (
    Counts,
    allowed_false_accepts,
    auc_of,
    best_point,
    count_scores,
    detection_costs,
    eer_of,
    point_at,
    threshold_at,
)
from facezoo.evaluation.resampling import (
    bootstrap_curve,
    bootstrap_eer,
    bootstrap_tar,
    cost_interval,
    percentile_interval,
)
from facezoo.evaluation.scores import (
    NO_INTERVAL,
    ArrayLike,
    Interval,
    check_fars,
    check_scores,
    format_figure,
    jsonable,
    needed_for,
)

People: TypeAlias = "tuple[Sequence[str], Sequence[str], str]"
"""Who is on the left and on the right image of every pair, and how that is known."""

# Pairs times resamples of the bootstrap over people, at most.
_PEOPLE_WORK = 200_000_000
_ENOUGH_FALSE_ACCEPTS, _ENOUGH_PEOPLE = 10, 100


@dataclass(frozen=True)
class PeopleIntervals:
    """Intervals of a list of pairs that take people, not pairs, as independent; fractions of 1.

    The minDCF is a minimum over thresholds, of which resamples say little; its interval comes from those of the two error rates at
    its threshold, see :func:`facezoo.evaluation.resampling.cost_interval`.

    Attributes:
        num_people: how many people are on the images.
        origin: how it is known who they are.
        eer: interval of the equal error rate; the others likewise.
        auc: area under the ROC.
        accuracy: best accuracy.
        tar_at_far: by FAR; NaN where not resolvable.
        min_dcf: by prior.
    """

    num_people: int
    origin: str
    eer: Interval
    auc: Interval
    accuracy: Interval
    tar_at_far: dict[float, Interval]
    min_dcf: dict[float, Interval]


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
        min_dcf: prior of a genuine pair -> lowest detection cost over all thresholds, both errors costing the same, divided by that
            of the better of “accept all” and “accept nothing” (NIST's minDCF).
        min_dcf_interval: see ``eer_interval``.
        by_people: intervals that resample people instead of pairs; None where it is not known who is on the images.
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
    num_genuine: int
    num_impostor: int
    confidence: float
    bootstrap: int
    seed: int
    eer_interval: Interval = NO_INTERVAL
    auc_interval: Interval = NO_INTERVAL
    accuracy_interval: Interval = NO_INTERVAL
    threshold_interval: Interval = NO_INTERVAL
    tar_at_far_interval: dict[float, Interval] = field(default_factory=dict)
    min_dcf: dict[float, float] = field(default_factory=dict)
    min_dcf_interval: dict[float, Interval] = field(default_factory=dict)
    by_people: PeopleIntervals | None = None

    @property
    def frr_at_far(self) -> dict[float, float]:
        """Share of genuine pairs rejected, ``1 - tar_at_far``; its interval is that of the TAR, mirrored."""
        return {far: 1 - tar for far, tar in self.tar_at_far.items()}

    @property
    def unresolvable_fars(self) -> tuple[float, ...]:
        """The requested FARs below 1/``num_impostor``."""
        return tuple(far for far, tar in self.tar_at_far.items() if math.isnan(tar))

    @property
    def cautions(self) -> tuple[str, ...]:
        """Where the intervals hold less often than they say, in words; ``benchmarks/coverage.py`` simulates how often."""
        if not self.bootstrap:
            return ()
        allowed = {far: allowed_false_accepts(far, self.num_impostor) for far in self.tar_at_far}
        few = ", ".join(f"{far:g}" for far, most in allowed.items() if 0 < most < _ENOUGH_FALSE_ACCEPTS)
        found = (
            [f"FAR {few}: fewer than ten false accepts set the threshold, so the TAR's interval is a rough one"]
            if few
            else []
        )
        if self.by_people is not None and self.by_people.num_people < _ENOUGH_PEOPLE:
            found.append(
                f"{self.by_people.num_people} people: with fewer than {_ENOUGH_PEOPLE} the intervals over people are too narrow"
            )
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict: FAR keys as strings (``"0.001"``), intervals as lists, NaN as ``None``."""
        people = None if self.by_people is None else self.by_people.__dict__
        result: dict[str, Any] = jsonable({**self.__dict__, "by_people": people, "cautions": self.cautions})
        return result

    def rows(self) -> list[tuple[str, str, str]]:
        """``(quantity, value, interval)`` as text, with the digits that the data resolve. The summary and the report print it."""
        pairs = self.num_genuine + self.num_impostor
        fewest = min(self.num_genuine, self.num_impostor)
        people = self.by_people
        rows = [
            _row("EER", self.eer, self.eer_interval, None if people is None else people.eer, 1 / fewest, percent=True),
            _row("AUC", self.auc, self.auc_interval, None if people is None else people.auc, 1 / fewest),
            _row(
                "best accuracy",
                self.accuracy,
                self.accuracy_interval,
                None if people is None else people.accuracy,
                1 / pairs,
                percent=True,
            ),
            _row("its threshold (score >= t)", self.threshold, self.threshold_interval, None, 0.01),
        ]
        for far, tar in self.tar_at_far.items():
            name = f"TAR@FAR={far:g}"
            if math.isnan(tar):
                rows.append((name, "not resolvable", f"needs {needed_for(far):,} impostor pairs"))
                continue
            wider = None if people is None else people.tar_at_far[far]
            row = _row(name, tar, self.tar_at_far_interval[far], wider, 1 / self.num_genuine, percent=True)
            rows.append((*row[:2], f"{row[2]} score >= {self.threshold_at_far[far]:.6f}".strip()))
        for prior, cost in self.min_dcf.items():
            wider = None if people is None else people.min_dcf[prior]
            rows.append(_row(f"minDCF, prior {prior:g}", cost, self.min_dcf_interval[prior], wider, 1 / fewest))
        return rows

    def summary(self) -> str:
        """Readable lines; each figure shows only the digits that its interval resolves."""
        head = f"{self.num_genuine:,} genuine and {self.num_impostor:,} impostor pairs"
        if self.bootstrap:
            head += f"; {self.confidence * 100:g} % intervals from {self.bootstrap:,} resamples"
        if self.by_people is not None:
            head += f", also of the {self.by_people.num_people:,} people"
        lines = [head]
        lines += aligned(self.rows())
        lines += self.cautions
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
    priors: Iterable[float] = (0.01,),
    people: People | None = None,
) -> VerificationMetrics:
    """All verification figures of one list of scored pairs.

    Args:
        scores: ``(N,)`` similarities (cosine), higher = more alike; list, numpy array or tensor on any device.
        labels: ``(N,)`` bool or 0/1; true = same person.
        fars: the FARs at which TAR is wanted, fractions in (0, 1].
        confidence: confidence of the intervals, fraction in (0, 1).
        bootstrap: number of resamples, stratified by genuine/impostor; 0 leaves the intervals NaN.
        seed: seed of the resampling. The same input and seed give the same intervals, whatever the order of the pairs.
        priors: priors of a genuine pair for the minDCF, fractions in (0, 1).
        people: who is on the left and on the right image of every pair, and how that is known; for intervals over people.

    Returns:
        The record. If several thresholds reach the best accuracy, ``threshold`` lies in the widest gap between scores among them.
        It is representable in the precision of ``scores``, so that ``scores >= threshold`` gives exactly that accuracy. An
        interval that the bootstrap leaves without width at 0 or 1 (no error seen) gets the exact binomial bound instead (no error
        in n pairs does not mean none ever), and an interval always holds its point estimate.

    Raises:
        ValueError: NaN or infinite scores, lengths that differ, labels not 0/1 or of one class only, or an option out of range.
        TypeError: scores or labels that are not numbers.
    """
    values, genuine, rounding = check_scores(scores, labels)
    wanted, priors = check_options(fars, priors, confidence, bootstrap, seed)
    counts = count_scores(values, genuine)
    point = best_point(counts)
    tar_at_far, threshold_at_far = _at_fars(counts, wanted, rounding)
    metrics = VerificationMetrics(
        eer=eer_of(counts),
        auc=auc_of(counts),
        accuracy=(int(counts.tp[point]) + counts.num_impostor - int(counts.fp[point])) / len(values),
        threshold=threshold_at(counts, point, rounding),
        tar_at_far=tar_at_far,
        threshold_at_far=threshold_at_far,
        num_genuine=counts.num_genuine,
        num_impostor=counts.num_impostor,
        confidence=float(confidence),
        bootstrap=int(bootstrap),
        seed=int(seed),
        min_dcf={prior: float(detection_costs(counts.tp, counts.fp, prior).min()) for prior in priors},
        tar_at_far_interval=dict.fromkeys(wanted, NO_INTERVAL),
        min_dcf_interval=dict.fromkeys(priors, NO_INTERVAL),
    )
    if not bootstrap:
        return metrics
    metrics = _with_pair_intervals(metrics, counts)
    if people is None:
        return metrics
    return replace(metrics, by_people=_people_intervals(metrics, counts, WeightedFigures(values, genuine), people))


def _with_pair_intervals(metrics: VerificationMetrics, counts: Counts) -> VerificationMetrics:
    """With intervals that resample pairs, genuine and impostor ones apart."""
    seed, bootstrap, confidence = metrics.seed, metrics.bootstrap, metrics.confidence
    pairs, fewest = counts.num_genuine + counts.num_impostor, min(counts.num_genuine, counts.num_impostor)
    eers = bootstrap_eer(counts, np.random.default_rng([seed, 0]), bootstrap)
    curve = bootstrap_curve(counts, np.random.default_rng([seed, 1]), bootstrap)
    tar_intervals = dict(metrics.tar_at_far_interval)
    for far, tar in metrics.tar_at_far.items():
        allowed = allowed_false_accepts(far, counts.num_impostor)
        if allowed:
            tars = bootstrap_tar(counts, allowed, np.random.default_rng([seed, 2, allowed]), bootstrap)
            tar_intervals[far] = percentile_interval(tars, tar, confidence, independent=counts.num_genuine)
    trials = (counts.num_genuine, counts.num_impostor)
    cost_intervals = {
        prior: cost_interval(_cheapest(counts, prior)[1], trials, prior, confidence) for prior in metrics.min_dcf
    }
    return replace(
        metrics,
        eer_interval=percentile_interval(eers, metrics.eer, confidence, independent=fewest),
        auc_interval=percentile_interval(curve.auc, metrics.auc, confidence, independent=fewest),
        accuracy_interval=percentile_interval(curve.accuracy, metrics.accuracy, confidence, independent=pairs),
        threshold_interval=percentile_interval(curve.threshold, metrics.threshold, confidence, independent=None),
        tar_at_far_interval=tar_intervals,
        min_dcf_interval=cost_intervals,
    )


def _at_fars(
    counts: Counts, fars: Iterable[float], rounding: Callable[[float], float]
) -> tuple[dict[float, float], dict[float, float]]:
    tars, thresholds = {}, {}
    for far in fars:
        allowed = allowed_false_accepts(far, counts.num_impostor)
        tars[far] = thresholds[far] = math.nan
        if allowed:
            point = point_at(counts, allowed)
            tars[far] = int(counts.tp[point]) / counts.num_genuine
            thresholds[far] = threshold_at(counts, point, rounding)
    return tars, thresholds


def _people_intervals(
    metrics: VerificationMetrics, counts: Counts, figures: WeightedFigures, people: People
) -> PeopleIntervals | None:
    """Intervals over people; None if there is one person only. Of very many pairs fewer resamples are drawn, at least 100."""
    left, right, origin = people
    pairs = metrics.num_genuine + metrics.num_impostor
    if len(left) != pairs:
        raise ValueError(f"people must be one per pair and side: {len(left)} for {pairs} pairs")
    if len(set(left) | set(right)) < 2:
        return None
    clusters = ClusterBootstrap(left, right, seed=metrics.seed)
    resamples = min(metrics.bootstrap, max(100, _PEOPLE_WORK // pairs))
    rates = [functools.partial(weighted_tar, far=far) for far in metrics.tar_at_far]
    wanted: list[Callable[[np.ndarray, np.ndarray], Any]] = [weighted_eer, weighted_auc, weighted_accuracy, *rates]
    places = [_cheapest(counts, prior)[0] for prior in metrics.min_dcf]
    curves = (figures.points(clusters.draw()) for _ in range(resamples))
    *drawn, errors = replicates_of(curves, [*wanted, lambda tp, fp: (1 - tp[places] / tp[-1], fp[places] / fp[-1])])
    rng = np.random.default_rng([metrics.seed, 5])
    alone = replicates_of((figures.draw_impostors(rng) for _ in range(resamples)), wanted)
    pairwise = [
        metrics.eer_interval,
        metrics.auc_interval,
        metrics.accuracy_interval,
        *metrics.tar_at_far_interval.values(),
    ]
    points = [metrics.eer, metrics.auc, metrics.accuracy, *metrics.tar_at_far.values()]
    eer, auc, accuracy, *tars = (
        _over_people(*figure, metrics.confidence) for figure in zip(drawn, alone, points, pairwise, strict=True)
    )
    errors = errors.reshape(len(errors), 2, len(places))
    return PeopleIntervals(
        num_people=clusters.num_clusters,
        origin=origin,
        eer=eer,
        auc=auc,
        accuracy=accuracy,
        tar_at_far=dict(zip(metrics.tar_at_far, tars, strict=True)),
        min_dcf={
            prior: _cost_over_people(counts, errors[:, :, column], prior, metrics.confidence)
            for column, prior in enumerate(metrics.min_dcf)
        },
    )


def _over_people(
    replicates: np.ndarray, impostors_alone: np.ndarray, point: float, pairwise: Interval, confidence: float
) -> Interval:
    """The interval of one figure from its replicates, see :func:`without_double_counting`."""
    if math.isnan(point) or not len(replicates):
        return NO_INTERVAL
    low, high = interval_around(without_double_counting(replicates, point, impostors_alone), point, confidence)
    # Without an error every resample is without one too; the bound over pairs is then the least that can be said.
    return (min(low, pairwise[0]), max(high, pairwise[1])) if low == high else (low, high)


def _cheapest(counts: Counts, prior: float) -> tuple[int, tuple[int, int]]:
    """The operating point of the least detection cost, and the rejected genuine and accepted impostor pairs there."""
    point = int(np.argmin(detection_costs(counts.tp, counts.fp, prior)))
    return point, (counts.num_genuine - int(counts.tp[point]), int(counts.fp[point]))


def _cost_over_people(counts: Counts, rates: np.ndarray, prior: float, confidence: float) -> Interval:
    """The interval of the minDCF with the variances of its two error rates ``(resamples, 2)`` over resamples of people.

    A resample draws an impostor pair as often as the product of its two people. For pairs that have nothing in common that gives
    three times their variance, so two of the three are taken off again.
    """
    errors = _cheapest(counts, prior)[1]
    trials = (counts.num_genuine, counts.num_impostor)
    inflation = [1.0, 1.0]
    for kind, (error, trial) in enumerate(zip(errors, trials, strict=True)):
        share = max(error, 0.5) / trial
        alone = share * (1 - share) / trial
        if len(rates) > 1 and alone > 0:
            inflation[kind] = max(1.0, float(rates[:, kind].var()) / alone - (0, 2)[kind])
    return cost_interval(errors, trials, prior, confidence, inflation=(inflation[0], inflation[1]))


def _row(
    name: str, value: float, interval: Interval, people: Interval | None, step: float, *, percent: bool = False
) -> tuple[str, str, str]:
    text, by_pair = format_figure(value, interval, step=step, percent=percent)
    if people is None:
        return name, text, by_pair
    return name, text, f"{by_pair}, over people {format_figure(value, people, step=step, percent=percent)[1]}"


def det_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """FAR and FRR at every operating point, float64 ``(K + 1,)`` each, from “accept nothing” to “accept all”."""
    curve = roc_curve(scores, labels)
    return curve.far, 1 - curve.tar


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


def check_options(
    fars: Iterable[float], priors: Iterable[float], confidence: float, bootstrap: int, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The FARs and the priors, each once. Raises ValueError for an option out of range."""
    priors = tuple(dict.fromkeys(float(prior) for prior in priors))
    if not all(0 < prior < 1 for prior in priors):
        raise ValueError(f"priors are probabilities in (0, 1), got {priors}")
    wanted = check_fars(fars)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is a fraction in (0, 1), such as 0.95; got {confidence!r}")
    if not is_whole(bootstrap, 0):
        raise ValueError(f"bootstrap is a number of resamples, 0 for no intervals; got {bootstrap!r}")
    if not is_whole(seed, 0):
        raise ValueError(f"seed is an integer >= 0; got {seed!r}")
    return wanted, priors
