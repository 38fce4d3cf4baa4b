"""Calibrations: thresholds by FAR, probabilities, files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from facezoo.evaluation import wilson_interval
from facezoo.evaluation.calibration import (
    Calibration,
    CalibrationError,
    find_calibration,
    fit_calibration,
    fit_logistic,
    network_fingerprint,
    posterior,
)


def scored(genuine: int = 400, impostor: int = 1000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = np.concatenate([rng.normal(0.5, 0.1, genuine), rng.normal(0.1, 0.1, impostor)])
    return scores, np.arange(genuine + impostor) < genuine


def test_thresholds_give_their_far_on_the_same_pairs() -> None:
    scores, labels = scored()
    calibration = fit_calibration(scores, labels, pairs="mine", bootstrap=50)
    assert [point.far for point in calibration.points] == [0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
    for point in calibration.points:
        assert np.mean(scores[~labels] >= point.threshold) <= point.far
        assert point.tar == np.mean(scores[labels] >= point.threshold)
        assert point.far_interval[0] <= point.far <= point.far_interval[1]
    assert calibration.at_far(1e-3).far == 1e-3
    assert calibration.at_far(1.5e-3).far == 1e-3
    assert calibration.at_far(0.9).far == 0.1
    with pytest.raises(
        CalibrationError, match=r"FAR 0.0001 is not resolvable: mine has 1,000 impostor pairs, 10,000 are needed"
    ):
        calibration.at_far(1e-4)
    for far in (0, math.nan, 2):
        with pytest.raises(CalibrationError, match="a FAR is a fraction"):
            calibration.at_far(far)


def test_probabilities_are_those_of_the_densities() -> None:
    scores, labels = scored(20_000, 20_000)
    slope, intercept = fit_logistic(scores, labels)
    # Two normal densities of one spread: the log-likelihood ratio is a line, (0.5 - 0.1) / 0.1² per cosine, 0 midway.
    assert slope == pytest.approx(40, rel=0.05)
    assert -intercept / slope == pytest.approx(0.3, abs=0.005)
    calibration = fit_calibration(scores, labels, bootstrap=0)
    assert calibration.probability(0.3) == pytest.approx(0.5, abs=0.06)
    assert calibration.probability(0.3, prior=0.01) == pytest.approx(0.01, abs=0.003)
    # The classes' sizes are no prior.
    unequal = np.concatenate([scores[:1000], scores[20_000:]])
    assert fit_logistic(unequal, np.arange(21_000) < 1000)[1] == pytest.approx(intercept, rel=0.2)


def test_extreme_scores_have_finite_maps() -> None:
    apart = np.array([0.9, 0.8, 0.1, 0.2])
    slope, intercept = fit_logistic(apart, np.array([True, True, False, False]))
    assert math.isfinite(slope)
    assert slope > 0
    assert slope * 0.85 + intercept > 0 > slope * 0.15 + intercept
    assert fit_logistic(apart, np.array([False, False, True, True])) == (0.0, 0.0)
    assert fit_logistic(np.ones(4), np.array([True, False, True, False])) == (0.0, 0.0)
    slightly_reversed = np.array([0.1, 0.9, 0.2, 0.8])
    assert fit_logistic(slightly_reversed, np.array([True, False, False, True])) == (0.0, 0.0)
    assert posterior(1000, 0.5) == 1.0
    assert posterior(-1000, 0.5) == 0.0
    with pytest.raises(ValueError, match="a prior is a probability"):
        posterior(0, 1.0)


def test_files_are_read_as_written_and_damage_is_named(tmp_path) -> None:
    calibration = fit_calibration(*scored(), pairs="mine", flip="sum", network="ab", bootstrap=20)
    file = tmp_path / "calibration.json"
    calibration.save(file)
    assert Calibration.load(file) == calibration
    assert find_calibration(tmp_path) == find_calibration(tmp_path / "best.safetensors") == file
    assert find_calibration(tmp_path / "deep" / "x") is None
    content = json.loads(file.read_text())
    for change in (
        {"format": "x"}, {"flip": "both"}, {"points": []}, {"points": [{"far": 1}]}, {"slope": None}, {"eer": "much"},
        {"eer_interval": [1]},
    ):  # fmt: skip
        file.write_text(json.dumps({**content, **change}))
        with pytest.raises(CalibrationError, match=r"calibration.json: "):
            Calibration.load(file)
    for text in ("", "[1]", "[" * 100_000, "\x80"):
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(CalibrationError, match=r"calibration.json"):
            Calibration.load(file)
    with pytest.raises(FileNotFoundError, match="facezoo calibrate"):
        Calibration.load(tmp_path / "none.json")


def test_a_weak_network_is_named() -> None:
    rng = np.random.default_rng(0)
    weak = fit_calibration(rng.normal(size=400), np.arange(400) < 200, bootstrap=0)
    assert "no decision by this network is worth much" in str(weak)
    assert "no decision" not in str(fit_calibration(*scored(), bootstrap=0))


def test_the_fingerprint_is_of_the_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    first = network_fingerprint(model)
    assert first == network_fingerprint(nn.DataParallel(model)) == network_fingerprint(model.train())
    model[1].num_batches_tracked += 1
    assert network_fingerprint(model) == first
    with torch.no_grad():
        model[1].running_mean[2] += 1e-6
    assert network_fingerprint(model) != first
    assert network_fingerprint(lambda x: x) is None


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "below 0.01 %"),
        (1.0, "above 99.99 %"),
        (0.99995, "above 99.99 %"),
        (0.5, "50.0 %"),
        (0.999, "99.90 %"),
        (0.004, "0.40 %"),
    ],
)
def test_no_probability_is_printed_as_certain(probability: float, text: str) -> None:
    from facezoo.cli.options import chance

    assert chance(probability) == text


def test_a_threshold_that_is_a_score_is_reached_by_it() -> None:
    above = float(
        np.nextafter(0.5, 1)
    )  # between neighboring numbers there is no middle: the upper one is the threshold
    scores, labels = [above] * 2 + [0.5] * 18 + [0.9] * 20, [0] * 20 + [1] * 20
    point = fit_calibration(scores, labels, bootstrap=10).at_far(0.1)
    assert point.threshold == above
    assert point.far_interval == wilson_interval(2, 20)
