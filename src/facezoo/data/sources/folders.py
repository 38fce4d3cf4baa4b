"""Folders and lists of image files, data folders with splits, and torch data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facezoo.data._listing import (
    as_relative,
    check_files,
    holds_photos,
    images_below,
    no_images,
    read_lines,
    split_fields,
    visible_entries,
)
from facezoo.data.errors import DataError
from facezoo.data.folders import ImageList, LabeledFiles
from facezoo.data.image import read_bytes
from facezoo.data.layout import FaceData, open_face_data
from facezoo.data.packed import HEADER, SPLITS, PackedFolder, is_packed
from facezoo.data.sources.source import SOURCES, Labels, Pairs, Source, by_rank


class FileSource(Source):
    """Image files below a folder: what has names relative to ``root``."""

    _names: Sequence[str]

    def name(self, index: int) -> str:
        """The file, relative to the folder."""
        return self._names[index]

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        return read_bytes(os.path.join(self.root, self._names[index]))

    def file_of(self, index: int) -> Path:
        """The image file itself."""
        return self.root / self._names[index]


@SOURCES.register("folder")
class FolderSource(FileSource):
    """One folder per identity, with images in it and in folders inside: ``<identity>/*.jpg``, ``<identity>/<session>/*.jpg``.

    Images that lie directly in the folder have no label.
    """

    description = "one folder per identity, or a folder of images"

    def __init__(self, root: Path) -> None:
        self.root = root
        inner = [entry.name for entry in visible_entries(root) if entry.is_dir() and _holds_splits(Path(entry.path))]
        if inner:
            raise DataError(
                f"{root.as_posix()!r} holds a data folder, whose splits would become one identity; did you mean "
                f"{(root / inner[0]).as_posix()!r}?"
            )
        unread: list[str] = []
        names = list(images_below(root, unread=unread))
        if not names:
            raise DataError(f"the folder {root.as_posix()!r} holds no images{no_images(unread)}")
        owners = [name.partition("/")[0] if "/" in name else "" for name in names]
        people = sorted(set(owners) - {""})
        index = {"": -1, **{name: number for number, name in enumerate(people)}}
        self._names, self.identities, self.unread = names, tuple(people), unread
        self.labels = np.array([index[owner] for owner in owners], dtype=np.int64)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Any folder with an image, be it of a format that is not read: then :meth:`open` says so."""
        return path.is_dir() and holds_photos(path)

    @classmethod
    def open(cls, path: Path) -> FolderSource:
        """See the class."""
        return cls(path)


@SOURCES.register("layout")
class LayoutSource(FileSource):
    """A data folder with splits, as :func:`facezoo.data.open_face_data` recognizes it (both layouts of HW2P2 among them).

    The images of its lists of pairs are not packed: ``pack`` copies the files.
    """

    description = "a data folder with train, dev and test, or with images/ and labels.txt"

    def __init__(self, root: Path) -> None:
        data = open_face_data(root, dev_fraction=0)
        self.root, self.data = root, data
        names: list[str] = []
        labels: list[Labels] = []
        splits: list[str] = []
        unread: list[str] = []
        for split, part in (("train", data.train), ("dev", data.dev), ("test", data.test)):
            if part is None:
                continue
            if not isinstance(part, (LabeledFiles, ImageList)):
                raise DataError(f"{root.as_posix()!r} is packed already")
            if isinstance(part, LabeledFiles):
                files = [os.path.join(part.root, name) for name in part.names]
                unread += [_below(root, part.root / name) for name in part.unread]
                labels.append(part.labels.numpy())
            else:
                files = [os.fspath(path) for path in part.paths]
                labels.append(np.full(len(files), -1, dtype=np.int64))
            names += [_below(root, file) for file in files]
            splits += [split] * len(files)
        self._names, self._splits, self.unread = names, splits, unread
        self.labels, self.identities = np.concatenate(labels), data.classes
        self.metadata = {"layout": data.layout}

    @property
    def splits(self) -> Sequence[str]:
        """``train``, ``dev`` and ``test``."""
        return self._splits

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A folder with ``cls_data``, with ``labels.txt``, or with images in ``train``."""
        return _holds_splits(path) or (path / "labels.txt").is_file()

    @classmethod
    def open(cls, path: Path) -> LayoutSource:
        """See the class."""
        return cls(path)


@SOURCES.register("list")
class ListSource(FileSource):
    """A text file with a line ``file label`` for each image: white space, tabs or commas between, with or without a header.

    The files are relative to the folder that the list lies in.
    """

    description = "a list .csv, .tsv or .txt of files and labels"

    def __init__(self, file: Path) -> None:
        rows = split_fields(read_lines(file, "list of images"), file, columns=2)
        for number, fields in rows:
            if len(fields) != 2 or not all(fields):
                raise DataError(
                    f"{file.as_posix()!r}, line {number}: expected 'file label', got {' '.join(fields)[:200]!r}"
                )
        self.root, self.metadata = file.parent, {"list": file.name}
        self._names = [as_relative(fields[0]) for _, fields in rows]
        check_files(self.root, self._names, file)
        self.identities, self.labels = by_rank(fields[1] for _, fields in rows)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A text file."""
        return path.is_file() and path.suffix.lower() in (".csv", ".tsv", ".txt", ".lst")

    @classmethod
    def open(cls, path: Path) -> ListSource:
        """See the class."""
        return cls(path)


@SOURCES.register("packed")
class PackedSource(Source):
    """A packed folder."""

    description = "a packed folder"

    def __init__(self, root: Path) -> None:
        self._folder = PackedFolder(root)
        self.root, self.labels, self.identities = root, self._folder.labels, self._folder.identities
        self.metadata = {
            "packed": {"images": len(self._folder), "facezoo": str(self._folder.header.get("facezoo"))[:50]}
        }

    @property
    def splits(self) -> Sequence[str]:
        """Splits of the packed images."""
        return [SPLITS[number] for number in self._folder.splits]

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A folder with ``packed.json``."""
        return is_packed(path)

    @classmethod
    def open(cls, path: Path) -> PackedSource:
        """See the class."""
        return cls(path)

    def name(self, index: int) -> str:
        """Name of the image in the original source."""
        return self._folder.names[index]

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Pixels, or the image file if files were kept."""
        return self._folder.stored(index) if self._folder.size is None else np.array(self._folder.pixels(index))

    @property
    def pairs(self) -> Pairs | None:
        """Pairs of the packed source."""
        return self._folder.pairs

    def file_of(self, index: int) -> Path:
        """The header, which has the checksums of all files."""
        return self.root / HEADER


class _ObjectSource(Source):
    """A source made from an object, not from a path."""

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Always False."""
        return False

    @classmethod
    def open(cls, path: Path) -> _ObjectSource:
        """Always raises :class:`DataError`."""
        raise DataError(f"{path.as_posix()!r}: {cls.description} is given as an object, not as a path")


class DatasetSource(_ObjectSource):
    """A map-style data set of (image, label): torchvision's, a ``Subset``, your own.

    Args:
        dataset: gives PIL images, or uint8 tensors (3, H, W) or arrays (H, W, 3), with a whole number as label.
        identities: names by label; None takes ``dataset.classes``, or the numbers.
        labels: int64 (N,); None takes ``dataset.labels``, ``dataset.targets`` or ``dataset.identity`` (CelebA), or reads every
            item once.
    """

    description = "a data set of torch"

    def __init__(
        self, dataset: Any, identities: Sequence[str] | None = None, labels: Sequence[int] | Labels | None = None
    ) -> None:
        self.root = Path(str(getattr(dataset, "root", type(dataset).__name__)))
        self._dataset = dataset
        if labels is None:
            found = (getattr(dataset, name, None) for name in ("labels", "targets", "identity"))
            labels = next((values for values in found if values is not None), None)
        if labels is None:
            labels = [int(dataset[index][1]) for index in range(len(dataset))]
        self.labels = np.asarray(labels, dtype=np.int64).reshape(-1)
        if len(self.labels) != len(dataset):
            raise DataError(f"{type(dataset).__name__}: {len(dataset)} images but {len(self.labels)} labels")
        names = identities if identities is not None else getattr(dataset, "classes", None)
        self.identities = tuple(names or (str(label) for label in range(int(self.labels.max(initial=-1)) + 1)))

    def name(self, index: int) -> str:
        """The number of the image."""
        return f"{index:08d}"

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels."""
        item = self._dataset[index]
        return _pixels_of(
            item[0] if isinstance(item, (tuple, list)) else item, f"{type(self._dataset).__name__}: image {index}"
        )


class PairDatasetSource(_ObjectSource):
    """A map-style data set of (image, image, 1 for the same person): torchvision's ``LFWPairs``, your own.

    Args:
        dataset: gives two PIL images, or uint8 tensors (3, H, W) or arrays (H, W, 3), with 0 or 1.
        same: (N,), 0 and 1; None takes ``dataset.targets``, or reads every item once.

    Raises:
        DataError: not one flag per pair, or another value.
    """

    description = "a data set of pairs"

    def __init__(self, dataset: Any, same: Sequence[int] | Labels | None = None) -> None:
        self.root = Path(str(getattr(dataset, "root", type(dataset).__name__)))
        self._dataset = dataset
        if same is None:
            same = getattr(dataset, "targets", None)
        if same is None:
            same = [int(dataset[index][2]) for index in range(len(dataset))]
        flags = np.asarray(same).reshape(-1)
        if len(flags) != len(dataset) or not np.isin(flags, (0, 1)).all():
            raise DataError(f"{type(dataset).__name__}: expected 0 or 1 for each of {len(dataset)} pairs")
        self._same = flags.astype(np.bool_)
        self.labels = np.full(2 * len(dataset), -1, dtype=np.int64)

    @property
    def pairs(self) -> Pairs:
        """Images 2i and 2i + 1 are pair i."""
        left = np.arange(0, len(self), 2, dtype=np.int64)
        return left, left + 1, self._same

    def name(self, index: int) -> str:
        """The number of the pair, and 0 or 1."""
        return f"{index // 2:08d}_{index % 2}"

    def read(self, index: int) -> NDArray[np.uint8]:
        """Pixels."""
        return _pixels_of(self._dataset[index // 2][index % 2], f"{type(self._dataset).__name__}: image {index}")


def _pixels_of(image: Any, place: str) -> NDArray[np.uint8]:
    """Of a PIL image, or of an array or tensor of 8 bits."""
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[2] != 3:
        array = np.ascontiguousarray(array.transpose(1, 2, 0))
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise DataError(
            f"{place} is not an 8-bit RGB image but {array.dtype} of shape {np.shape(image)}; open the data set without transform"
        )
    return array


def _below(root: Path, file: str | os.PathLike[str]) -> str:
    return Path(os.path.relpath(file, root)).as_posix()


def _holds_splits(path: Path) -> bool:
    return (path / "cls_data").is_dir() or ((path / "train").is_dir() and holds_photos(path / "train"))


def open_pairs_of(data: FaceData) -> list[str]:
    """The files in ``ver_data`` named by a data folder's lists of pairs, without repetitions."""
    lists = [pairs.paths for pairs in (data.val_pairs, data.test_pairs) if pairs is not None]
    names = (_below(data.root, path) for paths in lists for path in paths)
    return list(dict.fromkeys(names))


def holds_files_ending(path: Path, *endings: str) -> list[Path]:
    """The visible files of a folder (or the file itself) that end in one of ``endings``, in order of names."""
    if path.is_file():
        return [path] if path.name.lower().endswith(endings) else []
    if not path.is_dir():
        return []
    found = (entry for entry in visible_entries(path) if entry.is_file() and entry.name.lower().endswith(endings))
    return [Path(entry.path) for entry in found]
