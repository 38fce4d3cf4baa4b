"""Bootstrap over people: pairs that share a person are not independent, so people are resampled instead of pairs.

A resample draws as many people as there are, with replacement. The weight of a genuine pair is the number of times its person was
drawn; that of an impostor pair is the product of the numbers for its two people. The figures are those of :mod:`counts`,
weighted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from facezoo.evaluation.counts import allowed_false_accepts, detection_costs
from facezoo.evaluation.scores import Interval

if TYPE_CHECKING:
    from facezoo.data import PairList


class ClusterBootstrap:
    """Weights of pairs under resamples of the people in them.

    Args:
        left: ``(N,)`` number or name of the person on the first image of every pair.
        right: the same for the second image; None if there is only one image (a probe).
        seed: seed of the resampling.

    Attributes:
        num_clusters: number of people.

    Raises:
        ValueError: the lengths differ, or there are fewer than two people.
    """

    def __init__(
        self, left: Sequence[int] | Sequence[str] | np.ndarray, right: Sequence[int] | Sequence[str] | np.ndarray | None,
        *, seed: int,
    ) -> None:  # fmt: skip
        first = _as_array(left)
        second = first if right is None else _as_array(right)
        if first.shape != second.shape or first.ndim != 1:
            raise ValueError(
                f"people must be one per image of a pair: {first.shape} on the left, {second.shape} on the right"
            )
        people, index = np.unique(np.concatenate([first, second]), return_inverse=True)
        self.num_clusters = len(people)
        if self.num_clusters < 2:
            raise ValueError("a bootstrap over people needs at least two of them")
        self._left, self._right = index[: len(first)], index[len(first) :]
        self._same = self._left == self._right
        self._rng = np.random.default_rng([seed, 3])

    def draw(self) -> np.ndarray:
        """The weights of one resample, int64 ``(N,)``."""
        people = self._rng.integers(0, self.num_clusters, self.num_clusters)
        times = np.bincount(people, minlength=self.num_clusters)
        first = times[self._left]
        weights: np.ndarray = np.where(self._same, first, first * times[self._right])
        return weights


def people_of(pairs: PairList) -> tuple[list[str], list[str], str] | None:
    """The people in labeled pairs, from file names, if the names agree with every label.

    Two rules are tried: the image's folder, then the file name before its last number (``Ann_Lee_0003.jpg``).

    Returns:
        The left and right person of every pair, and the rule that was used; None if no rule agrees with the labels.
    """
    if pairs.labels is None:
        return None
    labels = pairs.labels.numpy()
    rules = {"folder": lambda path: path.parent.as_posix(), "file name": lambda path: path.stem.rpartition("_")[0]}
    for origin, rule in rules.items():
        names = [rule(path) for path in pairs.paths]
        left = [names[index] for index in pairs.left.tolist()]
        right = [names[index] for index in pairs.right.tolist()]
        agree = np.array([a == b for a, b in zip(left, right, strict=True)]) == labels
        if bool(agree.all()):
            return left, right, origin
    return None


class WeightedFigures:
    """Figures of weighted pairs: sorted once, evaluated for many sets of weights.

    Args:
        scores: float64 ``(N,)``.
        genuine: bool ``(N,)``.
    """

    def __init__(self, scores: np.ndarray, genuine: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._genuine = genuine[self._order]
        self._ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)

    def points(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """Total weight of accepted genuine and impostor pairs at each operating point, int64 ``(K + 1,)``; None if a class has
        weight 0."""
        ordered = weights[self._order]
        tp, every = (np.cumsum(kind)[self._ends] for kind in (np.where(self._genuine, ordered, 0), ordered))
        tp, fp = (np.concatenate([[0], kind]) for kind in (tp, every - tp))
        return None if tp[-1] == 0 or fp[-1] == 0 else (tp, fp)

    def draw_impostors(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`points` with the impostor pairs resampled one by one, and the genuine pairs unchanged."""
        weights = np.ones(len(self._order), dtype=np.int64)
        impostors = self._order[~self._genuine]
        weights[impostors] = np.bincount(rng.integers(0, len(impostors), len(impostors)), minlength=len(impostors))
        found = self.points(weights)
        assert found is not None  # as many of each class as before
        return found


