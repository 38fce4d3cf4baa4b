"""Parquet tables of images in the Hub's form: ``image`` and ``label``, or pairs ``image1``, ``image2`` and ``target``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facezoo.data.errors import DataError
from facezoo.data.sources.folders import holds_files_ending
from facezoo.data.sources.source import SOURCES, Pairs, Source, by_rank

_IMAGES = ("image", "img", "jpg")
_LABELS = ("label", "labels", "identity", "class", "target", "cls")
_PAIRS = (("image1", "image2"), ("img1", "img2"), ("image_1", "image_2"))
_SPLITS = {"train": "train", "test": "test", **dict.fromkeys(("validation", "valid", "val", "dev"), "dev")}
_SAME = ("target", "same", "is_same", "issame", "label")


@SOURCES.register("parquet")
class ParquetSource(Source):
    """Parquet files with a column of images (bytes, or the Hub's ``{bytes, path}``) and one of labels, or with pairs.

    Needs the extra ``parquet``. One group of rows is in memory at a time.

    Args:
        path: one file, or a folder of them. Files whose name or folder begins with ``validation``, ``dev`` or ``test``
            (``test-00000-of-00001.parquet``, ``test/0000.parquet``) are of that split, all others of ``train``.
        files: the files, if they are not those of the folder or of ``data`` in it.
        metadata: what else is known of them.
    """

    description = "parquet files with images and labels, or pairs"

    def __init__(
        self, path: Path, files: Sequence[Path] | None = None, metadata: Mapping[str, object] | None = None
    ) -> None:
        try:
            import pyarrow as arrow
            from pyarrow import parquet
        except ImportError:
            raise ImportError(f"{path.as_posix()!r}: reading parquet needs: pip install 'facezoo[parquet]'") from None
        self.root, self.metadata = path, dict(metadata or {})
        self._splits: list[str] = []
        self._groups: list[tuple[Any, int, int]] = []  # file, number of the group, first row
        labels: list[object] = []
        self._files: list[Path] = []  # of every group
        self._images: tuple[str, ...] = ()
        rows = 0
        try:
            for file in files or holds_files_ending(path, ".parquet") or _deeper(path):
                opened = parquet.ParquetFile(file)
                before = rows
                images, label = self._columns(opened.schema_arrow.names, file)
                if self._files and images != self._images:
                    raise DataError(
                        f"{file.as_posix()!r} has its images in {' and '.join(images)}, {self._files[-1].name!r} in "
                        f"{' and '.join(self._images)}; open them one by one"
                    )
                for group in range(opened.num_row_groups):
                    self._groups.append((opened, group, rows))
                    self._files.append(Path(file))
                    rows += opened.metadata.row_group(group).num_rows
                if label is not None:
                    labels += opened.read(columns=[label]).column(0).to_pylist()
                if len(labels) != rows:
                    raise DataError(f"{file.as_posix()!r} has {len(labels)} labels for {rows} rows; it is damaged")
                self._images = images
                self._splits += [_split_of(Path(file), path)] * (len(images) * (rows - before))
        except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path.as_posix()!r} is not a complete parquet file: {_line(error)}") from None
        if not rows:
            raise DataError(f"{path.as_posix()!r} holds no rows")
        self._starts = np.array([first for _, _, first in self._groups])
        self._cached: tuple[int, list[list[Any]]] | None = None
        self._same: np.ndarray | None = None
        if len(self._images) == 2:
            if not all(value in (0, 1, True, False) and value is not None for value in labels):
                raise DataError(f"{path.as_posix()!r}: the column of labels must be 0 and 1, or true and false")
            self._same = np.array(labels, dtype=np.bool_)
            self.labels = np.full(2 * rows, -1, dtype=np.int64)
        else:
            if any(value is None for value in labels):
                raise DataError(f"{path.as_posix()!r}: a row has no label")
            self.identities, self.labels = by_rank(labels)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A ``.parquet`` file, or a folder with one, or with ``data/*.parquet``."""
        return bool(holds_files_ending(path, ".parquet") or _deeper(path))

    @classmethod
    def open(cls, path: Path) -> ParquetSource:
        """See the class."""
        return cls(path)

    @property
    def splits(self) -> Sequence[str]:
        """As the files are called."""
        return self._splits

    @property
    def pairs(self) -> Pairs | None:
        """Images 2i and 2i + 1 are the pair of row i."""
        if self._same is None:
            return None
        left = np.arange(0, len(self), 2, dtype=np.int64)
        return left, left + 1, self._same

    def name(self, index: int) -> str:
        """The row number, and the number of the image in the row."""
        each = len(self._images)
        return f"{index // each:08d}" + (f"_{index % each}" if each == 2 else "")

    def file_of(self, index: int) -> Path:
        """The parquet file."""
        return self._files[self._group_of(index // len(self._images))]

    def _group_of(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def read(self, index: int) -> bytes:
        """The image file."""
        row, which = divmod(index, len(self._images))
        group = self._group_of(row)
        cached = self._cached
        if cached is None or cached[0] != group:
            cached = self._cached = group, self._columns_of(group)
        value = cached[1][which][row - int(self._starts[group])]
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise DataError(
                f"{self.root.as_posix()!r}, row {row}: the column {self._images[which]!r} holds no image bytes"
            )
        return content

    def _columns_of(self, group: int) -> list[list[Any]]:
        """The columns of images of one group of rows."""
        import pyarrow as arrow

        file, number, _ = self._groups[group]
        try:
            table = file.read_row_group(number, columns=list(self._images))
            columns = [table.column(name).to_pylist() for name in self._images]
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self.root.as_posix()!r}: rows cannot be read: {_line(error)}") from None
        if any(len(column) != file.metadata.row_group(number).num_rows for column in columns):
            raise DataError(f"{self.root.as_posix()!r}: there are other rows than the file says")
        return columns

    def _columns(self, names: list[str], file: Path) -> tuple[tuple[str, ...], str | None]:
        for pair in _PAIRS:
            if all(name in names for name in pair):
                same = next((name for name in _SAME if name in names), None)
                if same is None:
                    raise DataError(f"{file.as_posix()!r} has pairs, but no column of {', '.join(_SAME)}")
                return pair, same
        image = next((name for name in _IMAGES if name in names), None)
        label = next((name for name in _LABELS if name in names), None)
        if image is None or label is None:
            raise DataError(
                f"{file.as_posix()!r} has the columns {', '.join(names)[:200]}; expected image and label, or image1, image2, target"
            )
        return (image,), label


def _split_of(file: Path, root: Path) -> str:
    """By the file's name, or the name of a folder below the path that was opened."""
    for name in (file.name, *((file.parent.name,) if file.parent not in (root, root.parent) else ())):
        word = re.split(r"[^a-z]", name.lower(), maxsplit=1)[0]
        if word in _SPLITS:
            return _SPLITS[word]
    return "train"


def _deeper(path: Path) -> list[Path]:
    return holds_files_ending(path / "data", ".parquet") if path.is_dir() else []


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
