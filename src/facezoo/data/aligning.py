"""``facezoo align``: align a folder of photos, and write a report."""

from __future__ import annotations

import contextlib
import io
import itertools
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from facezoo.checks import require_size
from facezoo.columns import csv_text
from facezoo.data._listing import images_below, no_images
from facezoo.data.align import TEMPLATES, align_faces
from facezoo.data.detection import DETECTORS, Detector, Face, Which, choose, read_landmarks
from facezoo.data.errors import DataError, ImageDecodeError
from facezoo.data.image import read_bytes, read_pixels
from facezoo.data.sheets import check_picture_name, grid, write_picture
from facezoo.files import atomic_path, write_atomic
from facezoo.preprocessing import TEMPLATE_SIDE, Preprocessing

_SHOWN = 100


@dataclass
class AlignReport:
    """The result of aligning a folder.

    Attributes:
        photos: number of photos.
        crops: number of crops written.
        without_face: names of photos without a face, or without landmarks.
        unreadable: names of photos that could not be decoded.
        rows: rows of ``report.csv``: photo, crop, detector score, size of the face relative to the crop.
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
    sheet: Path | None = None,
) -> AlignReport:
    """Align every photo below a folder; crops are PNG files of the same names, in the same folders.

    Args:
        photos: the folder.
        out: folder for the crops and ``report.csv``.
        landmarks: file with five points per photo; no detector is run then.
        detector: name of a registered detector, or your own :class:`~facezoo.data.detection.Detector`.
        detector_weights: weight file of the detector.
        which: the faces of a photo to use; with ``"all"`` the second crop is named ``name_1``.
        size: of the crops, pixels.
        sheet: a .png or .jpg, in which up to 100 of the crops are shown, spread over all.

    Raises:
        DataError: the folder holds no photo.
        FileNotFoundError: a file is missing.
    """
    if sheet is not None:
        check_picture_name(sheet)
    unread: list[str] = []
    names = list(images_below(photos, unread=unread)) if photos.is_dir() else []
    if not names:
        raise DataError(f"{photos.as_posix()!r} is not a folder with photos{no_images(unread)}")
    require_size(size)
    points = None if landmarks is None else _points_of(names, photos, landmarks)
    finder = _finder(detector, detector_weights) if points is None else None
    report = AlignReport(photos=len(names) + len(unread), unreadable=unread)
    report.rows += [[name, "", "", "facezoo does not read this format, convert it to JPEG or PNG"] for name in unread]
    taken: set[str] = set()
    for name in names:
        try:
            pixels = read_pixels(photos / name)
        except ImageDecodeError as error:
            report.unreadable.append(name)
            report.rows.append([name, "", "", str(error)[:200]])
            continue
        faces = _faces_on(pixels, finder, which, (points or {}).get(name))
        if not faces:
            report.without_face.append(name)
            report.rows.append([name, "", "", "no face" if points is None else "no landmarks"])
        for number, face in enumerate(faces):
            _add_crop(report, pixels, face, name, out, _crop_name(name, number, taken), size)
            taken.add(report.rows[-1][1].lower())
    write_atomic(out / "report.csv", csv_text(report.rows))
    crops = [row[1] for row in report.rows[1:] if row[1]]
    if sheet is not None and crops:
        shown = np.unique(np.linspace(0, len(crops) - 1, min(_SHOWN, len(crops))).astype(int))
        write_picture(grid([read_pixels(out / crops[index]) for index in shown], min(10, len(shown))), sheet)
    return report


@contextlib.contextmanager
def aligned_files(
    photos: Sequence[Path],
    preprocessing: Preprocessing,
    *,
    landmarks: Path | None = None,
    detector: str | Detector = "yunet",
    detector_weights: Path | None = None,
    left_out: dict[Path, str] | None = None,
) -> Iterator[list[Path]]:
    """Align photos for a network. The crops are temporary files, deleted at the end of the block, in the order of the photos.

    Args:
        photos: image files; the largest face of each is taken.
        preprocessing: the network's; it gives template and size.
        landmarks: file with five points per photo; no detector is run then. It may name a photo by the path as given, by the path
            relative to the landmark file's folder, or by the file name.
        detector: name of a registered detector, or your own :class:`~facezoo.data.detection.Detector`.
        detector_weights: weight file of the detector.
        left_out: gets the photos that give no crop, with the reason; None: such a photo is an error.

    Raises:
        DataError: a photo without a face, or without landmarks.
        ImageDecodeError: a photo cannot be read.
        ValueError: the network expects an unknown alignment template.
    """
    if preprocessing.alignment not in TEMPLATES:
        raise ValueError(
            f"the network wants faces aligned to {preprocessing.alignment[:100]!r}; --align knows {', '.join(TEMPLATES)}"
        )
    # the network's own crop is applied later, to the whole aligned face
    size = preprocessing.img_size if preprocessing.crop is None else (TEMPLATE_SIDE, TEMPLATE_SIDE)
    points = None if landmarks is None else read_landmarks(landmarks)
    finder = _finder(detector, detector_weights) if points is None else None
    with tempfile.TemporaryDirectory(prefix="facezoo-crops-") as folder:
        crops = []
        for number, photo in enumerate(photos):
            crop = Path(folder) / f"{number:07}.png"
            try:
                pixels = read_pixels(photo)
                names = [] if landmarks is None else _names_of(photo, landmarks.parent)
                known = next((points[name] for name in names if points is not None and name in points), None)
                faces = _faces_on(pixels, finder, "largest", known)
                if not faces:
                    where = "" if landmarks is None else f" in {landmarks.as_posix()!r}"
                    raise DataError(f"no face on {photo.as_posix()[-200:]!r}{where}; leave the photo out")
                _write_crop(pixels, faces[0], crop, size)
            except ValueError as error:  # not read, no face, or points that say nothing of a face
                if left_out is None:
                    raise
                left_out[photo] = str(error)
            else:
                crops.append(crop)
        yield crops


def unlike_crops(images: Sequence[Path], preprocessing: Preprocessing, *, most: int = 64) -> list[str]:
    """The images among the first ``most`` that look like photos, not like aligned crops, by shape or size.

    A crop has the shape of the network's input, within a tenth, and at most twice its size or 224 pixels. Only headers are read;
    unreadable files are skipped.
    """
    height, width = preprocessing.img_size if preprocessing.crop is None else (TEMPLATE_SIDE, TEMPLATE_SIDE)
    found = []
    for image in images[:most]:
        try:
            with Image.open(io.BytesIO(read_bytes(image))) as opened:
                across, down = opened.size
        except Exception:  # the error is raised when the pixels are read
            continue
        if (down, across) == tuple(preprocessing.img_size):
            continue
        if (
            max(across, down) > 2 * max(height, width, TEMPLATE_SIDE)
            or not 0.9 < (across / down) / (width / height) < 1.1
        ):
            found.append(f"{image.as_posix()[-200:]!r} with {across}x{down} pixels")
    return found


def _finder(detector: str | Detector, weights: Path | None) -> Detector:
    return DETECTORS[detector](weights) if isinstance(detector, str) else detector  # type: ignore[call-arg]


def _faces_on(
    pixels: np.ndarray, finder: Detector | None, which: Which, points: NDArray[np.float64] | None
) -> list[Face]:
    """The faces that the detector finds; without a detector the one of the known points, if there are any."""
    if finder is not None:
        return choose(finder(pixels), which, pixels.shape[:2])
    return [] if points is None else [Face((0, 0, 0, 0), points)]


def _names_of(photo: Path, folder: Path) -> list[str]:
    """The names by which a landmark file may refer to a photo."""
    names = [photo.as_posix(), photo.name]
    with contextlib.suppress(ValueError):
        names.insert(1, photo.resolve().relative_to(folder.resolve()).as_posix())
    return names


def _points_of(names: Sequence[str], photos: Path, landmarks: Path) -> dict[str, NDArray[np.float64]]:
    """The points of each photo that has some. A bare file name means a photo only where no other has it.

    Raises:
        DataError: none has.
    """
    points = read_landmarks(landmarks)
    common = {name for name, count in Counter(name.rpartition("/")[2] for name in names).items() if count > 1}
    found: dict[str, NDArray[np.float64]] = {}
    for name in names:
        known = [name, *(other for other in _names_of(photos / name, landmarks.parent) if other not in common)]
        own = next((points[other] for other in known if other in points), None)
        if own is not None:
            found[name] = own
    if points and not found:
        raise DataError(
            f"{landmarks.as_posix()!r} has landmarks of {next(iter(points))[:200]!r} and {len(points) - 1} more, and of none "
            f"of the {len(names)} photos, such as {names[0][:200]!r}; write names relative to {photos.as_posix()!r}"
        )
    return found


def _crop_name(name: str, number: int, taken: Set[str]) -> str:
    """A new name. 1.jpg and 1.png in one folder must not become one crop, nor the second face of 1.jpg that of 1_1.jpg."""
    stem, _, ending = name.rpartition(".")
    mark = "" if ending.lower() in ("jpg", "jpeg") else f"_{ending.lower()}"
    own = f"{stem}{mark}" + (f"_{number}" if number else "")
    return next(text for again in itertools.count() if (text := own + "_again" * again + ".png").lower() not in taken)


def _add_crop(
    report: AlignReport, pixels: np.ndarray, face: Face, name: str, out: Path, crop: str, size: int | tuple[int, int]
) -> None:
    """Write a crop and its row of the report. Points that say nothing of a face cost this crop alone."""
    problem = ""
    try:
        _write_crop(pixels, face, out / crop, size)
        report.crops += 1
    except ValueError as error:
        problem, crop = str(error)[:200], ""
        report.without_face.append(name)
    report.rows.append([name, crop, f"{face.score:.3f}", problem])


def _write_crop(pixels: np.ndarray, face: Face, path: Path, size: int | tuple[int, int]) -> None:
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    crop = align_faces([image], torch.from_numpy(face.points).unsqueeze(0), size=size)[0]
    with atomic_path(path) as temporary:
        Image.fromarray(crop.permute(1, 2, 0).numpy()).save(temporary, "PNG")
