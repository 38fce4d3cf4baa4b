"""Face detectors with five points, by name; and landmarks from a file."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facezoo.checks import reads_as_number
from facezoo.data._listing import as_relative
from facezoo.data.errors import DataError
from facezoo.registry import Registry

Which = Literal["largest", "central", "all"]


@dataclass(frozen=True)
class Face:
    """A detected face.

    Attributes:
        box: left, top, width and height, pixels.
        points: both eyes, nose, both corners of the mouth, left before right as in the image; float64 (5, 2), x and y.
        score: confidence of the detector, 0 to 1.
    """

    box: tuple[float, float, float, float]
    points: NDArray[np.float64]
    score: float = 1.0


class Detector(ABC):
    """Finds faces."""

    @abstractmethod
    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """The faces in an image, uint8 (H, W, 3) RGB."""


DETECTORS: Registry[type[Detector]] = Registry("detector", listed_by="facezoo.data.detection.DETECTORS.list()")
"""Detectors by name. Each is called with the path of its weight file, or None."""


@DETECTORS.register("yunet")
class YuNet(Detector):
    """YuNet, run by OpenCV. Needs the extra ``align``.

    Args:
        weights: its ONNX file (OpenCV 5 needs the one with dynamic shapes, 2026 or later).
        threshold: lowest score of a face.

    Raises:
        ImportError: OpenCV is not installed.
        DataError: OpenCV cannot read the file.
    """

    def __init__(self, weights: Path | None, threshold: float = 0.7) -> None:
        try:
            import cv2
        except ImportError:
            raise ImportError("YuNet needs OpenCV: pip install 'facezoo[align]'") from None
        if weights is None:
            raise ValueError("yunet needs its ONNX file: --detector-weights face_detection_yunet_….onnx")
        if not weights.is_file():
            raise FileNotFoundError(f"there is no file of detector weights {weights.as_posix()!r}")
        try:
            self._detector: Any = cv2.FaceDetectorYN.create(str(weights), "", (320, 320), threshold)
        except cv2.error as error:
            raise DataError(
                f"OpenCV {cv2.__version__} cannot read {weights.as_posix()!r} as YuNet ({str(error)[:120]!r}); OpenCV 5 needs the "
                "file with dynamic shapes"
            ) from None

    def __call__(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """See :class:`Detector`."""
        self._detector.setInputSize((pixels.shape[1], pixels.shape[0]))
        _, rows = self._detector.detect(np.ascontiguousarray(pixels[..., ::-1]))
        # YuNet's right and left are the person's: its first eye is the left one in the image, as here
        return [
            Face(
                (float(r[0]), float(r[1]), float(r[2]), float(r[3])),
                np.asarray(r[4:14], np.float64).reshape(5, 2),
                float(r[14]),
            )
            for r in (() if rows is None else rows)
        ]


def choose(faces: list[Face], which: Which, size: tuple[int, int]) -> list[Face]:
    """Choose faces: the largest one, the one nearest to the center of an image of ``size`` (height, width), or all, largest
    first.

    Raises:
        ValueError: an unknown ``which``.
    """
    if which not in ("largest", "central", "all"):
        raise ValueError(f"faces are chosen by 'largest', 'central' or 'all'; got {which!r}")

    def distance(face: Face) -> float:
        left, top, width, height = face.box
        return float(np.hypot(left + width / 2 - size[1] / 2, top + height / 2 - size[0] / 2))

    if which == "central":
        return sorted(faces, key=distance)[:1]
    by_size = sorted(faces, key=lambda face: -face.box[2] * face.box[3])
    return by_size if which == "all" else by_size[:1]


def read_landmarks(file: Path) -> Mapping[str, NDArray[np.float64]]:
    """Read five points per image from CSV (``file, x1, y1, … x5, y5``, header optional) or JSON (``{file: [[x, y], …]}``).

    A ``.txt`` has the form of CelebA's ``list_landmarks_align_celeba.txt``: two lines at the top, then white space between.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a line or entry is malformed, or a coordinate is NaN or infinite.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of landmarks {file.as_posix()!r}")
    entries: list[tuple[str, str, Any]] = []
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".json":
            entries = [(f"entry {name[:100]!r}", name, values) for name, values in json.loads(text).items()]
        elif file.suffix == ".txt":
            lines = [
                (number, line.split()) for number, line in enumerate(text.splitlines()[2:], start=3) if line.strip()
            ]
            entries = [(f"line {number}", row[0], [float(value) for value in row[1:]]) for number, row in lines]
        else:
            rows = [(number, row) for number, row in enumerate(csv.reader(text.splitlines()), start=1) if row]
            if rows and len(rows[0][1]) == 11 and not reads_as_number(rows[0][1][1]):
                rows = rows[1:]
            entries = [(f"line {number}", row[0], [float(value) for value in row[1:]]) for number, row in rows]
    except (ValueError, AttributeError, RecursionError, csv.Error) as error:
        raise DataError(f"{file.as_posix()!r} holds no landmarks: {str(error)[:150]}") from None
    points: dict[str, NDArray[np.float64]] = {}
    for place, name, values in entries:
        try:
            array = np.asarray(values, dtype=np.float64).reshape(5, 2)
        except (ValueError, TypeError):
            raise DataError(f"{file.as_posix()!r}, {place}: expected five points, x and y each") from None
        if not np.isfinite(array).all():
            raise DataError(f"{file.as_posix()!r}, {place}: a coordinate is not finite")
        points[as_relative(name)] = array
    return points
