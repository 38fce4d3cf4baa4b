"""WebDataset's tar shards: the files of one image share a name: ``0001.jpg`` with ``0001.cls``, or with ``0001.json``."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

from facezoo.data._listing import no_images
from facezoo.data.errors import DataError
from facezoo.data.image import MAX_BYTES, is_image_name, is_unread_photo
from facezoo.data.sources.folders import holds_files_ending
from facezoo.data.sources.source import SOURCES, Source, by_rank

_LABEL_KEYS = ("label", "cls", "class", "identity", "target")
LABEL_ENDINGS = ("cls", "json", "txt")
"""Endings of files with a label, the surest first: a .txt beside a .cls is a caption."""

RankedLabel = tuple[int, object]
"""The place of a label's file in :data:`LABEL_ENDINGS`, and the label."""


@SOURCES.register("tar")
class TarSource(Source):
    """Uncompressed tar files. The label is the ``.cls`` beside an image, a field of its ``.json``, its ``.txt``, or its folder.

    The headers are read once. Images are then read directly from the tar files; nothing is unpacked.

    Args:
        path: one ``.tar`` file, or a folder of them.
    """

    description = "WebDataset's tar shards"

    def __init__(self, path: Path) -> None:
        self.root = path
        self._files = holds_files_ending(path, ".tar")
        self._places: list[tuple[int, int, int]] = []
        self._names: list[str] = []
        labels: list[object] = []
        unread: list[str] = []
        for number, file in enumerate(self._files):
            images, beside = self._scan(number, file, unread)
            for key, name, place in images:
                label = beside.get(key, name.rpartition("/")[0] or None)
                if label is None:
                    raise DataError(
                        f"{file.as_posix()!r}: image {name[:200]!r} has no .cls, .txt or .json with its label"
                    )
                self._places.append(place)
                self._names.append(f"{file.stem}/{name}")
                labels.append(label)
        if not labels:
            raise DataError(f"{path.as_posix()!r} holds no tar file with images{no_images(unread)}")
        self.unread = unread
        self.identities, self.labels = by_rank(labels)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A ``.tar`` file, or a folder with one."""
        return bool(holds_files_ending(path, ".tar"))

    @classmethod
    def open(cls, path: Path) -> TarSource:
        """See the class."""
        return cls(path)

    def name(self, index: int) -> str:
        """The shard, and the name in it."""
        return self._names[index]

    def file_of(self, index: int) -> Path:
        """The tar file."""
        return self._files[self._places[index][0]]

    def read(self, index: int) -> bytes:
        """The image file."""
        number, start, size = self._places[index]
        with open(self._files[number], "rb") as file:
            content = os.pread(file.fileno(), size, start)
        if len(content) != size:
            raise DataError(
                f"{self._files[number].as_posix()!r} has become shorter: {self._names[index][:200]!r} is cut"
            )
        return content

    @staticmethod
    def _scan(
        number: int, file: Path, unread: list[str]
    ) -> tuple[list[tuple[str, str, tuple[int, int, int]]], dict[str, object]]:
        """Keys, names and positions of the images, and labels by key. ``unread`` gets the photos that are not read."""
        images: list[tuple[str, str, tuple[int, int, int]]] = []
        labels: dict[str, RankedLabel | None] = {}
        places: dict[str, tuple[int, int]] = {}
        whole = file.stat().st_size
        try:
            with tarfile.open(file, "r:") as tar:
                for member in tar:
                    if not member.isreg() and not member.islnk():
                        continue
                    key, name, base, ending = parts_of(member.name)
                    place = f"{file.as_posix()!r}: {member.name[:200]!r}"
                    if member.islnk() and member.linkname not in places:
                        raise DataError(
                            f"{place} is a link to {member.linkname[:200]!r}, which does not come before it"
                        )
                    start, size = places[member.linkname] if member.islnk() else (member.offset_data, member.size)
                    places[member.name] = start, size
                    if start + size > whole:
                        raise DataError(f"{file.as_posix()!r} is cut in {member.name[:200]!r}")
                    if is_image_name(base):
                        if size > MAX_BYTES:
                            raise DataError(f"{place} has {size} bytes, too many")
                        images.append((key, name, (number, start, size)))
                    elif is_unread_photo(base):
                        unread.append(f"{file.stem}/{name}")
                    elif ending in LABEL_ENDINGS and size < 2**20:
                        opened = tar.extractfile(member)
                        labels[key] = surer_label(labels.get(key), opened.read() if opened else b"", ending, place)
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"{file.as_posix()!r} is not a complete tar file: {str(error)[:200]}") from None
        return images, {key: ranked[1] for key, ranked in labels.items() if ranked is not None}


def parts_of(member: str) -> tuple[str, str, str, str]:
    """Of a file in a shard: the key that all files of an image share, its name, the name without folders, and the ending."""
    name = member.removeprefix("./")
    folder, _, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}/{stem}", f"{folder}/{base}".removeprefix("/"), base, ending


def surer_label(before: RankedLabel | None, content: bytes, ending: str, place: str) -> RankedLabel | None:
    """The label in a file beside an image, or the one found before if that is surer; None if neither is there."""
    found, rank = read_label(content, ending, place), LABEL_ENDINGS.index(ending)
    if found is None or (before is not None and before[0] < rank):
        return before
    return rank, found


def read_label(content: bytes, ending: str, place: str) -> object:
    """The label in a ``.cls``, ``.txt`` or ``.json`` file, text or a whole number; None if it has none."""
    try:
        text = content.decode("utf-8").strip()
        if ending != "json":
            return text or None
        values = json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{place} is not a readable label") from None
    found = [values[key] for key in _LABEL_KEYS if key in values] if isinstance(values, dict) else []
    return found[0] if found and isinstance(found[0], (int, str)) else None
