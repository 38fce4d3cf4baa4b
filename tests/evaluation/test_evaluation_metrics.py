from __future__ import annotations

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from facezoo.evaluation import VerificationMetrics, best_threshold, roc_curve, verification_metrics

# Scores from a grid of a few values: most pairs are tied.
tied_pairs = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)
# Scores anywhere, neighbors in float64 and float32 included.
any_pairs = st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: len({label for _, label in pairs}) == 2
)


def _split(pairs):
    return [float(score) for score, _ in pairs], [label for _, label in pairs]


def _oracle_points(scores, labels):
    """(FAR, TAR) of every threshold, by counting, in rationals."""
    genuine = [score for score, label in zip(scores, labels, strict=True) if label]
    impostor = [score for score, label in zip(scores, labels, strict=True) if not label]
    points = [(Fraction(0), Fraction(0))]
    for threshold in sorted(set(scores), reverse=True):
        far = Fraction(sum(score >= threshold for score in impostor), len(impostor))
        tar = Fraction(sum(score >= threshold for score in genuine), len(genuine))
        points.append((far, tar))
    return points


def _oracle_eer(points):
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 + y1 >= 1:
            t = (1 - x0 - y0) / (x1 + y1 - x0 - y0)
            return x0 + t * (x1 - x0)
    raise AssertionError("the ROC ends at (1, 1)")


@pytest.mark.parametrize("strategy", [tied_pairs, any_pairs], ids=["ties", "any"])
def test_every_figure_equals_counting_in_rationals(strategy):
    @settings(max_examples=150, deadline=None)
    @given(strategy)
    def check(pairs):
        scores, labels = _split(pairs)
        fars = (1.0, 0.5, 0.29, 0.1)
        metrics = verification_metrics(scores, labels, fars=fars, bootstrap=0)
        points = _oracle_points(scores, labels)
        genuine, impostor = sum(labels), len(labels) - sum(labels)
        assert metrics.eer == float(_oracle_eer(points))  # exact: one correctly rounded division
        best = max(y * genuine + (1 - x) * impostor for x, y in points) / len(scores)
        assert metrics.accuracy == float(best)
        for far in fars:
            if impostor * far < 1:
                assert math.isnan(metrics.tar_at_far[far])
                assert math.isnan(metrics.threshold_at_far[far])
            else:
                assert metrics.tar_at_far[far] == float(max(y for x, y in points if x <= far))

    check()


@settings(max_examples=150, deadline=None)
@given(tied_pairs)
def test_auc_equals_scikit_learn(pairs):
    scores, labels = _split(pairs)
    assert verification_metrics(scores, labels, bootstrap=0).auc == pytest.approx(
        roc_auc_score(labels, scores), abs=1e-12
    )


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
def test_thresholds_give_their_figures_in_the_precision_of_the_scores(dtype):
    torch_dtype = getattr(torch, dtype)

    @settings(max_examples=60, deadline=None)
    @given(any_pairs)
    def check(pairs):
        plain, labels = _split(pairs)
        scores, truth = torch.tensor(plain, dtype=torch_dtype), torch.tensor(labels)
        metrics = verification_metrics(scores, truth, fars=(0.5, 1.0), bootstrap=0)
        accepted = scores >= metrics.threshold
        assert (accepted == truth).double().mean().item() == metrics.accuracy
        assert best_threshold(scores, truth) == metrics.threshold
        for far, tar in metrics.tar_at_far.items():
            if not math.isnan(tar):
                accepted = scores >= metrics.threshold_at_far[far]
                assert accepted[truth].double().mean().item() == tar
                assert accepted[~truth].double().mean().item() <= far

    check()


def test_neighboring_floats_are_separated():
    low = np.float32(0.3)
    high = np.nextafter(low, np.float32(1))
    scores = np.array([low, high], dtype=np.float32)
    threshold = verification_metrics(scores, [0, 1], bootstrap=0).threshold
    assert (scores >= threshold).tolist() == [False, True]


def test_threshold_lies_midway_in_the_widest_gap():
    metrics = verification_metrics([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], bootstrap=0)
    assert (metrics.eer, metrics.auc, metrics.accuracy, metrics.threshold) == (0.0, 1.0, 1.0, 0.5)
    # 3 of 4 right both between .1/.2 and between .5/.9, and the other way round: the wide gap wins, high or low.
    assert verification_metrics([0.1, 0.2, 0.5, 0.9], [0, 1, 0, 1], bootstrap=0).threshold == pytest.approx(0.7)
    assert verification_metrics([0.1, 0.5, 0.8, 0.9], [0, 1, 0, 1], bootstrap=0).threshold == pytest.approx(0.3)


