"""Compare two networks on the same pairs, resampled together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from facezoo.evaluation.clusters import (
    ClusterBootstrap,
    WeightedFigures,
    interval_around,
    weighted_accuracy,
    weighted_auc,
    weighted_cost,
    weighted_eer,
    weighted_tar,
)
from facezoo.evaluation.counts import allowed_false_accepts
from facezoo.evaluation.metrics import People, check_options, threshold_of
from facezoo.evaluation.scores import NO_INTERVAL, ArrayLike, Interval, check_scores, jsonable

_DETECTABLE = (
    1.959964 + 0.841621
)  # number of standard errors at which a difference is significant at 5 % with a power of 80 %


@dataclass(frozen=True)
class Difference:
    """One figure of two networks. Rates are fractions of 1.

    Attributes:
        first: the first network's figure.
        second: the second's.
        interval: interval of second minus first, over pairs.
        people_interval: the same over people; None if the people are not known.
        pairs_needed: about how many such pairs are needed for a difference of this size to be significant at 5 % with a power of
            80 %; None if the difference is 0.
    """

    first: float
    second: float
    interval: Interval
    people_interval: Interval | None
    pairs_needed: int | None

    @property
    def difference(self) -> float:
        """Second minus first."""
        return self.second - self.first

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside the widest known interval."""
        low, high = self.people_interval or self.interval
        return low > 0 or high < 0


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same pairs.

    Attributes:
        figures: name of the figure (``"eer"``, ``"auc"``, ``"accuracy"``, ``"min_dcf"``, ``"tar@far=0.01"``) -> the difference.
        only_first_right: number of pairs that only the first network decides correctly, each network at its own best threshold.
        only_second_right: number of pairs that only the second decides correctly.
        mcnemar_p: exact two-sided p-value of McNemar's test on these two counts.
        num_pairs: number of pairs.
        confidence: confidence of the intervals.
    """

    figures: dict[str, Difference]
    only_first_right: int
    only_second_right: int
    mcnemar_p: float
    num_pairs: int
    confidence: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict."""
        content = {**self.__dict__, "figures": {name: entry.__dict__ for name, entry in self.figures.items()}}
        return cast("dict[str, Any]", jsonable(content))

    def __str__(self) -> str:
        lines = [f"{self.num_pairs:,} pairs; second minus first, {self.confidence * 100:g} % intervals over pairs"]
        for name, entry in self.figures.items():
            low, high = entry.interval
            people = entry.people_interval
            text = (
                f"{name:<14} {entry.first:.4f} -> {entry.second:.4f}  {entry.difference:+.4f} [{low:+.4f}, {high:+.4f}]"
            )
            if people is not None:
                text += f", over people [{people[0]:+.4f}, {people[1]:+.4f}]"
            if not entry.sure and entry.pairs_needed is not None:
                text += f"; not told apart: about {entry.pairs_needed:,} pairs would"
            lines.append(text)
        lines.append(
            f"correct only with the first {self.only_first_right}, only with the second {self.only_second_right}: "
            f"McNemar p = {self.mcnemar_p:.3g}"
        )
        return "\n".join(lines)


def _wanted_figures(
    fars: Iterable[float], prior: float, *, impostors: int
) -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    wanted: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "eer": weighted_eer,
        "auc": weighted_auc,
        "accuracy": weighted_accuracy,
        "min_dcf": lambda tp, fp: weighted_cost(tp, fp, prior),
    }
    for far in fars:
        if allowed_false_accepts(far, impostors):
            wanted[f"tar@far={far:g}"] = lambda tp, fp, far=far: weighted_tar(tp, fp, far)  # type: ignore[misc]
    return wanted


def _difference(
    first: float,
    second: float,
    by_pair: list[float],
    by_people: list[float] | None,
    *,
    num_pairs: int,
    confidence: float,
) -> Difference:
    difference = second - first
    used = by_pair if by_people is None else by_people
    error = float(np.std(used)) if used else math.nan
    return Difference(
        first,
        second,
        _interval(by_pair, difference, confidence),
        None if by_people is None else _interval(by_people, difference, confidence),
        None
        if difference == 0 or math.isnan(error)
        else math.ceil(num_pairs * (_DETECTABLE * error / difference) ** 2),
    )


