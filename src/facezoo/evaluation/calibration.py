"""Calibration of a network's cosines: thresholds by FAR, and a map from cosine to probability, stored beside the network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn

from facezoo._version import __version__
from facezoo.evaluation.classification import wilson_interval
from facezoo.evaluation.embedding import Embedder
from facezoo.evaluation.metrics import VerificationMetrics, verification_metrics
from facezoo.evaluation.scores import ArrayLike, Interval, check_scores, jsonable, needed_for
from facezoo.files import write_atomic
from facezoo.modes import unwrap
from facezoo.weights.config import CALIBRATION_FILE

_FORMAT = "facezoo-calibration"
WEAK_EER = 0.2
"""With an equal error rate of at least this, a decision about two images is unreliable."""


class CalibrationError(ValueError):
    """A calibration cannot be read, or does not have the requested FAR."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold with its error rates. Rates are fractions of 1.

    Attributes:
        far: the requested false accept rate.
        threshold: the cosine; a pair is accepted when ``cosine >= threshold``.
        far_interval: 95 % interval of the false accept rate at this threshold.
        tar: share of genuine pairs accepted.
        tar_interval: its 95 % interval.
    """

    far: float
    threshold: float
    far_interval: Interval
    tar: float
    tar_interval: Interval


@dataclass(frozen=True)
class Calibration:
    """Thresholds of one network, and the map from cosine to probability.

    Attributes:
        network: fingerprint of its weights, see :func:`network_fingerprint`; None for a callable without one.
        pairs: name of the list of pairs that it was measured on.
        pairs_sha256: hash of that list's content; None if it was not a file.
        num_genuine: genuine pairs in it.
        num_impostor: impostor pairs in it.
        flip: the test-time augmentation of the embeddings.
        preprocessing: how the images were made, as ``Preprocessing.to_dict``.
        eer: equal error rate on these pairs, fraction of 1.
        eer_interval: its 95 % interval.
        accuracy_threshold: threshold of the best accuracy.
        points: thresholds by FAR, highest FAR first, down to the lowest FAR that the impostor pairs resolve.
        slope: the log-likelihood ratio (genuine to impostor) is ``slope * cosine + intercept``.
        intercept: see ``slope``.
    """

    network: str | None
    pairs: str
    pairs_sha256: str | None
    num_genuine: int
    num_impostor: int
    flip: str
    preprocessing: dict[str, Any] | None
    eer: float
    eer_interval: Interval
    accuracy_threshold: float
    points: tuple[OperatingPoint, ...]
    slope: float
    intercept: float

    def probability(self, cosine: float, prior: float = 0.5) -> float:
        """Probability that two images show the same person, given the ``prior`` probability."""
        return posterior(self.slope * cosine + self.intercept, prior)

    def at_far(self, far: float) -> OperatingPoint:
        """The operating point with the highest measured FAR that is not above ``far``.

        Raises:
            CalibrationError: ``far`` is not in (0, 1], or the impostor pairs do not resolve it.
        """
        if not 0 < far <= 1:
            raise CalibrationError(f"a FAR is a fraction in (0, 1], such as 1e-3; got {far!r}")
        fitting = [point for point in self.points if point.far <= far * (1 + 1e-9)]
        if not fitting:
            raise CalibrationError(
                f"FAR {far:g} is not resolvable: {self.pairs} has {self.num_impostor:,} impostor pairs, "
                f"{needed_for(far):,} are needed; the lowest FAR here is {min(p.far for p in self.points):g}"
            )
        return max(fitting, key=lambda point: point.far)

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dict of JSON values; :meth:`from_dict` reads it."""
        content = {"format": _FORMAT, "facezoo": __version__, **dataclasses.asdict(self)}
        return cast("dict[str, Any]", jsonable(content))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Calibration:
        """Read a dict from :meth:`to_dict`.

        Raises:
            CalibrationError: it is not a valid calibration.
        """
        if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
            raise CalibrationError(f"this is not a calibration of facezoo (its format is not {_FORMAT!r})")
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            values = {name: content[name] for name in names}
            values["points"] = tuple(
                OperatingPoint(
                    float(point["far"]), float(point["threshold"]), _pair(point["far_interval"]),
                    float(point["tar"]), _pair(point["tar_interval"]),
                )
                for point in values["points"]
            )  # fmt: skip
            values["eer_interval"] = _pair(values["eer_interval"])
            numbers = [float(values[name]) for name in ("eer", "accuracy_threshold", "slope", "intercept")]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CalibrationError(f"the calibration is damaged ({type(error).__name__}: {str(error)[:100]})") from None
        if (
            not all(map(math.isfinite, numbers))
            or not values["points"]
            or values["flip"] not in ("none", "sum", "concat")
        ):
            raise CalibrationError(
                "the calibration is damaged (numbers that are not finite, no thresholds, or an unknown flip)"
            )
        return cls(**values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file; an existing file is replaced only when the new one is complete."""
        write_atomic(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read a file of :meth:`save`.

        Raises:
            FileNotFoundError: the file does not exist.
            CalibrationError: it is not a valid calibration.
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"there is no calibration {file}; facezoo calibrate NET PAIRS writes one")
        try:
            return cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except CalibrationError as error:
            raise CalibrationError(f"{file}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f"{file} is not a calibration: {str(error)[:100]}") from None

    def __str__(self) -> str:
        lines = [
            f"calibrated on {self.pairs}: {self.num_genuine:,} genuine and {self.num_impostor:,} impostor pairs, "
            f"flip {self.flip}, EER {self.eer * 100:.3g} %",
            "FAR       cosine >=   FAR, 95 % interval      TAR, 95 % interval",
        ]
        for point in self.points:
            far, tar = ("-".join(f"{limit:.2g}" for limit in pair) for pair in (point.far_interval, point.tar_interval))
            lines.append(f"{point.far:<8g}  {point.threshold:.6f}    {far:<22}  {point.tar:.4f} {tar}")
        lines.append(f"probability at even odds: 1 / (1 + exp(-({self.slope:.6g} * cosine {self.intercept:+.6g})))")
        if self.eer >= WEAK_EER:
            lines.append(f"its own EER is {self.eer * 100:.0f} %: no decision by this network is worth much")
        return "\n".join(lines)


def _operating_points(metrics: VerificationMetrics, impostors: NDArray[np.float64]) -> Iterator[OperatingPoint]:
    for far, threshold in metrics.threshold_at_far.items():
        interval = wilson_interval(int((impostors >= threshold).sum()), len(impostors))
        yield OperatingPoint(far, threshold, interval, metrics.tar_at_far[far], metrics.tar_at_far_interval[far])


def fit_calibration(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    pairs: str = "pairs",
    pairs_sha256: str | None = None,
    flip: str = "none",
    preprocessing: Mapping[str, Any] | None = None,
    network: str | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Measure thresholds and the logistic map on scored pairs.

    Args:
        scores: ``(N,)`` cosines.
        labels: ``(N,)`` bool or 0/1, true = same person.
        pairs: name of the list, for messages.
        pairs_sha256: hash of its content.
        flip: the augmentation that made the scores.
        preprocessing: the network's preprocessing.
        network: fingerprint of the network.
        bootstrap: number of resamples for the intervals.
        seed: seed of the resampling.

    Raises:
        ValueError: see :func:`verification_metrics`.
    """
    values, genuine, _ = check_scores(scores, labels)
    impostors = int((~genuine).sum())
    metrics: VerificationMetrics = verification_metrics(
        scores, labels, fars=_far_grid(impostors), bootstrap=bootstrap, seed=seed
    )
    slope, intercept = fit_logistic(values, genuine)
    return Calibration(
        network=network,
        pairs=pairs,
        pairs_sha256=pairs_sha256,
        num_genuine=metrics.num_genuine,
        num_impostor=impostors,
        flip=flip,
        preprocessing=None if preprocessing is None else dict(preprocessing),
        eer=metrics.eer,
        eer_interval=metrics.eer_interval,
        accuracy_threshold=metrics.threshold,
        points=tuple(_operating_points(metrics, values[~genuine])),
        slope=slope,
        intercept=intercept,
    )


def fit_logistic(scores: np.ndarray, genuine: np.ndarray) -> tuple[float, float]:
    """``(slope, intercept)`` of the log-likelihood ratio, by logistic regression; both classes have the same total weight.

    A small penalty keeps the slope finite if the classes are separable. The slope is never below 0.
    """
    center, spread = float(scores.mean()), float(scores.std()) or 1.0
    x = (scores - center) / spread
    weight = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())
    slope, intercept = 0.0, 0.0
    penalty = 1.0 / len(scores) / 100
    for _ in range(100):
        p = 1 / (1 + np.exp(-np.clip(slope * x + intercept, -500, 500)))
        gradient = np.array([np.sum(weight * (p - genuine) * x) + penalty * slope, np.sum(weight * (p - genuine))])
        curvature = np.maximum(weight * p * (1 - p), 1e-12 * weight)
        hessian = np.array(
            [[np.sum(curvature * x * x) + penalty, np.sum(curvature * x)], [np.sum(curvature * x), np.sum(curvature)]]
        )
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        slope, intercept = slope - float(step[0]), intercept - float(step[1])
        if float(np.abs(step).max()) < 1e-10:
            break
    if slope <= 0:
        return 0.0, 0.0
    return slope / spread, intercept - slope * center / spread


