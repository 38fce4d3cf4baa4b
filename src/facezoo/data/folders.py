"""Map-style data sets of image files: folders per identity, a folder with a list of labels, or a plain list."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from facezoo.data._listing import (
    as_relative,
    check_files,
    images_below,
    is_unlabeled,
    no_images,
    read_lines,
    split_fields,
    tell_unread,
    visible_entries,
)
from facezoo.data.errors import DataError, first_few
from facezoo.data.image import Pixels, is_image_name, read_image, read_pixels

Transform = Callable[[Any], Any]
"""From a PIL image of mode RGB to whatever the user of the data set wants, as a rule a float tensor (3, H, W)."""


class LabeledFiles(Dataset[tuple[Any, int]]):
    """Image files with one class index each; the base class of :class:`ImageFolder` and :class:`LabeledImages`.

    Args:
        root: folder that the names are relative to.
        names: file names, with ``/`` between folders.
        labels: one class index per name, from 0 to ``len(classes) - 1``.
        classes: names of the classes by index.
        transform: applied to each decoded image (PIL, RGB); None gives the PIL image.

    Attributes:
        root: the folder, as a path.
        classes: names of the classes by index.
        transform: as given; it may be replaced.
        unread: names of photos in the folder that are left out because their format is not read (HEIC, raw files, ...).

    Raises:
        DataError: numbers of names and labels differ, or a label is out of range.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        names: Iterable[str],
        labels: Iterable[int],
        classes: Iterable[str],
        transform: Transform | None = None,
    ) -> None:
        self.root = Path(root)
        self.classes: tuple[str, ...] = tuple(classes)
        self.transform = transform
        self.unread: tuple[str, ...] = ()
        self._names = tuple(names)
        self._labels = tuple(int(label) for label in labels)
        if len(self._names) != len(self._labels):
            raise DataError(
                f"{len(self._names)} image names but {len(self._labels)} labels for {self.root.as_posix()!r}"
            )
        for name, label in zip(self._names, self._labels, strict=True):
            if not 0 <= label < len(self.classes):
                raise DataError(
                    f"image {name[:200]!r} in {self.root.as_posix()!r} has label {label}; "
                    f"with {len(self.classes)} classes labels run from 0 to {len(self.classes) - 1}"
                )

    @cached_property
    def samples(self) -> tuple[tuple[Path, int], ...]:
        """Path and class index of every image."""
        return tuple((self.root / name, label) for name, label in zip(self._names, self._labels, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """File names relative to ``root``, with ``/`` between folders."""
        return self._names

    @property
    def labels(self) -> Tensor:
        """Class index of every image, int64 (N,)."""
        return torch.tensor(self._labels, dtype=torch.int64)

    def subset(self, indices: Iterable[int], transform: Transform | None = None) -> LabeledFiles:
        """The images at ``indices``, with the same classes and a transform of their own."""
        chosen = list(indices)
        return LabeledFiles(
            self.root, (self._names[i] for i in chosen), (self._labels[i] for i in chosen), self.classes, transform
        )

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Image ``index``, transformed, and its class index. Raises :class:`ImageDecodeError`, which names the file."""
        return read_transformed(os.path.join(self.root, self._names[index]), self.transform), self._labels[index]

    def load(self, index: int) -> tuple[Pixels, int]:
        """Image ``index`` as it is, uint8 (H, W, 3), and its class index."""
        return read_pixels(os.path.join(self.root, self._names[index])), self._labels[index]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root.as_posix()!r}, {len(self)} images of {len(self.classes)} classes)"


class ImageFolder(LabeledFiles):
    """One folder per identity: ``root/<identity>/*.jpg``.

    Classes are numbered in the order of their names as strings, images likewise, as torchvision's ``ImageFolder`` does. Images in
    subfolders belong to the identity (``<identity>/<session>/*.jpg``). Images are the files that
    :func:`facezoo.data.list_images` lists: no hidden files, no ``__MACOSX``, no other types.

    Args:
        root: folder that holds the class folders.
        transform: applied to each decoded image (PIL, RGB); None gives the PIL image.
        classes: class names that fix the numbering, usually those of the training set. A class may have no folder, but a folder
            whose name is not among them is an error.

    Raises:
        FileNotFoundError: ``root`` does not exist.
        DataError: ``root`` holds no folders, a class folder holds no image, or a folder is none of ``classes``.

    Warns:
        UserWarning: there are photos whose format is not read.
    """

    def __init__(
        self, root: str | os.PathLike[str], transform: Transform | None = None, classes: Sequence[str] | None = None
    ) -> None:
        place = Path(root).as_posix()
        if not Path(root).is_dir():
            raise FileNotFoundError(
                f"image folder {place!r} does not exist" + (" as a folder" if Path(root).exists() else "")
            )
        entries = list(visible_entries(root))
        folders = [entry.name for entry in entries if entry.is_dir()]
        if not folders:
            loose = sum(is_image_name(entry.name) for entry in entries)
            raise DataError(
                f"{place!r} holds no class folders"
                + (f" but {loose} images directly" if loose else "")
                + "; expected one folder per identity, <identity>/*.jpg"
            )
        if classes is None:
            classes = folders
        index = {name: number for number, name in enumerate(classes)}
        if strange := [name for name in folders if name not in index]:
            raise DataError(
                f"{place!r} holds {len(strange)} folders that are none of the {len(index)} known classes: {first_few(strange)}; "
                "train and evaluate on the same identities, or remove these folders"
            )
        names: list[str] = []
        labels: list[int] = []
        empty: list[str] = []
        unread: list[str] = []
        for folder in folders:
            found = list(images_below(root, folder, unread))
            if not found:
                empty.append(folder)
            names += found
            labels += [index[folder]] * len(found)
        if empty:
            theirs = [name for name in unread if name.partition("/")[0] in empty]
            raise DataError(
                f"{len(empty)} of {len(folders)} class folders in {place!r} hold no image: {first_few(empty)}; "
                f"remove them or add images{no_images(theirs)}"
            )
        super().__init__(root, names, labels, classes, transform)
        self.unread = tuple(unread)
        tell_unread(root, unread)


class LabeledImages(LabeledFiles):
    """A folder of images and a text file with a line ``file label`` per image (HW2P2 from Spring 2025).

    Order and repetitions of the lines are kept. Labels are sorted, as numbers if all are whole numbers, else as strings. The
    class index is the rank, so labels ``0 … C-1`` stay unchanged; ``classes[index]`` is the label as written.

    Args:
        image_dir: folder that the file names are relative to.
        labels_file: the text file. The label is the last field of a line; a file name may contain spaces. Fields may also be
            separated by tabs or, as CSV with quotes and a header, by commas.
        transform: applied to each decoded image (PIL, RGB); None gives the PIL image.
        classes: the labels by class index, usually those of the training set; None takes them from the file.

    Raises:
        FileNotFoundError: ``labels_file`` or ``image_dir`` does not exist.
        DataError: a line is malformed, its label is negative or not in ``classes``, or it gives an image a second, different
            label (all with the line number); or images are missing.
    """

    def __init__(
        self,
        image_dir: str | os.PathLike[str],
        labels_file: str | os.PathLike[str],
        transform: Transform | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        place = Path(labels_file).as_posix()
        lines = read_lines(labels_file, "label file")
        if classes is None and is_unlabeled(lines):
            raise DataError(
                f"{place!r} has no labels: each line is one field; expected 'file label', or read it as a list of images"
            )
        names: list[str] = []
        labels: list[str] = []
        first_line: dict[str, int] = {}
        rows = split_fields(lines, labels_file, columns=2)
        for number, fields in rows:
            if len(fields) != 2 or not all(fields):
                raise DataError(f"{place!r}, line {number}: expected 'file label', got {' '.join(fields)[:200]!r}")
            name, label = as_relative(fields[0]), fields[1]
            earlier = first_line.setdefault(name, len(names))
            if earlier < len(names) and labels[earlier] != label:
                raise DataError(
                    f"{place!r}, line {number}: image {name[:200]!r} has label {label[:200]!r}, "
                    f"but {labels[earlier][:200]!r} on line {rows[earlier][0]}; keep one of them"
                )
            names.append(name)
            labels.append(label)
        if classes is None:
            classes = _sorted_labels(labels)
            if classes[0].startswith("-") and _are_integers(classes):
                number = rows[labels.index(classes[0])][0]
                raise DataError(f"{place!r}, line {number}: label {classes[0][:80]} is negative; labels count from 0")
        index = {name: number for number, name in enumerate(classes)}
        for (number, _), label in zip(rows, labels, strict=True):
            if label not in index:
                raise DataError(
                    f"{place!r}, line {number}: label {label[:200]!r} is none of the {len(index)} known classes "
                    f"({classes[0][:80]} … {classes[-1][:80]}); train and evaluate on the same identities, or correct the line"
                )
        check_files(image_dir, names, labels_file)
        super().__init__(image_dir, names, (index[label] for label in labels), classes, transform)


class ImageList(Dataset[Any]):
    """Images without labels, in the order given.

    Args:
        paths: image files. Their existence is checked only when they are read.
        transform: applied to each decoded image (PIL, RGB); None gives the PIL image.
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]], transform: Transform | None = None) -> None:
        self._paths = tuple(os.fspath(path) for path in paths)
        self.transform = transform

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """The image files."""
        return tuple(Path(path) for path in self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        """Image ``index``, transformed. Raises :class:`ImageDecodeError`, which names the file."""
        return read_transformed(self._paths[index], self.transform)

    def __repr__(self) -> str:
        return f"ImageList({len(self)} images)"


def read_transformed(path: str | os.PathLike[str], transform: Transform | None) -> Any:
    """Read and transform an image file. facezoo's own transforms take arrays, which are decoded faster than PIL images."""
    if transform is None:
        return read_image(path)
    return transform(read_pixels(path) if getattr(transform, "takes_pixels", False) else read_image(path))


def _sorted_labels(labels: Iterable[str]) -> list[str]:
    distinct = set(labels)
    if _are_integers(distinct):
        return sorted(distinct, key=lambda label: (int(label), label))
    return sorted(distinct)


def _are_integers(labels: Iterable[str]) -> bool:
    return all(re.fullmatch(r"-?[0-9]+", label) for label in labels)
