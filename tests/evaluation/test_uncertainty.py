"""Intervals over people, detection costs and comparisons, against repetition and direct enumeration."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facezoo.data import PairList
from facezoo.evaluation import det_with_intervals, evaluate_pairs, resampling, verification_metrics
from facezoo.evaluation.clusters import (
    ClusterBootstrap,
    WeightedFigures,
    interval_around,
    people_of,
    weighted_accuracy,
    weighted_auc,
    weighted_cost,
    weighted_eer,
    weighted_tar,
    without_double_counting,
)
from facezoo.evaluation.comparison import compare_scores, mcnemar_p
from facezoo.evaluation.metrics import det_curve
from facezoo.evaluation.streaming import streamed_figures


def draw(seed: int, pairs: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    genuine = rng.random(pairs) < 0.4
    genuine[:2] = True, False
    return np.round(rng.normal(genuine * 1.0, 1.0), 1), genuine  # rounded: ties


@pytest.mark.parametrize("seed", range(8))
def test_weights_are_repetitions(seed: int) -> None:
    scores, genuine = draw(seed)
    weights = np.random.default_rng(seed + 50).integers(0, 4, len(scores))
    weights[:2] = 1
    points = WeightedFigures(scores, genuine).points(weights)
    assert points is not None
    repeated = verification_metrics(
        np.repeat(scores, weights), np.repeat(genuine, weights), bootstrap=0, fars=[0.1, 0.3], priors=[0.01, 0.5]
    )
    assert weighted_eer(*points) == pytest.approx(repeated.eer, abs=1e-12)
    assert weighted_auc(*points) == pytest.approx(repeated.auc, abs=1e-12)
    assert weighted_accuracy(*points) == pytest.approx(repeated.accuracy, abs=1e-12)
    assert weighted_tar(*points, 0.3) == pytest.approx(repeated.tar_at_far[0.3], abs=1e-12)
    for prior in (0.01, 0.5):
        assert weighted_cost(*points, prior) == pytest.approx(repeated.min_dcf[prior], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_costs_and_det_equal_direct_enumeration(seed: int) -> None:
    scores, genuine = draw(seed)
    metrics = verification_metrics(scores, genuine, priors=[0.2, 0.01], fars=[0.2], bootstrap=50)
    for prior in (0.2, 0.01):
        costs = []
        for threshold in [*np.unique(scores), math.inf]:
            miss = np.mean(scores[genuine] < threshold)
            false = np.mean(scores[~genuine] >= threshold)
            costs.append((prior * miss + (1 - prior) * false) / min(prior, 1 - prior))
        assert metrics.min_dcf[prior] == pytest.approx(min(costs))
        low, high = metrics.min_dcf_interval[prior]
        assert 0 <= low <= metrics.min_dcf[prior] <= high <= 1
    far, frr = det_curve(scores, genuine)
    for point, threshold in enumerate(sorted(np.unique(scores), reverse=True), start=1):
        assert far[point] == np.mean(scores[~genuine] >= threshold)
        assert frr[point] == pytest.approx(np.mean(scores[genuine] < threshold))
    assert metrics.frr_at_far[0.2] == 1 - metrics.tar_at_far[0.2]
    with pytest.raises(ValueError, match=r"priors are probabilities in \(0, 1\)"):
        verification_metrics(scores, genuine, priors=[1.0])


def test_a_person_counts_as_often_as_drawn() -> None:
    clusters = ClusterBootstrap(["a", "a", "b", "c"], ["a", "b", "c", "c"], seed=1)
    assert clusters.num_clusters == 3
    for _ in range(20):
        weights = clusters.draw()
        a, c = weights[0], weights[3]
        b = 3 - a - c
        assert weights.tolist() == [a, a * b, b * c, c]
    with pytest.raises(ValueError, match="at least two"):
        ClusterBootstrap(["a"], ["a"], seed=0)
    with pytest.raises(ValueError, match="one per image"):
        ClusterBootstrap(["a", "b"], ["a"], seed=0)


def test_shared_people_widen_the_intervals() -> None:
    rng = np.random.default_rng(0)
    ease = rng.normal(0, 1.0, 40)  # some people are easy, some are hard
    left = np.concatenate([np.repeat(np.arange(40), 10), rng.integers(0, 40, 800)])
    right = np.concatenate([np.repeat(np.arange(40), 10), (left[400:] + rng.integers(1, 40, 800)) % 40])
    genuine = np.arange(1200) < 400
    scores = np.where(genuine, 2 + 1.5 * ease[left], 0) + rng.normal(0, 0.5, 1200)
    people = ([str(p) for p in left], [str(p) for p in right], "file name")
    metrics = verification_metrics(scores, genuine, people=people, bootstrap=300, fars=[0.01, 1e-4])
    assert metrics.by_people is not None
    assert metrics.by_people.num_people == 40
    for wide, narrow in (
        (metrics.by_people.eer, metrics.eer_interval),
        (metrics.by_people.auc, metrics.auc_interval),
        (metrics.by_people.tar_at_far[0.01], metrics.tar_at_far_interval[0.01]),
    ):
        assert wide[1] - wide[0] > 1.5 * (narrow[1] - narrow[0])
    assert math.isnan(metrics.by_people.tar_at_far[1e-4][0])
    assert "over people [" in str(metrics)
    assert "also of the 40 people" in str(metrics)
    assert metrics.to_dict()["by_people"]["num_people"] == 40
    again = verification_metrics(scores, genuine, people=people, bootstrap=300, fars=[0.01, 1e-4])
    assert again == metrics
    with pytest.raises(ValueError, match="people must be one per pair"):
        verification_metrics(scores, genuine, people=(["a"], ["b"], ""), bootstrap=10)


def of_some_people(seed: int, pairs: int, people: int = 40) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    scores, genuine = draw(seed, pairs)
    rng = np.random.default_rng(seed + 100)
    left = rng.integers(0, people, pairs)
    right = np.where(genuine, left, (left + rng.integers(1, people, pairs)) % people)
    return scores, genuine, [f"p{who}" for who in left], [f"p{who}" for who in right]


@pytest.mark.parametrize("seed", range(3))
def test_intervals_over_people_are_those_of_all_curves(seed: int) -> None:
    scores, genuine, left, right = of_some_people(seed, 300)
    asked = {"fars": [0.1, 0.02, 1e-6], "priors": [0.01, 0.5], "bootstrap": 40}
    found = verification_metrics(scores, genuine, people=(left, right, "x"), **asked).by_people  # type: ignore[arg-type]
    assert found is not None
    figures, clusters = WeightedFigures(scores, genuine), ClusterBootstrap(left, right, seed=0)
    curves = [points for _ in range(40) if (points := figures.points(clusters.draw())) is not None]
    rng = np.random.default_rng([0, 5])
    alone = [figures.draw_impostors(rng) for _ in range(40)]

    def interval(figure: Callable[..., float], point: float, *more: float) -> tuple[float, float]:
        replicates, impostors = (np.array([figure(*curve, *more) for curve in kept]) for kept in (curves, alone))
        return interval_around(without_double_counting(replicates, point, impostors), point, 0.95)

    plain = verification_metrics(scores, genuine, **{**asked, "bootstrap": 0})  # type: ignore[arg-type]
    assert found.eer == interval(weighted_eer, plain.eer)
    assert found.auc == interval(weighted_auc, plain.auc)
    assert found.accuracy == interval(weighted_accuracy, plain.accuracy)
    for far in (0.1, 0.02):
        assert found.tar_at_far[far] == interval(weighted_tar, plain.tar_at_far[far], far)
    assert math.isnan(found.tar_at_far[1e-6][0])
    none = verification_metrics(scores, genuine, people=(left, right, "x"), bootstrap=4, fars=[], priors=[]).by_people
    assert none is not None
    assert none.tar_at_far == none.min_dcf == {}


@pytest.mark.parametrize("measure", [verification_metrics, det_with_intervals])
def test_memory_does_not_grow_with_the_resamples(measure: Callable[..., object], monkeypatch: Any) -> None:
    monkeypatch.setattr(resampling, "_BLOCK_CELLS", 1)  # the resamples of pairs one by one
    scores, genuine, left, right = of_some_people(0, 2000)
    scores = scores + np.linspace(0, 1e-3, 2000)  # no ties: a curve has a point for every pair
    peaks = []
    for resamples in (20, 120):
        tracemalloc.start()
        measure(scores, genuine, fars=[0.1], bootstrap=resamples, people=(left, right, "x"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 100 * 2000 * 8  # not even one number per pair and resample


def test_no_error_seen_is_no_interval_of_nothing() -> None:
    people = (list("abcdab"), list("abcdcd"), "folder")
    metrics = verification_metrics(
        [0.9, 0.8, 0.9, 0.9, 0.1, 0.2], [1, 1, 1, 1, 0, 0], people=people, bootstrap=50, fars=[0.5]
    )
    assert metrics.by_people is not None
    assert metrics.by_people.eer[1] > 0.5


@pytest.mark.parametrize(
    ("names", "origin"),
    [
        (["a/1.jpg", "a/2.jpg", "b/1.jpg"], "folder"),
        (["x/Ann_Lee_0001.jpg", "x/Ann_Lee_0002.jpg", "x/Bo_0001.jpg"], "file name"),
        (["x/1.jpg", "x/2.jpg", "x/3.jpg"], None),
    ],
)
def test_people_are_known_where_names_agree_with_labels(names: list[str], origin: str | None) -> None:
    pairs = PairList(tuple(map(Path, names)), torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([True, False]))
    found = people_of(pairs)
    assert (found and found[2]) == origin
    if found:
        assert found[0][0] == found[1][0] == found[0][1] != found[1][1]
    unlabeled = PairList(pairs.paths, pairs.left, pairs.right)
    assert people_of(unlabeled) is None
    assert evaluate_pairs.__doc__


def test_two_networks_on_the_same_pairs() -> None:
    rng = np.random.default_rng(1)
    genuine = np.arange(2000) < 1000
    signal = np.where(genuine, 1.0, 0.0) + rng.normal(0, 0.6, 2000)
    good, bad = signal + rng.normal(0, 0.1, 2000), signal + rng.normal(0, 0.8, 2000)
    result = compare_scores(bad, good, genuine, fars=[0.01, 1e-5], bootstrap=200)
    assert set(result.figures) == {"eer", "auc", "accuracy", "min_dcf", "tar@far=0.01"}
    alone = verification_metrics(good, genuine, bootstrap=0, fars=[0.01])
    assert result.figures["eer"].second == pytest.approx(alone.eer)
    assert result.figures["tar@far=0.01"].second == alone.tar_at_far[0.01]
    assert result.figures["eer"].sure
    assert result.figures["eer"].difference < 0 < result.figures["auc"].difference
    assert result.mcnemar_p < 1e-6
    assert result.only_second_right > result.only_first_right
    needed = result.figures["eer"].pairs_needed
    assert needed is not None
    assert needed < 2000
    low, high = result.figures["eer"].interval  # twice 1.96 standard errors wide; 2.80 of them are needed
    assert needed == pytest.approx(2000 * (2.80 * (high - low) / 3.92 / result.figures["eer"].difference) ** 2, rel=0.5)
    close_needed = compare_scores(good, good + rng.normal(0, 0.02, 2000), genuine, bootstrap=200).figures["auc"]
    error = (close_needed.interval[1] - close_needed.interval[0]) / 3.92
    assert close_needed.pairs_needed == pytest.approx(2000 * (2.80 * error / close_needed.difference) ** 2, rel=0.5)
    same = compare_scores(good, good, genuine, bootstrap=20)
    assert same.mcnemar_p == 1.0
    assert same.figures["eer"].interval == (0.0, 0.0)
    assert not same.figures["eer"].sure
    assert same.figures["eer"].pairs_needed is None
    close = compare_scores(good, good + rng.normal(0, 0.02, 2000), genuine, bootstrap=200)
    assert not close.figures["auc"].sure
    assert "not told apart: about" in str(close)
    swapped = compare_scores(good, bad, genuine, fars=[0.01], bootstrap=50)
    assert swapped.figures["eer"].difference == pytest.approx(-result.figures["eer"].difference)
    assert (swapped.only_first_right, swapped.only_second_right) == (result.only_second_right, result.only_first_right)
    with pytest.raises(ValueError, match="bootstrap is at least 2"):
        compare_scores(good, bad, genuine, bootstrap=1)


@pytest.mark.parametrize(
    "measure",
    [
        verification_metrics,
        lambda scores, genuine, **options: compare_scores(scores, scores, genuine, **options),
        det_with_intervals,
        lambda scores, genuine, fars: streamed_figures(
            lambda: [(torch.from_numpy(scores), torch.from_numpy(genuine))], fars=fars
        ),
    ],
)
def test_a_false_accept_rate_is_a_fraction(measure: Callable[..., object]) -> None:
    scores, genuine = draw(0)
    for far in (0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=rf"fars are fractions in \(0, 1\], such as 1e-3; got {float(far)}"):
            measure(scores, genuine, fars=[0.1, far])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"confidence": 95}, "confidence is a fraction"),
        ({"prior": 1.0}, "priors are probabilities"),
        ({"seed": -1}, "seed is an integer"),
        ({"bootstrap": 2.5}, "bootstrap is a number of resamples"),
    ],
)
def test_options_of_a_comparison_are_those_of_one_network(option: dict[str, Any], message: str) -> None:
    scores, genuine = draw(0)
    with pytest.raises(ValueError, match=message):
        compare_scores(scores, scores, genuine, **option)


def test_paired_intervals_are_narrower_than_apart() -> None:
    rng = np.random.default_rng(2)
    genuine = np.arange(1000) < 500
    signal = np.where(genuine, 1.0, 0.0) + rng.normal(0, 0.6, 1000)
    other = signal + rng.normal(0, 0.05, 1000)
    low, high = compare_scores(signal, other, genuine, bootstrap=200).figures["auc"].interval
    apart = verification_metrics(signal, genuine, bootstrap=200).auc_interval
    assert high - low < (apart[1] - apart[0]) / 2


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (3, 8), (8, 3), (50, 70), (5, 5), (400, 3000)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-9)


def test_intervals_say_where_they_are_rough() -> None:
    scores, genuine = draw(0, 1500)
    impostors = int((~genuine).sum())
    names = [f"p{n}" for n in range(1500)]
    found = verification_metrics(scores, genuine, fars=[10 / impostors, 9 / impostors, 1e-6], bootstrap=20)
    assert found.cautions == (
        f"FAR {9 / impostors:g}: fewer than ten false accepts set the threshold, so the TAR's interval is a rough one",
    )
    assert found.cautions[0] in str(found)
    assert found.to_dict()["cautions"] == list(found.cautions)
    assert verification_metrics(scores, genuine, bootstrap=0).cautions == ()
    for people, said in ((99, 1), (100, 0)):
        left = [names[n % people] for n in range(1500)]
        right = [names[(n + (0 if same else 1)) % people] for n, same in enumerate(genuine)]
        by_people = verification_metrics(scores, genuine, fars=[0.1], bootstrap=20, people=(left, right, "folder"))
        assert len(by_people.cautions) == said
        assert all("99 people: with fewer than 100" in text for text in by_people.cautions)


def test_what_is_particular_to_a_pair_is_not_counted_threefold() -> None:
    rng = np.random.default_rng(4)
    genuine = np.arange(4000) < 400
    scores = np.where(genuine, 1.5, 0.0) + rng.normal(0, 1, 4000)  # nothing is shared: both intervals should be alike
    left = np.concatenate([np.arange(400), rng.integers(0, 400, 3600)])
    right = np.where(genuine, left, (left + rng.integers(1, 400, 4000)) % 400)
    found = verification_metrics(scores, genuine, fars=[0.01], bootstrap=400, people=(left, right, "made up"))  # type: ignore[arg-type]
    assert found.by_people is not None
    for wide, narrow in (
        (found.by_people.auc, found.auc_interval),
        (found.by_people.eer, found.eer_interval),
        (found.by_people.tar_at_far[0.01], found.tar_at_far_interval[0.01]),
        (found.by_people.min_dcf[0.01], found.min_dcf_interval[0.01]),
    ):
        assert (wide[1] - wide[0]) / (narrow[1] - narrow[0]) == pytest.approx(1, abs=0.25)


def test_two_of_three_variances_of_a_pair_are_taken_off() -> None:
    replicates = np.array([-3.0, -1.0, 1.0, 3.0]) + 0.2  # variance 5
    for own, left in ((np.array([-1.0, 1.0]), 3.0), (np.array([-2.0, 2.0]), 4.0), (np.zeros(2), 5.0)):
        drawn = without_double_counting(replicates, 0.2, own)  # variances 1, 4 (more than half: it stays itself), 0
        assert np.var(drawn) == pytest.approx(left)
        assert np.mean(drawn) == pytest.approx(0.2)
    assert without_double_counting(np.full(3, 0.5), 0.5, np.zeros(3)).tolist() == [0.5] * 3


def test_the_interval_of_a_cost_puts_those_of_its_rates_together() -> None:
    from facezoo.evaluation import wilson_interval
    from facezoo.evaluation.resampling import cost_interval

    # At a prior of one half the cost is FRR + FAR.
    (a, b), (c, d) = wilson_interval(20, 100), wilson_interval(30, 300)
    low, high = cost_interval((20, 30), (100, 300), 0.5, 0.95)
    assert low == pytest.approx(0.3 - math.hypot(0.2 - a, 0.1 - c))
    assert high == pytest.approx(0.3 + math.hypot(b - 0.2, d - 0.1))
    # A hundred times rarer genuine pairs: a false accept costs 99 times as much.
    low, high = cost_interval((20, 1), (100, 3000), 0.01, 0.95)
    (c, d) = wilson_interval(1, 3000)
    assert low == pytest.approx(0.2 + 99 / 3000 - math.hypot(0.2 - a, 99 * (1 / 3000 - c)))
    assert high == pytest.approx(0.2 + 99 / 3000 + math.hypot(b - 0.2, 99 * (d - 1 / 3000)))
    wider = cost_interval((20, 1), (100, 3000), 0.01, 0.95, inflation=(1.0, 4.0))
    (c, d) = wilson_interval(0.25, 750)
    assert wider[1] == pytest.approx(0.2 + 99 / 3000 + math.hypot(b - 0.2, 99 * (d - 1 / 3000)))
    assert cost_interval((0, 0), (10, 10), 0.5, 0.95)[0] == 0
    assert cost_interval((9, 9), (10, 10), 0.5, 0.95)[1] >= 1.8  # never below the figure


def test_the_det_has_the_intervals_of_the_tars() -> None:
    from facezoo.evaluation import det_with_intervals, plot_det_bands

    scores, genuine = draw(3, 600)
    names = [f"p{n % 120}" for n in range(600)]
    people = (names, names, "folder")
    metrics = verification_metrics(scores, genuine, fars=[0.1, 0.02], bootstrap=200)
    det = det_with_intervals(scores, genuine, fars=[0.02, 0.1, 1e-6], bootstrap=200)
    assert det.far.tolist() == [0.02, 0.1]
    for far, frr, low, high in zip(det.far, det.frr, det.low, det.high, strict=True):
        assert frr == pytest.approx(1 - metrics.tar_at_far[far])
        assert (1 - high, 1 - low) == pytest.approx(metrics.tar_at_far_interval[far])
    whole = det_with_intervals(scores, genuine, people=people, bootstrap=50)
    assert whole.over_people
    assert len(whole.far) == 40
    assert whole.far[0] == pytest.approx(1 / int((~genuine).sum()))
    assert (whole.low <= whole.frr).all()
    assert (whole.frr <= whole.high).all()
    assert (np.diff(whole.frr) <= 0).all()
    assert whole.frr[-1] == 0
    assert whole.to_dict()["over_people"] is True
    with pytest.raises(ValueError, match="none of the requested false accept rates can be resolved"):
        det_with_intervals(scores, genuine, fars=[1e-6])
    with pytest.raises(ValueError, match="bootstrap is at least 1"):
        det_with_intervals(scores, genuine, bootstrap=0)
    pytest.importorskip("matplotlib")
    (axes,) = plot_det_bands({"one": whole, "two": det}).axes
    assert [line.get_label() for line in axes.get_lines()] == ["one", "two", "equal rates"]
    with pytest.raises(ValueError, match="no curves"):
        plot_det_bands({})
