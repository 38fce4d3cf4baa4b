"""Lists of image pairs: HW2P2's ``val_pairs.txt`` and ``test_pairs.txt``, and LFW's ``pairs.txt``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from facezoo.data._listing import as_relative, check_files, read_lines, split_fields, visible_entries
from facezoo.data.errors import DataError, first_few
from facezoo.data.folders import ImageList
from facezoo.data.image import is_image_name, read_pixels


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of images for verification. Each image is listed once, however many pairs it is in, so it is embedded once.

    Attributes:
        paths: the distinct images, in the order of their first appearance.
        left: index into ``paths`` of the first image of every pair, int64 (N,).
        right: index of the second, int64 (N,).
        labels: whether both images show the same person, bool (N,); None if unknown (test pairs).
        folds: fold of every pair, int64 (N,), from 0; None for a list without folds.
        source: what holds the images (:class:`facezoo.data.sources.Source`), where they are not files but ``paths`` their names.

    Raises:
        ValueError: a wrong shape or type, or an index out of range.
    """

    paths: tuple[Path, ...]
    left: Tensor
    right: Tensor
    labels: Tensor | None = None
    folds: Tensor | None = None
    source: Any = None

    def __post_init__(self) -> None:
        for name, dtype in (
            ("left", torch.int64),
            ("right", torch.int64),
            ("labels", torch.bool),
            ("folds", torch.int64),
        ):
            value = getattr(self, name)
            if value is None and name in ("labels", "folds"):
                continue
            if not isinstance(value, Tensor) or value.dtype != dtype or value.shape != (len(self),):
                got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"PairList.{name}: expected a {dtype} tensor of shape ({len(self)},), got {got}")
        for name in ("left", "right"):
            value = getattr(self, name)
            if len(value) and not 0 <= int(value.min()) <= int(value.max()) < len(self.paths):
                raise ValueError(
                    f"PairList.{name}: indices run from {int(value.min())} to {int(value.max())} for {len(self.paths)} images"
                )

    def __len__(self) -> int:
        return int(self.left.shape[0])

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Image ``index`` of ``paths``, uint8 (H, W, 3) RGB. Raises :class:`ImageDecodeError`, which names it."""
        if self.source is None:
            return read_pixels(self.paths[index])
        pixels: NDArray[np.uint8] = self.source.pixels(index)
        return pixels

    def images(self, transform: Callable[[Any], Any]) -> Dataset[Any]:
        """The images in the order of ``paths`` as a map-style data set, transformed."""
        from facezoo.data.sources.dataset import SourceImages  # some sources read lists of pairs

        return ImageList(self.paths, transform) if self.source is None else SourceImages(self.source, transform)

    def __repr__(self) -> str:
        genuine = "unlabeled" if self.labels is None else f"{int(self.labels.sum())} genuine"
        folds = "" if self.folds is None else f", {int(self.folds.max()) + 1} folds"
        return f"PairList({len(self)} pairs, {genuine}{folds}, {len(self.paths)} images)"


def read_pairs(file: str | os.PathLike[str], image_root: str | os.PathLike[str]) -> PairList:
    """Read a list of pairs in HW2P2's format: lines ``a.jpg b.jpg 1``, or ``a.jpg b.jpg`` in a test list.

    Fields are separated by white space, by tabs if every line has one, or by commas as in CSV (quotes and a header are allowed).

    Args:
        file: the text file. Label 1 means the same person, 0 different people. Either all lines have a label or none has.
        image_root: folder that the names are relative to.

    Returns:
        The pairs in the order of the lines; ``labels`` is None for a test list.

    Raises:
        FileNotFoundError: ``file`` or ``image_root`` does not exist.
        DataError: a line is malformed (with its number), a pair is labeled both 1 and 0, a name points outside ``image_root``, or
            images are missing (how many, and the first few).

    Warns:
        UserWarning: a list with labels contains a pair twice, or a pair of an image with itself.
    """
    place = Path(file).as_posix()
    left: list[str] = []
    right: list[str] = []
    labels: list[bool] = []
    numbers: list[int] = []
    expected = 0
    for number, fields in split_fields(read_lines(file, "list of pairs"), file):
        if len(fields) not in (2, 3) or not all(fields):
            raise DataError(
                f"{place!r}, line {number}: expected 'image image 0|1' or 'image image', got {len(fields)} fields: "
                f"{' '.join(fields)[:200]!r}; names with spaces need tabs between the fields, or CSV with quotes"
            )
        expected = expected or len(fields)
        if len(fields) != expected:
            raise DataError(
                f"{place!r}, line {number}: {len(fields)} fields, but {expected} in the lines before; "
                "either every pair has a label (0 or 1) or none has"
            )
        if len(fields) == 3:
            if fields[2] not in ("0", "1"):
                raise DataError(f"{place!r}, line {number}: the label is 1 (same person) or 0, got {fields[2][:200]!r}")
            labels.append(fields[2] == "1")
        left.append(as_relative(fields[0]))
        right.append(as_relative(fields[1]))
        numbers.append(number)
    check_files(image_root, _in_order(left, right), file)
    if labels:
        _check_pairs(place, left, right, labels, numbers)
    return _pair_list(image_root, left, right, labels or None, None)


def is_lfw_list(file: str | os.PathLike[str]) -> bool:
    """Whether the first non-blank line of a list of pairs is LFW's header: one or two whole numbers.

    The file is read as by :func:`read_lfw_pairs` (byte-order marks, UTF-16, blank lines), with the same errors if it is missing,
    empty or not text.
    """
    header = read_lines(file, "list of pairs")[0][1].split()
    return len(header) in (1, 2) and all(_is_count(field) for field in header)


def _lfw_lines(place: str, lines: Sequence[tuple[int, str]]) -> tuple[list[str], list[str], list[bool]]:
    """Left and right image of every pair, as ``Name/Name_0001``, and whether the pair is genuine."""
    left: list[str] = []
    right: list[str] = []
    labels: list[bool] = []
    for number, line in lines:
        fields = line.split("\t") if "\t" in line else line.split()
        if len(fields) == 3:
            fields = [fields[0], fields[1], fields[0], fields[2]]
            labels.append(True)
        elif len(fields) == 4:
            labels.append(False)
        if len(fields) != 4 or not (_is_count(fields[1]) and _is_count(fields[3])):
            raise DataError(
                f"{place!r}, line {number}: expected 'name number number' or 'name number name number', got {line[:200]!r}"
            )
        left.append(f"{fields[0]}/{fields[0]}_{int(fields[1]):04d}")
        right.append(f"{fields[2]}/{fields[2]}_{int(fields[3]):04d}")
    return left, right, labels


def read_lfw_pairs(file: str | os.PathLike[str], image_root: str | os.PathLike[str]) -> PairList:
    """Read a list of pairs in LFW's official format (view 1 or view 2).

    The first line is ``folds pairs`` (``10 300``: ten folds with 300 genuine, then 300 impostor pairs each) or ``pairs`` (one
    set, no folds; ``1 pairs`` is the same). A genuine pair is ``name number number``, an impostor pair ``name number name number``.

    Args:
        file: ``pairs.txt``, ``pairsDevTrain.txt`` or ``pairsDevTest.txt``.
        image_root: folder with ``<Name>/<Name>_0001.jpg``, or with ``<Name>_0001.jpg`` directly; any image type.

    Returns:
        The pairs in the order of the lines, with labels, and with folds if the header gives them.

    Raises:
        FileNotFoundError: ``file`` or ``image_root`` does not exist.
        DataError: a line is malformed (with its number), the number of pairs or the balance of a fold differs from the header, or
            images are missing (how many, and the first few).
    """
    place = Path(file).as_posix()
    lines = read_lines(file, "list of pairs")
    (first, header), *rest = lines
    numbers = header.split()
    if len(numbers) not in (1, 2) or not all(_is_count(number) for number in numbers):
        raise DataError(
            f"{place!r}, line {first}: expected the header '10 300' (folds, pairs of each kind per fold) or '300', "
            f"got {header[:200]!r}"
        )
    num_folds, per_kind = (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 else (1, int(numbers[0]))
    left, right, labels = _lfw_lines(place, rest)
    if len(labels) != 2 * num_folds * per_kind:
        raise DataError(
            f"{place!r}: the header {header[:40]!r} promises {2 * num_folds * per_kind} pairs, but {len(labels)} follow; "
            "the file is cut or edited"
        )
    folds = torch.arange(num_folds).repeat_interleave(2 * per_kind)
    for fold in range(num_folds):
        genuine = sum(labels[fold * 2 * per_kind : (fold + 1) * 2 * per_kind])
        if genuine != per_kind:
            raise DataError(
                f"{place!r}: fold {fold + 1} has {genuine} genuine pairs of {2 * per_kind}, the header {header[:40]!r} says "
                f"{per_kind}"
            )
    _check_pairs(place, left, right, labels, [number for number, _ in rest])
    found = _find_lfw_images(image_root, _in_order(left, right), file)
    return _pair_list(
        image_root,
        [found[key] for key in left],
        [found[key] for key in right],
        labels,
        folds if num_folds > 1 else None,
    )


def _find_lfw_images(
    root: str | os.PathLike[str], keys: Sequence[str], named_by: str | os.PathLike[str]
) -> dict[str, str]:
    """The file of each ``Name/Name_0001``: any image extension, with or without a folder per name."""
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"image folder {Path(root).as_posix()!r} (for {Path(named_by).as_posix()!r}) does not exist"
        )
    top = list(visible_entries(root))
    found = {_lfw_key(entry.name): entry.name for entry in top if is_image_name(entry.name)}
    wanted = {key.partition("/")[0] for key in keys}
    for folder in (entry.name for entry in top if entry.name in wanted):
        if os.path.isdir(os.path.join(root, folder)):
            for entry in visible_entries(os.path.join(root, folder)):
                if is_image_name(entry.name):
                    found[f"{folder}/{os.path.splitext(entry.name)[0]}"] = f"{folder}/{entry.name}"
    if missing := [key for key in dict.fromkeys(keys) if key not in found]:
        raise DataError(
            f"{Path(named_by).as_posix()!r} names {len(missing)} of {len(set(keys))} images that are not in "
            f"{Path(root).as_posix()!r}: {first_few(missing)} (.jpg or another image type); "
            "unpack the images completely, or name the right folder"
        )
    return found


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and int(text) > 0


def _check_pairs(
    place: str, left: Sequence[str], right: Sequence[str], labels: Sequence[bool], numbers: Sequence[int]
) -> None:
    """Refuse a pair that is labeled 1 and 0, and warn about pairs without information. (a, b) and (b, a) are the same pair."""
    first: dict[tuple[str, str], int] = {}
    repeated: list[int] = []
    alone: list[int] = []
    for index, (a, b, label) in enumerate(zip(left, right, labels, strict=True)):
        earlier = first.setdefault((a, b) if a <= b else (b, a), index)
        if labels[earlier] != label:
            raise DataError(
                f"{place!r}, line {numbers[index]}: the pair of {a[:100]!r} and {b[:100]!r} is labeled {int(label)}, "
                f"but {int(labels[earlier])} on line {numbers[earlier]}; keep one of them"
            )
        if a == b and not label:
            raise DataError(
                f"{place!r}, line {numbers[index]}: {a[:100]!r} with itself is labeled 0, another person; correct the line"
            )
        if a == b:
            alone.append(numbers[index])
        elif earlier != index:
            repeated.append(numbers[index])
    for lines, what, effect in (
        (alone, "an image with itself", "they are right whatever the network is, and make the figures too good"),
        (repeated, "the same as an earlier pair", "they make the intervals of the figures too narrow"),
    ):
        if lines:
            listed = first_few([str(number) for number in lines])
            warnings.warn(f"{place!r}: {len(lines)} pairs are {what} (lines {listed}): {effect}", stacklevel=3)


def _lfw_key(name: str) -> str:
    stem = os.path.splitext(name)[0]
    return f"{stem.rpartition('_')[0]}/{stem}"


def _pair_list(
    root: str | os.PathLike[str],
    left: Sequence[str],
    right: Sequence[str],
    labels: Sequence[bool] | None,
    folds: Tensor | None,
) -> PairList:
    index = {name: number for number, name in enumerate(dict.fromkeys(_in_order(left, right)))}
    return PairList(
        paths=tuple(Path(root) / name for name in index),
        left=torch.tensor([index[name] for name in left], dtype=torch.int64),
        right=torch.tensor([index[name] for name in right], dtype=torch.int64),
        labels=None if labels is None else torch.tensor(labels, dtype=torch.bool),
        folds=folds,
    )


def _in_order(left: Sequence[str], right: Sequence[str]) -> list[str]:
    return [name for pair in zip(left, right, strict=True) for name in pair]
