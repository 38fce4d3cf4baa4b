"""``facezoo align``: a folder of photos to a folder of aligned crops, with a report."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facezoo.data._listing import images_below
from facezoo.data.align import align_faces
from facezoo.data.detection import DETECTORS, Detector, Face, Which, choose, read_landmarks
from facezoo.data.errors import DataError, ImageDecodeError
from facezoo.data.image import read_pixels
from facezoo.files import atomic_path, write_atomic


@dataclass
class AlignReport:
    """What became of each photo.

    Attributes:
        photos: how many there were.
        crops: how many crops were written.
        without_face: names of photos without a face, or without landmarks.
        unreadable: names of photos that could not be decoded.
        rows: of ``report.csv``: photo, crop, score of the detector, size of the face by its crop.
    """

    photos: int = 0
    crops: int = 0
    without_face: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=lambda: [["photo", "crop", "score", "problem"]])

    def __str__(self) -> str:
        return (
            f"{self.crops} crops of {self.photos} photos; {len(self.without_face)} without a face, "
            f"{len(self.unreadable)} that cannot be read"
        )


def align_folder(
    photos: Path,
    out: Path,
    *,
    landmarks: Path | None = None,
    detector: str | Detector = "yunet",
    detector_weights: Path | None = None,
    which: Which = "largest",
    size: int | tuple[int, int] = 112,
) -> AlignReport:
    """Align every photo below a folder; crops are PNG files of the same names, in the same folders.

    Args:
        photos: the folder.
        out: folder for the crops and ``report.csv``.
        landmarks: file with five points per photo; then there is no detection.
        detector: name of a registered detector, or one of your own.
        detector_weights: its file.
        which: faces of a photo; with ``"all"`` the second one is called ``name_1``.
        size: of the crops, pixels.

    Raises:
        DataError: the folder holds no photo.
        FileNotFoundError: a file is missing.
    """
    names = list(images_below(photos)) if photos.is_dir() else []
    if not names:
        raise DataError(f"{photos.as_posix()!r} is no folder with photos")
    points = None if landmarks is None else read_landmarks(landmarks)
    finder = None
    if points is None:
        finder = DETECTORS[detector](detector_weights) if isinstance(detector, str) else detector  # type: ignore[call-arg]
    report = AlignReport(photos=len(names))
    for name in names:
        try:
            pixels = read_pixels(photos / name)
        except ImageDecodeError as error:
            report.unreadable.append(name)
            report.rows.append([name, "", "", str(error)[:200]])
            continue
        if finder is not None:
            faces = choose(finder(pixels), which, pixels.shape[:2])
        else:
            faces = [Face((0, 0, 0, 0), points[name])] if points is not None and name in points else []
        if not faces:
            report.without_face.append(name)
            report.rows.append([name, "", "", "no face"])
        for number, face in enumerate(faces):
            crop_name = _crop_name(name, number)
            _write_crop(pixels, face, out / crop_name, size)
            report.crops += 1
            report.rows.append([name, crop_name, f"{face.score:.3f}", ""])
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(report.rows)
    write_atomic(out / "report.csv", buffer.getvalue())
    return report


def _crop_name(name: str, number: int) -> str:
    stem, _, ending = name.rpartition(".")
    # 1.jpg and 1.png in one folder must not become one crop
    mark = "" if ending.lower() in ("jpg", "jpeg") else f"_{ending.lower()}"
    return f"{stem}{mark}" + (f"_{number}" if number else "") + ".png"


def _write_crop(pixels: np.ndarray, face: Face, path: Path, size: int | tuple[int, int]) -> None:
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    crop = align_faces([image], torch.from_numpy(face.points).unsqueeze(0), size=size)[0]
    with atomic_path(path) as temporary:
        Image.fromarray(crop.permute(1, 2, 0).numpy()).save(temporary, "PNG")