def weighted_eer(tp: np.ndarray, fp: np.ndarray) -> float:
    """Equal error rate on the interpolated ROC, a fraction of 1."""
    far, tar = fp / fp[-1], tp / tp[-1]
    sums = far + tar
    after = int(np.searchsorted(sums, 1.0))
    if after == 0 or sums[after] == sums[after - 1]:
        return float(far[after])
    part = (1.0 - sums[after - 1]) / (sums[after] - sums[after - 1])
    return float(far[after - 1] + part * (far[after] - far[after - 1]))


def weighted_auc(tp: np.ndarray, fp: np.ndarray) -> float:
    """Area under the ROC, a fraction of 1; a tie counts one half."""
    return float(np.sum(np.diff(fp) * (tp[1:] + tp[:-1])) / (2.0 * tp[-1] * fp[-1]))


def weighted_accuracy(tp: np.ndarray, fp: np.ndarray) -> float:
    """Best accuracy over all thresholds, a fraction of 1."""
    return float(((tp - fp).max() + fp[-1]) / (tp[-1] + fp[-1]))


def weighted_tar(tp: np.ndarray, fp: np.ndarray, far: float) -> float:
    """Largest TAR with a FAR of at most ``far``, fractions of 1."""
    allowed = allowed_false_accepts(far, int(fp[-1]))
    return float(tp[int(np.searchsorted(fp, allowed, side="right")) - 1] / tp[-1])


def weighted_cost(tp: np.ndarray, fp: np.ndarray, prior: float) -> float:
    """Lowest detection cost over all thresholds, see :func:`facezoo.evaluation.counts.detection_costs`."""
    return float(detection_costs(tp, fp, prior).min())


def replicates_of(
    curves: Iterable[tuple[np.ndarray, np.ndarray] | None], figures: Sequence[Callable[[np.ndarray, np.ndarray], Any]]
) -> list[np.ndarray]:
    """Each figure of every resample, one array per figure. A curve is as long as the list of pairs, so none is kept.

    Args:
        curves: :meth:`WeightedFigures.points` of the resamples, made one by one; None is left out.
        figures: functions of a curve.
    """
    rows = [[figure(*curve) for figure in figures] for curve in curves if curve is not None]
    return [np.array([row[column] for row in rows]) for column in range(len(figures))]


def without_double_counting(replicates: np.ndarray, point: float, impostors_alone: np.ndarray) -> np.ndarray:
    """Replicates over people, with their excess variance removed.

    An impostor pair has the product of two people's weights. The variance that belongs to the pair itself is then counted three
    times (Owen 2007), the variance that belongs to a person once. Two of the three are removed by shrinking towards the figure.

    Args:
        replicates: replicates of the figure, over people.
        point: the figure.
        impostors_alone: replicates in which only impostor pairs are resampled, one by one.
    """
    spread, own = float(np.var(replicates)), float(np.var(impostors_alone))
    if not spread > 0:
        return replicates
    kept = max(spread - 2 * own, min(own, spread)) / spread
    drawn: np.ndarray = point + np.sqrt(kept) * (replicates - point)
    return drawn


def interval_around(replicates: Sequence[float] | np.ndarray, point: float, confidence: float) -> Interval:
    """Percentile interval of replicates, widened to contain ``point``."""
    tail = (1 - confidence) / 2
    low, high = (float(limit) for limit in np.quantile(np.asarray(replicates), [tail, 1 - tail]))
    return min(low, point), max(high, point)


def _as_array(values: Sequence[int] | Sequence[str] | np.ndarray) -> np.ndarray:
    return np.asarray(values)
