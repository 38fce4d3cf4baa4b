"""The detection error tradeoff (DET): false reject rate by false accept rate, with intervals."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from facezoo.evaluation.clusters import ClusterBootstrap, WeightedFigures, interval_around, replicates_of, weighted_tar
from facezoo.evaluation.counts import allowed_false_accepts, count_scores, point_at
from facezoo.evaluation.metrics import People, check_options
from facezoo.evaluation.resampling import bootstrap_tar, percentile_interval
from facezoo.evaluation.scores import ArrayLike, check_scores, jsonable


@dataclass(frozen=True, eq=False)
class DetCurve:
    """False reject rates by false accept rate, fractions of 1; every array is float64 ``(K,)``.

    Attributes:
        far: false accept rates, ascending; none below one over the number of impostor pairs.
        frr: smallest share of genuine pairs rejected at a false accept rate of at most ``far``.
        low: lower limits of the intervals of ``frr``, each for one point alone.
        high: upper limits.
        confidence: confidence of the intervals, fraction of 1.
        over_people: whether people, and not pairs, were resampled.
    """

    far: np.ndarray
    frr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    confidence: float
    over_people: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict of lists."""
        content = {
            name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()
        }
        return cast("dict[str, Any]", jsonable(content))


def det_with_intervals(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    fars: Iterable[float] | None = None,
    people: People | None = None,
    confidence: float = 0.95,
    bootstrap: int = 1000,
    seed: int = 0,
) -> DetCurve:
    """The DET curve of scored pairs, with an interval at every point.

    Args:
        scores: ``(N,)`` similarities.
        labels: ``(N,)`` bool or 0/1, true = same person.
        fars: false accept rates, fractions in (0, 1]; those that the impostor pairs do not resolve are left out. None: 40 rates,
            evenly spaced on a logarithmic axis.
        people: the people in the pairs, see :func:`facezoo.evaluation.clusters.people_of`; people are then resampled, not pairs.
        confidence: confidence of the intervals, fraction in (0, 1).
        bootstrap: number of resamples, at least 1.
        seed: seed of the resampling.

    Raises:
        ValueError: see :func:`facezoo.evaluation.verification_metrics`; or no rate is resolvable.
    """
    values, genuine, _ = check_scores(scores, labels)
    counts = count_scores(values, genuine)
    rates = np.geomspace(1 / counts.num_impostor, 1, 40) if fars is None else fars
    wanted, _ = check_options(rates, (), confidence, bootstrap, seed)
    if bootstrap < 1:
        raise ValueError(f"bootstrap is at least 1, got {bootstrap}")
    kept = {far: most for far in sorted(wanted) if (most := allowed_false_accepts(far, counts.num_impostor))}
    if not kept:
        raise ValueError(
            f"none of the requested false accept rates can be resolved with {counts.num_impostor} impostor pairs"
        )
    tars = [int(counts.tp[point_at(counts, most)]) / counts.num_genuine for most in kept.values()]
    clusters = None
    if people is not None and len(set(people[0]) | set(people[1])) > 1:
        clusters = ClusterBootstrap(people[0], people[1], seed=seed)
        figures = WeightedFigures(values, genuine)
        tar_of = [functools.partial(weighted_tar, far=far) for far in kept]
        drawn = replicates_of((figures.points(clusters.draw()) for _ in range(bootstrap)), tar_of)
    limits = []
    for row, (most, tar) in enumerate(zip(kept.values(), tars, strict=True)):
        replicates = bootstrap_tar(counts, most, np.random.default_rng([seed, 2, most]), bootstrap)
        low, high = percentile_interval(replicates, tar, confidence, independent=counts.num_genuine)
        if clusters is not None and len(drawn[row]):
            wide = interval_around(drawn[row], tar, confidence)
            low, high = wide if wide[0] < wide[1] else (min(low, wide[0]), max(high, wide[1]))
        limits.append((1 - high, 1 - low))
    frr, edges = 1 - np.array(tars), np.array(limits)
    return DetCurve(np.array(list(kept)), frr, edges[:, 0], edges[:, 1], float(confidence), clusters is not None)