def test_accept_none_can_be_best():
    metrics = verification_metrics([0.9, 0.1, 0.2, 0.3], [0, 1, 0, 0], bootstrap=0)
    assert metrics.accuracy == 0.75
    assert metrics.threshold > 0.9


def test_known_eer_on_a_slanted_segment():
    # One group of ties holds 1 of 2 impostors, 2 of 3 genuine pairs: the line from (0, 1/3) to (1/2, 1) meets FAR + TAR = 1 at 2/7.
    metrics = verification_metrics([3, 2, 2, 2, 1], [1, 1, 1, 0, 0], bootstrap=0)
    assert metrics.eer == 2 / 7


def test_all_scores_equal_is_chance():
    metrics = verification_metrics([0.5] * 10, [0, 1] * 5, fars=(0.2,), bootstrap=0)
    assert (metrics.eer, metrics.auc, metrics.accuracy, metrics.tar_at_far) == (0.5, 0.5, 0.5, {0.2: 0.0})


def test_order_and_label_kind_do_not_matter():
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(size=200).round(1), rng.integers(0, 2, 200)
    shuffled = rng.permutation(200)
    reference = verification_metrics(scores, labels)
    assert verification_metrics(scores[shuffled], labels[shuffled]) == reference
    assert verification_metrics(scores.tolist(), labels.astype(bool).tolist()) == reference
    tensors = torch.tensor(scores, requires_grad=True), torch.tensor(labels, dtype=torch.float32)
    assert verification_metrics(*tensors) == reference


def test_far_at_the_edge_of_float_is_not_rounded_away():
    scores, labels = list(range(200)), [1] * 100 + [0] * 100  # every impostor scores above every genuine pair
    scores[:30] = range(170, 200)  # 30 genuine pairs tie with the 30 highest impostors
    far = 0.29  # 0.29 * 100 is 28.999999999999996
    assert verification_metrics(scores, labels, fars=(far,), bootstrap=0).tar_at_far[far] == 0.29


def test_resolution_ends_at_one_impostor():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=1500), np.arange(1500) < 500
    metrics = verification_metrics(scores, labels, fars=(1e-3, 9.9e-4, 1e-4), bootstrap=50)
    assert metrics.unresolvable_fars == (9.9e-4, 1e-4)
    assert not math.isnan(metrics.tar_at_far[1e-3])
    assert all(math.isnan(limit) for limit in metrics.tar_at_far_interval[1e-4])
    line = next(line for line in metrics.summary().splitlines() if "0.0001" in line)
    assert "not resolvable" in line
    assert "10,000 impostor pairs" in line


def test_roc_curve_is_the_curve_of_the_figures():
    scores, labels = [3, 2, 2, 2, 1], [1, 1, 1, 0, 0]
    curve = roc_curve(scores, labels)
    assert curve.far.tolist() == [0, 0, 0.5, 1]
    assert curve.tar.tolist() == [0, 1 / 3, 1, 1]
    assert curve.thresholds[1:].tolist() == [3, 2, 1]
    assert curve.thresholds[0] > 3


# ------------------------------------------------------------------------------------------------------ the intervals


def _overlapping(size, seed, ties):
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % 3 == 0
    scores = rng.normal(size=size) + 1.5 * labels
    return (scores.round(ties) if ties is not None else scores), labels


@pytest.mark.parametrize("ties", [None, 0, 1], ids=["no ties", "heavy ties", "ties"])
def test_intervals_equal_those_of_resampling_the_pairs(ties):
    scores, labels = _overlapping(300, 1, ties)
    far = 0.05
    metrics = verification_metrics(scores, labels, fars=(far,), bootstrap=4000)
    rng = np.random.default_rng(5)
    genuine, impostor = scores[labels], scores[~labels]
    truth = np.arange(300) < len(genuine)
    replicates = []
    for _ in range(1500):
        drawn = np.concatenate([rng.choice(genuine, len(genuine)), rng.choice(impostor, len(impostor))])
        one = verification_metrics(drawn, truth, fars=(far,), bootstrap=0)
        replicates.append((one.eer, one.auc, one.accuracy, one.tar_at_far[far]))
    low, high = np.quantile(replicates, [0.025, 0.975], axis=0)
    found = (metrics.eer_interval, metrics.auc_interval, metrics.accuracy_interval, metrics.tar_at_far_interval[far])
    for index, (have_low, have_high) in enumerate(found):
        width = high[index] - low[index]
        assert have_low == pytest.approx(low[index], abs=0.12 * width), index
        assert have_high == pytest.approx(high[index], abs=0.12 * width), index