def compare_scores(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    *,
    people: People | None = None,
    fars: Iterable[float] = (1e-2, 1e-3),
    prior: float = 0.01,
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two networks by their scores on the same pairs.

    Args:
        first: ``(N,)`` scores of the first network.
        second: ``(N,)`` scores of the second network, for the same pairs.
        labels: ``(N,)`` bool or 0/1, true = same person.
        people: the people in the pairs, see :func:`facezoo.evaluation.clusters.people_of`.
        fars: FARs at which the TAR is compared; FARs that the pairs do not resolve are left out.
        prior: prior of the minDCF.
        confidence: confidence of the intervals, fraction of 1.
        bootstrap: number of resamples, at least 2.
        seed: seed of the resampling.

    Raises:
        ValueError: see :func:`facezoo.evaluation.verification_metrics`.
    """
    fars, (prior,) = check_options(fars, [prior], confidence, bootstrap, seed)
    if bootstrap < 2:
        raise ValueError(f"a comparison needs resamples: bootstrap is at least 2, got {bootstrap}")
    (values, genuine, round_first), (others, _, round_second) = (check_scores(one, labels) for one in (first, second))
    wanted = _wanted_figures(fars, prior, impostors=int((~genuine).sum()))
    both = (WeightedFigures(values, genuine), WeightedFigures(others, genuine))
    ones = np.ones(len(values), dtype=np.int64)
    points = [{name: figure(*cast(Any, one.points(ones))) for name, figure in wanted.items()} for one in both]
    rng = np.random.default_rng([seed, 4])
    by_pair = _replicates(both, wanted, lambda: _stratified(genuine, rng), bootstrap)
    by_people = None
    if people is not None and len(set(people[0]) | set(people[1])) > 1:
        clusters = ClusterBootstrap(people[0], people[1], seed=seed)
        by_people = _replicates(both, wanted, clusters.draw, bootstrap)
    figures = {
        name: _difference(
            points[0][name],
            points[1][name],
            by_pair[name],
            None if by_people is None else by_people[name],
            num_pairs=len(values),
            confidence=confidence,
        )
        for name in wanted
    }
    right = [
        (scores >= threshold_of(scores, genuine, rounding)) == genuine
        for scores, rounding in ((values, round_first), (others, round_second))
    ]
    only_first, only_second = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p = mcnemar_p(only_first, only_second)
    return Comparison(figures, only_first, only_second, p, len(values), float(confidence))


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value of McNemar's test on the pairs that only one network decides correctly."""
    tosses, fewer = only_first + only_second, min(only_first, only_second)
    logs = [math.lgamma(tosses + 1) - math.lgamma(k + 1) - math.lgamma(tosses - k + 1) for k in range(fewer + 1)]
    tail = math.fsum(math.exp(value - tosses * math.log(2)) for value in logs)
    return min(1.0, 2 * tail)


def _replicates(
    both: tuple[WeightedFigures, WeightedFigures],
    wanted: dict[str, Callable[[np.ndarray, np.ndarray], float]],
    draw: Callable[[], np.ndarray],
    resamples: int,
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in wanted}
    for _ in range(resamples):
        weights = draw()
        first, second = both[0].points(weights), both[1].points(weights)
        if first is not None and second is not None:
            for name, figure in wanted.items():
                found[name].append(figure(*second) - figure(*first))
    return found


def _stratified(genuine: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights of a resample of the genuine and of the impostor pairs."""
    weights = np.zeros(len(genuine), dtype=np.int64)
    for kind in (np.flatnonzero(genuine), np.flatnonzero(~genuine)):
        weights[kind] = np.bincount(rng.integers(0, len(kind), len(kind)), minlength=len(kind))
    return weights


def _interval(replicates: list[float], point: float, confidence: float) -> Interval:
    return interval_around(replicates, point, confidence) if replicates else NO_INTERVAL
