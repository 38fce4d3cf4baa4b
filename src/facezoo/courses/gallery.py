"""The gallery task of F22 to S24: identify the people on unknown photos.

The folder has ``known/<identity>/*``, ``unknown_test/*`` and, to choose the threshold, ``unknown_dev/*`` with the names in
``verification_dev.csv`` (or ``unknown_dev.csv``), one row per photo in the order of the files, in a column ``label``.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from facezoo.data import DataError, ImageFolder
from facezoo.data._listing import images_in
from facezoo.evaluation import NO_MATCH, gallery_threshold, identify
from facezoo.evaluation.gallery import Gallery, rows_by_person

_LISTS = ("verification_dev.csv", "unknown_dev.csv", "dev_identities.csv")
_COLUMNS = ("label", "identity", "ground_truth")


@dataclass(frozen=True)
class GalleryAnswers:
    """The answers to a term's unknown photos.

    Attributes:
        identities: name of the person on each photo of ``unknown_test`` in sorted order, or ``n000000``.
        threshold: the cosine below which the answer is ``n000000``; None without ``unknown_dev``: then every photo gets a name.
        dev_accuracy: accuracy on ``unknown_dev`` at that threshold, a fraction of 1; optimistic, since the threshold was chosen
            there.
    """

    identities: tuple[str, ...]
    threshold: float | None
    dev_accuracy: float | None


def gallery_folder(data: str | os.PathLike[str]) -> Path:
    """The folder with ``known`` and ``unknown_test``: ``data`` itself, or ``data/verification``. Raises DataError if there is
    none."""
    root = Path(data)
    for folder in (root, root / "verification"):
        if (folder / "known").is_dir() and (folder / "unknown_test").is_dir():
            return folder
    raise DataError(
        f"{root} has no known/ and unknown_test/ (nor has {root / 'verification'}); the gallery task needs them"
    )


def answer_gallery(embed: Callable[[Sequence[Path]], Tensor], folder: Path) -> GalleryAnswers:
    """Identify the people on the photos of ``unknown_test`` by the nearest template.

    Args:
        embed: image files to ``(N, D)`` embeddings of unit length.
        folder: see :func:`gallery_folder`.

    Raises:
        DataError: a folder has no images, or the list of names does not match them.
    """
    known = ImageFolder(folder / "known")
    embeddings = embed([path for path, _ in known.samples])
    people = [known.classes[label] for _, label in known.samples]
    gallery = Gallery.empty(embeddings.shape[1]).add(rows_by_person(embeddings, people))
    threshold = accuracy = None
    if (folder / "unknown_dev").is_dir():
        photos = _images(folder / "unknown_dev")
        truth = _names(folder, photos)
        threshold, accuracy = gallery_threshold(embed(photos), gallery.templates, gallery.names, truth)
    probes = embed(_images(folder / "unknown_test"))
    return GalleryAnswers(identify(probes, gallery.templates, gallery.names, threshold=threshold), threshold, accuracy)


def _images(folder: Path) -> list[Path]:
    found = images_in(folder)
    if not found:
        raise DataError(f"{folder} holds no images")
    return found


def _names(folder: Path, photos: list[Path]) -> list[str]:
    for place in (folder, folder.parent):
        for name in _LISTS:
            if (place / name).is_file():
                return _read_names(place / name, photos)
    raise DataError(f"{folder} has unknown_dev/ but no {' or '.join(_LISTS)} with the names of the people in it")


def _read_names(file: Path, photos: list[Path]) -> list[str]:
    """The person on each photo: by the photos' names, if a column has them, else in the order of the names."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    column = next((name for name in _COLUMNS if rows and name in rows[0]), None)
    if column is None:
        raise DataError(f"{file} has no column {' or '.join(_COLUMNS)}")
    if len(rows) != len(photos):
        raise DataError(f"{file} names {len(rows)} people for {len(photos)} photos in unknown_dev")
    forms = ([photo.name for photo in photos], [photo.stem for photo in photos])
    others = [key for key in reader.fieldnames or () if key != column]
    for names, key in itertools.product(forms, others):
        by_name = {row[key]: row for row in rows}
        if len(by_name) == len(photos) and by_name.keys() == set(names):
            rows = [by_name[name] for name in names]
            break
    return [row[column] or NO_MATCH for row in rows]
