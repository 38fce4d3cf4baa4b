"""insightface's ``train.rec`` and ``train.idx``: mxnet's record files, read without mxnet.

A record is the number 0xced7230a, 3 bits for the kind of part and 29 bits for its length, then the data, padded to 4 bytes. The
data of an image are: flag (uint32), label (float32), two numbers (uint64), ``flag`` more labels (float32), then the image file.
In insightface's files record 0 says where the images end; after them comes one record per identity, without an image.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import numpy as np

from facezoo.data.errors import DataError
from facezoo.data.sources.source import SOURCES, Source, by_rank

_MAGIC = 0xCED7230A
_HEADER = 24
_MOST_LABELS = 64  # an image has one or two labels; a damaged flag may claim four billion


@SOURCES.register("records")
class RecordSource(Source):
    """A record file of insightface, with or without its ``.idx``.

    Args:
        file: the ``.rec`` file. ``.idx`` (lines ``key position``) and ``property`` (``classes,height,width``) lie beside it;
            without ``.idx`` the file is read through once.
    """

    description = "insightface's train.rec and train.idx"

    def __init__(self, file: Path) -> None:
        self.root = file
        size = file.stat().st_size
        if size < 8:
            raise DataError(f"{file.as_posix()!r} is empty or cut: {size} bytes")
        with open(file, "rb") as opened:
            self._map = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        index = file.with_suffix(".idx")
        places = _read_index(index, size) if index.is_file() else self._scan()
        keys, self._positions, labels = [], [], []
        last = self._image_end(places)
        for key, position in places:
            if last is not None and not 1 <= key < last:
                continue
            content = self._record(position)
            label, start = self._label(content, position)
            if start == len(content):
                continue  # a record of an identity
            keys.append(key)
            self._positions.append(position)
            labels.append(label)
        if not keys:
            raise DataError(f"{file.as_posix()!r} holds no images")
        self._keys = keys
        self.identities, self.labels = by_rank(labels)
        self.metadata = _property(file.parent / "property")

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A ``.rec`` file, or a folder with one."""
        return _rec_file(path) is not None

    @classmethod
    def open(cls, path: Path) -> RecordSource:
        """The ``.rec`` file at or in ``path``."""
        file = _rec_file(path)
        if file is None:
            raise DataError(f"{path.as_posix()!r} holds no train.rec, nor one single .rec file")
        return cls(file)

    def name(self, index: int) -> str:
        """The key in the index."""
        return f"{self._keys[index]}"

    def read(self, index: int) -> bytes:
        """The image file."""
        position = self._positions[index]
        content = self._record(position)
        return bytes(content[self._label(content, position)[1] :])

    def _record(self, position: int) -> memoryview:
        return self._parts(position)[0]

    def _parts(self, position: int) -> tuple[memoryview, int]:
        """The data of the record at ``position``, with its parts joined, and the position of the next record.

        The data are a view of the file; only a record of several parts is copied.
        """
        parts: list[memoryview] = []
        while True:
            if position < 0 or position + 8 > len(self._map):
                raise DataError(
                    f"{self.root.as_posix()!r}: a record at byte {position} lies outside of the file's {len(self._map)}"
                )
            magic, word = struct.unpack_from("<II", self._map, position)
            kind, length = word >> 29, word & 0x1FFFFFFF
            start = position + 8
            if magic != _MAGIC or start + length > len(self._map):
                raise DataError(
                    f"{self.root.as_posix()!r}: there is no complete record at byte {position}; the file is cut, or the index "
                    "belongs to another file"
                )
            parts.append(memoryview(self._map)[start : start + length])
            position = start + (length + 3) // 4 * 4
            if kind in (0, 3):
                # data that contained the magic number was split there
                whole = parts[0] if len(parts) == 1 else memoryview(struct.pack("<I", _MAGIC).join(parts))
                return whole, position
            if kind not in (1, 2):
                raise DataError(f"{self.root.as_posix()!r}: unknown kind {kind} of a part at byte {position}")

    def _label(self, content: memoryview, position: int) -> tuple[int, int]:
        """The label, and the position of the image file."""
        if len(content) < _HEADER:
            raise DataError(f"{self.root.as_posix()!r}: the record at byte {position} has no complete header")
        flag, label = struct.unpack_from("<If", content)
        start = _HEADER + 4 * flag
        if flag > _MOST_LABELS or start > len(content):
            raise DataError(f"{self.root.as_posix()!r}: the record at byte {position} claims {flag} labels")
        if flag:
            (label,) = struct.unpack_from("<f", content, _HEADER)
        if not np.isfinite(label) or label != int(label):
            raise DataError(
                f"{self.root.as_posix()!r}: the record at byte {position} has label {label}, which is not a whole number"
            )
        return int(label), start

    def _image_end(self, places: list[tuple[int, int]]) -> int | None:
        """The key after the last image, from record 0; None if there is no such record."""
        first = next((position for key, position in places if key == 0), None)
        if first is None:
            return None
        content = self._record(first)
        label, start = self._label(content, first)
        return label if start == len(content) else None

    def _scan(self) -> list[tuple[int, int]]:
        places: list[tuple[int, int]] = []
        position = 0
        while position < len(self._map):
            _, after = self._parts(position)
            places.append((len(places), position))
            position = after
        return places


def _rec_file(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".rec" else None
    if not path.is_dir():
        return None
    if (path / "train.rec").is_file():
        return path / "train.rec"
    found = [name for name in os.listdir(path) if name.endswith(".rec")]
    return path / found[0] if len(found) == 1 else None


def _read_index(file: Path, size: int) -> list[tuple[int, int]]:
    places: list[tuple[int, int]] = []
    for number, line in enumerate(file.read_text(encoding="ascii", errors="replace").splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or not all(field.isascii() and field.isdecimal() and len(field) < 16 for field in fields):
            raise DataError(f"{file.as_posix()!r}, line {number}: expected 'key position', got {line[:200]!r}")
        if int(fields[1]) >= size:
            raise DataError(
                f"{file.as_posix()!r}, line {number}: position {fields[1]} lies beyond the {size} bytes of the records"
            )
        places.append((int(fields[0]), int(fields[1])))
    return places


def _property(file: Path) -> dict[str, object]:
    if not file.is_file():
        return {}
    fields = file.read_text(encoding="ascii", errors="replace").strip().split(",")
    if len(fields) != 3 or not all(field.strip().isdecimal() for field in fields):
        return {}
    return {"classes": int(fields[0]), "size": [int(fields[1]), int(fields[2])]}
