"""Layouts of published data sets: LFW and CelebA as stored by torchvision, and the gallery task of HW2P2."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facezoo.data._listing import check_files, images_below, read_lines
from facezoo.data.errors import DataError
from facezoo.data.pairs import read_lfw_pairs
from facezoo.data.sources.folders import FileSource
from facezoo.data.sources.source import SOURCES, Pairs, by_rank

_LFW_LISTS = ("pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt")
_LFW_IMAGES = ("lfw_funneled", "lfw-deepfunneled", "lfw")
_CELEBA_FILES = ("identity_CelebA.txt", "list_eval_partition.txt")
_NOBODY = "n000000"


@SOURCES.register("lfw")
class LfwSource(FileSource):
    """The pairs of LFW as ``torchvision.datasets.LFWPairs`` keeps them: ``lfw-py/pairs.txt`` beside ``lfw-py/lfw_funneled``.

    Args:
        path: the folder ``lfw-py``, the one around it, or one of the three lists; of a folder, the first list that is there:
            ``pairs.txt``, ``pairsDevTrain.txt``, ``pairsDevTest.txt``. Images are taken from the first folder that is there:
            ``lfw_funneled``, ``lfw-deepfunneled``, ``lfw``.
    """

    description = "LFW as torchvision keeps it, lfw-py/"

    def __init__(self, path: Path) -> None:
        file, images = _lfw_files(path)
        if file is None or images is None:
            raise DataError(
                f"{path.as_posix()!r} holds no list of {', '.join(_LFW_LISTS)} beside {', '.join(_LFW_IMAGES)}"
            )
        pairs = read_lfw_pairs(file, images)
        assert pairs.labels is not None  # lists of LFW say which pairs are genuine
        self.root, self.metadata = images, {"list": file.name}
        self._names: Sequence[str] = [Path(os.path.relpath(image, images)).as_posix() for image in pairs.paths]
        self.identities, self.labels = by_rank(Path(name).stem.rpartition("_")[0] for name in self._names)
        self._pairs = pairs.left.numpy(), pairs.right.numpy(), pairs.labels.numpy()

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """One of the lists beside one of the folders of images."""
        if path.is_file() and path.name not in _LFW_LISTS:
            return False
        return None not in _lfw_files(path)

    @classmethod
    def open(cls, path: Path) -> LfwSource:
        """See the class."""
        return cls(path)

    @property
    def pairs(self) -> Pairs:
        """In the order of the list."""
        return self._pairs


def _lfw_files(path: Path) -> tuple[Path | None, Path | None]:
    """The list and the folder of images."""
    if path.is_file():
        lists, base = [path], path.parent
    else:
        base = path / "lfw-py" if (path / "lfw-py").is_dir() else path
        lists = [base / name for name in _LFW_LISTS if (base / name).is_file()]
    folders = [base / name for name in _LFW_IMAGES if (base / name).is_dir()]
    return (lists[0] if lists else None), (folders[0] if folders else None)


@SOURCES.register("celeba")
class CelebaSource(FileSource):
    """CelebA as ``torchvision.datasets.CelebA`` keeps it: ``celeba/img_align_celeba`` with its lists of identities and splits.

    Its aligned images have another template than ArcFace's: ``facezoo align`` takes ``list_landmarks_align_celeba.txt``.

    Args:
        path: the folder ``celeba``, or the one around it.
    """

    description = "CelebA as torchvision keeps it, celeba/"

    def __init__(self, path: Path) -> None:
        base = _celeba_folder(path)
        people, parts = (_two_columns(base / name) for name in _CELEBA_FILES)
        if people.keys() != parts.keys():
            strange = sorted(people.keys() ^ parts.keys())[0]
            raise DataError(f"{base.as_posix()!r}: {strange[:100]!r} is in one of {', '.join(_CELEBA_FILES)} only")
        self.root, self._names = base / "img_align_celeba", list(people)
        if self._names and not (self.root / self._names[0]).exists():  # facezoo align writes PNG files
            crops = [name.rpartition(".")[0] + ".png" for name in self._names]
            self._names = crops if (self.root / crops[0]).exists() else self._names
        check_files(self.root, self._names, base / _CELEBA_FILES[0])
        self.identities, self.labels = by_rank(people.values())
        names = {"0": "train", "1": "dev", "2": "test"}
        if odd := [name for name, part in parts.items() if part not in names]:
            raise DataError(
                f"{(base / _CELEBA_FILES[1]).as_posix()!r}: {odd[0][:100]!r} is in part {parts[odd[0]][:50]!r}"
            )
        self._splits = [names[parts[name]] for name in people]

    @property
    def splits(self) -> Sequence[str]:
        """``train``, ``dev`` and ``test``, of different people each."""
        return self._splits

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """The folder with the list of identities and the images."""
        base = _celeba_folder(path)
        return (base / _CELEBA_FILES[0]).is_file() and (base / "img_align_celeba").is_dir()

    @classmethod
    def open(cls, path: Path) -> CelebaSource:
        """See the class."""
        return cls(path)


def _celeba_folder(path: Path) -> Path:
    return path / "celeba" if (path / "celeba").is_dir() else path


def _two_columns(file: Path) -> dict[str, str]:
    rows: dict[str, str] = {}
    for number, line in read_lines(file, "list of CelebA"):
        fields = line.split()
        if len(fields) != 2 or fields[0] in rows:
            raise DataError(
                f"{file.as_posix()!r}, line {number}: expected a new image and a number, got {line[:200]!r}"
            )
        rows[fields[0]] = fields[1]
    return rows


@SOURCES.register("gallery")
class GallerySource(FileSource):
    """The gallery task of HW2P2, F22 to S24: ``known/<identity>/*`` with ``unknown_dev/*`` and ``unknown_test/*``.

    ``known`` is the split train. ``unknown_dev`` is dev, with the names in ``verification_dev.csv`` (a column ``label``, a row per
    photo in the order of the files); nobody of the gallery, ``n000000``, has no label. ``unknown_test`` is test, without labels.

    Args:
        path: the folder, or the one around ``verification``.
    """

    description = "HW2P2's gallery task, known/ with unknown_dev/ or unknown_test/"

    def __init__(self, path: Path) -> None:
        base = _gallery_folder(path)
        self.root = base
        unread: list[str] = []
        known = [name for name in images_below(base, "known", unread) if name.count("/") > 1]
        if not known:
            raise DataError(f"{(base / 'known').as_posix()!r} holds no <identity>/<image>")
        owners = [name.split("/")[1] for name in known]
        self.identities, _ = by_rank(owners)
        index = {name: number for number, name in enumerate(self.identities)}
        names, splits, labels = known, ["train"] * len(known), [index[owner] for owner in owners]
        for folder, split in (("unknown_dev", "dev"), ("unknown_test", "test")):
            photos = sorted(images_below(base, folder, unread)) if (base / folder).is_dir() else []
            people = _gallery_names(base, len(photos)) if split == "dev" and photos else [_NOBODY] * len(photos)
            names, splits = [*names, *photos], [*splits, *[split] * len(photos)]
            labels += [index.get(person, -1) for person in people]
        self._names, self._splits, self.labels = names, splits, np.array(labels, dtype=np.int64)
        self.unread = unread

    @property
    def splits(self) -> Sequence[str]:
        """``train``, ``dev`` and ``test``."""
        return self._splits

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A folder with ``known`` and one of the others."""
        base = _gallery_folder(path)
        return (base / "known").is_dir() and any((base / name).is_dir() for name in ("unknown_dev", "unknown_test"))

    @classmethod
    def open(cls, path: Path) -> GallerySource:
        """See the class."""
        return cls(path)


def _gallery_folder(path: Path) -> Path:
    return path / "verification" if (path / "verification" / "known").is_dir() else path


def _gallery_names(base: Path, photos: int) -> list[str]:
    file = base / "verification_dev.csv"
    if not file.is_file():
        return [_NOBODY] * photos
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if len(rows) != photos or any(not row.get("label") for row in rows):
        raise DataError(f"{file.as_posix()!r} has {len(rows)} rows with a label for {photos} photos in unknown_dev")
    return [row["label"] for row in rows]