def posterior(log_ratio: float, prior: float) -> float:
    """Posterior probability from a log-likelihood ratio and the prior. Raises ValueError for a prior outside (0, 1)."""
    if not 0 < prior < 1:
        raise ValueError(f"a prior is a probability in (0, 1), got {prior!r}")
    odds = log_ratio + math.log(prior / (1 - prior))
    return 1 / (1 + math.exp(-odds)) if odds >= 0 else math.exp(odds) / (1 + math.exp(odds))


def network_fingerprint(model: Embedder) -> str | None:
    """A hash of the network's weights, independent of device and wrapper.

    A fused network or an exported file has that of the network it was made from, as a string ``fingerprint``, and so may any
    callable; None if there is none, or no weights (device ``meta``).
    """
    network = unwrap(model) if isinstance(model, nn.Module) else model
    if isinstance(own := getattr(network, "fingerprint", None), str):
        return own
    if not isinstance(network, nn.Module) or any(tensor.is_meta for tensor in network.state_dict().values()):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def find_calibration(network: str | os.PathLike[str]) -> Path | None:
    """The calibration stored with a network: in its folder, or in the folder of its weight file."""
    path = Path(network)
    file = (path if path.is_dir() else path.parent) / CALIBRATION_FILE
    return file if file.is_file() else None


def _far_grid(impostors: int) -> tuple[float, ...]:
    """1, 5 and 2 times the powers of ten, from 0.1 down to the lowest resolvable FAR; that FAR alone if the list would be
    empty."""
    grid = [
        float(f"{digit}e-{power}")
        for power in range(1, 10)
        for digit in (5, 2, 1)
        if (power, digit) > (1, 1) or digit == 1
    ]
    fitting = [far for far in grid if far * impostors >= 1 and far <= 0.1]
    return tuple(fitting) or (1.0,)


def _pair(values: Any) -> Interval:
    low, high = values
    return (math.nan if low is None else float(low), math.nan if high is None else float(high))