def test_merged_points_give_nearly_the_intervals_of_all(monkeypatch):
    scores, labels = _overlapping(20_000, 2, None)
    exact = verification_metrics(scores, labels)
    monkeypatch.setattr("facezoo.evaluation.resampling._EXACT_RESAMPLING_LIMIT", 1000)
    monkeypatch.setattr("facezoo.evaluation.resampling._MERGED_POINTS", 1024)
    merged = verification_metrics(scores, labels)
    for name in ("auc_interval", "accuracy_interval"):
        low, high = getattr(exact, name)
        assert getattr(merged, name) == pytest.approx((low, high), abs=0.15 * (high - low))
    assert merged.eer_interval == exact.eer_interval
    # So coarse that many pairs look tied: the replicates have to be moved back by what that takes from the AUC.
    monkeypatch.setattr("facezoo.evaluation.resampling._MERGED_POINTS", 8)
    low, high = exact.auc_interval
    assert verification_metrics(scores, labels).auc_interval == pytest.approx((low, high), abs=0.2 * (high - low))


def test_intervals_hold_their_point_and_follow_the_seed():
    scores, labels = _overlapping(400, 3, 1)
    one, same, other = (verification_metrics(scores, labels, seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one.eer_interval != other.eer_interval
    for name in ("eer", "auc", "accuracy", "threshold"):
        low, high = getattr(one, name + "_interval")
        assert low <= getattr(one, name) <= high
        assert low < high
    # Which other FARs are asked for does not change an interval.
    alone = verification_metrics(scores, labels, fars=(0.1,))
    assert alone.tar_at_far_interval[0.1] == one.tar_at_far_interval[0.1]


def test_interval_of_hardly_any_confidence_still_holds_the_point():
    scores, labels = _overlapping(60, 5, None)
    metrics = verification_metrics(
        scores, labels, confidence=1e-6
    )  # the two quantiles nearly coincide, beside the point
    low, high = metrics.accuracy_interval
    assert low <= metrics.accuracy <= high
    assert low < high


def test_wider_confidence_is_wider():
    scores, labels = _overlapping(400, 3, None)
    narrow, wide = (verification_metrics(scores, labels, confidence=c).eer_interval for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_no_error_seen_is_not_certainty():
    scores, labels = [0.1] * 100 + [0.9] * 50, [0] * 100 + [1] * 50
    metrics = verification_metrics(scores, labels, fars=(0.1,))
    bound = 0.025 ** (1 / 50)  # 50 successes in 50 trials are this rare at this rate
    assert metrics.eer_interval == pytest.approx((0, 1 - bound))
    assert metrics.auc_interval == pytest.approx((bound, 1))
    assert metrics.tar_at_far_interval[0.1] == pytest.approx((bound, 1))
    assert metrics.accuracy_interval == pytest.approx((0.025 ** (1 / 150), 1))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(11)
    labels = np.arange(400) < 200
    truth = 0.5 * math.erfc(0.75 / math.sqrt(2))  # EER of N(0, 1) against N(1.5, 1)
    hits = 0
    for trial in range(200):
        metrics = verification_metrics(rng.normal(size=400) + 1.5 * labels, labels, fars=(), bootstrap=300, seed=trial)
        hits += metrics.eer_interval[0] <= truth <= metrics.eer_interval[1]
    assert 175 <= hits <= 199


def _full_sorts(monkeypatch, size):
    """Counts the sorts of arrays of at least ``size``: that is what the time goes to, on every machine."""
    sizes = []
    for name in ("sort", "argsort", "unique", "lexsort"):
        original = getattr(np, name)

        def counted(array, *args, original=original, **options):
            if np.size(array) >= size:
                sizes.append(np.size(array))
            return original(array, *args, **options)

        monkeypatch.setattr(np, name, counted)
    return sizes


def test_intervals_sort_the_scores_once(monkeypatch):
    scores, labels = _overlapping(6000, 4, None)
    sorts = _full_sorts(monkeypatch, 3000)
    verification_metrics(scores, labels, bootstrap=1)
    few = len(sorts)
    verification_metrics(scores, labels, bootstrap=1000)
    assert few == len(sorts) - few > 0


def test_a_million_scores_need_only_a_sort(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.arange(1_000_000) < 20_000
    scores = rng.normal(size=1_000_000) + 3 * labels
    sorts = _full_sorts(monkeypatch, 1_000_000)
    metrics = verification_metrics(scores, labels, fars=(1e-5,), bootstrap=200)
    assert 0 < len(sorts) <= 2
    assert metrics.eer == pytest.approx(0.5 * math.erfc(1.5 / math.sqrt(2)), abs=0.003)
    assert 0.05 < metrics.tar_at_far[1e-5] < 0.2


# ---------------------------------------------------------------------------------------------------- record and text


def test_record_is_frozen_plain_and_jsonable():
    metrics = verification_metrics([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
    assert isinstance(metrics, VerificationMetrics)
    with pytest.raises(AttributeError):
        metrics.eer = 0.0
    for name in ("eer", "auc", "accuracy", "threshold"):
        assert type(getattr(metrics, name)) is float
        assert [type(limit) for limit in getattr(metrics, name + "_interval")] == [float, float]
    assert [type(tar) for tar in metrics.tar_at_far.values()] == [float, float, float]
    text = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert text["tar_at_far"] == {"0.1": None, "0.01": None, "0.001": None}
    assert text["tar_at_far_interval"]["0.1"] == [None, None]
    assert text["eer"] == metrics.eer
    assert text["eer_interval"] == list(metrics.eer_interval)


def test_summary_shows_only_digits_that_the_data_resolve():
    few = verification_metrics(*_overlapping(90, 0, None))
    many = verification_metrics(*_overlapping(90_000, 0, None))
    eer = {metrics.num_genuine: next(row for row in metrics.rows() if row[0] == "EER") for metrics in (few, many)}
    assert "." not in eer[30][1]  # an interval of more than ten points: no decimals
    assert len(eer[30_000][1].split(" ")[0].split(".")[1]) == 1
    assert str(many) == many.summary()
    assert "95 % intervals from 1,000 resamples" in str(many)
    bare = verification_metrics(*_overlapping(90, 0, None), bootstrap=0)
    assert math.isnan(bare.eer_interval[0])
    assert "nan" not in str(bare)


def test_distances_are_pointed_out():
    assert "distances" in str(verification_metrics([0.9, 0.8, 0.1, 0.2], [0, 0, 1, 1], bootstrap=0))
    assert "distances" not in str(verification_metrics([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], bootstrap=0))


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("scores", "labels", "options", "error", "message"),
    [
        (
            [0.1, math.nan, 0.3, math.inf],
            [0, 1, 0, 1],
            {},
            ValueError,
            "2 of 4 are NaN or infinite, the first at index 1",
        ),
        ([0.1, 0.2], [0, 1, 1], {}, ValueError, "2 scores, 3 labels"),
        ([0.1, 0.2], [1, 1], {}, ValueError, r"all 2 pairs are genuine \(1\); impostor"),
        ([0.1, 0.2], [0, 0], {}, ValueError, r"all 2 pairs are impostor \(0\); genuine"),
        ([], [], {}, ValueError, "one class only"),
        ([0.1, 0.2], [-1, 1], {}, ValueError, "got -1 at index 0"),
        ([0.1, 0.2], [0.5, 1], {}, ValueError, "got 0.5 at index 0"),
        ([[0.1, 0.2]], [0, 1], {}, ValueError, "one-dimensional"),
        ([0.1, 0.2], [[0, 1]], {}, ValueError, "one-dimensional"),
        (["a", "b"], [0, 1], {}, TypeError, "scores must be numbers"),
        ([[0.1], [0.2, 0.3]], [0, 1], {}, TypeError, "flat list"),
        ([0.1, 0.2], [0, 1], {"fars": (0.0,)}, ValueError, "fars"),
        ([0.1, 0.2], [0, 1], {"fars": (1.5,)}, ValueError, "fars"),
        ([0.1, 0.2], [0, 1], {"confidence": 95}, ValueError, "confidence"),
        ([0.1, 0.2], [0, 1], {"bootstrap": -1}, ValueError, "bootstrap"),
        ([0.1, 0.2], [0, 1], {"seed": -1}, ValueError, "seed"),
    ],
)
def test_errors_say_what_is_wrong(scores, labels, options, error, message):
    with pytest.raises(error, match=message):
        verification_metrics(scores, labels, **options)


def test_a_far_that_rounding_lifts_to_a_step_allows_no_more_than_it_says():
    far = float(np.nextafter(5 / 6, 0))  # times 6 it is 5.0, but five of six are more than it
    metrics = verification_metrics([1, 1, 2, 3, 4, 5, 6], [1, 0, 0, 0, 0, 0, 0], fars=[far, 5 / 6], bootstrap=0)
    assert metrics.threshold_at_far[5 / 6] == 1.5
    assert metrics.threshold_at_far[far] == 2.5
