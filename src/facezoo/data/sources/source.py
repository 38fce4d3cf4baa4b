"""The interface of all sources of images, and the recognition of a path."""

from __future__ import annotations

import csv
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from facezoo.data._listing import read_lines
from facezoo.data.errors import DataError
from facezoo.data.image import decode_pixels
from facezoo.registry import Registry

Labels = NDArray[np.int64]
Pairs = tuple[Labels, Labels, NDArray[np.bool_]]


class Source(ABC):
    """Images with labels. ``pack``, ``preview`` and ``doctor`` use only this interface.

    Attributes:
        description: the kind of source, for display.
        root: path of the source.
        identities: names of the people by label.
        labels: one label per image, int64 (N,); -1 where there is none.
        splits: name of the split of each image: ``"train"`` unless the source says otherwise.
        metadata: other information, as JSON values.
        unread: names of photos that are left out because their format is not read.
    """

    description: ClassVar[str] = "images"
    root: Path
    identities: tuple[str, ...] = ()
    labels: Labels
    metadata: Mapping[str, object] = {}
    unread: Sequence[str] = ()

    @classmethod
    @abstractmethod
    def recognizes(cls, path: Path) -> bool:
        """Whether ``path`` looks like such a source. It must be fast, and return False if unsure."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path) -> Source:
        """The source at ``path``. Raises :class:`DataError`, which names the file and the problem."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def splits(self) -> Sequence[str]:
        """Split of every image."""
        return ["train"] * len(self)

    @property
    def pairs(self) -> Pairs | None:
        """Pairs for verification: left, right (image numbers) and whether they are the same person; None if there are none."""
        return None

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of image ``index``: unique in the source, with ``/`` between folders."""

    @abstractmethod
    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Image ``index``: the bytes of its file, or pixels, uint8 (H, W, 3) RGB."""

    def file_of(self, index: int) -> Path:
        """The file that image ``index`` is read from, by whose size and time ``pack`` sees that it has changed."""
        return self.root

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Image ``index`` decoded, uint8 (H, W, 3) RGB. Raises :class:`ImageDecodeError`, which names it."""
        content = self.read(index)
        return decode_pixels(content, self.name(index)) if isinstance(content, bytes) else content

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.root.as_posix()!r}, {len(self)} images of {len(self.identities)} identities)"
        )


SOURCES: Registry[type[Source]] = Registry("source", listed_by="facezoo.data.sources.SOURCES.list()")
"""Kinds of sources by name. A class that is registered here is recognized by every command."""

HUB = "hf-hub:"
_ORDER = (
    "packed",
    "layout",  # before files and published data sets that may lie beside the images of a training
    "records",
    "bin",
    "lmdb",
    "tar",
    "parquet",
    "lfw",
    "celeba",
    "gallery",
    "list",
    "folder",
    "hub",
)


def open_source(path: str | os.PathLike[str], kind: str = "auto") -> Source:
    """Open the source at ``path``.

    Args:
        path: a folder or a file, or ``"hf-hub:owner/name"`` (``"hf-hub:owner/name@revision"``) for the parquet files of a data
            set of the Hugging Face Hub.
        kind: a name of :data:`SOURCES`; ``"auto"`` asks each whether it recognizes the path.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        DataError: no kind recognizes it, or it is damaged.
        UnknownNameError: an unknown ``kind``.
        TypeError: not a path; a data set in memory becomes a source by :class:`DatasetSource`.
    """
    try:
        on_the_hub = os.fspath(path).startswith(HUB)
    except TypeError:
        wrap = "a data set is wrapped in facezoo.data.sources.DatasetSource"
        raise TypeError(f"open_source opens a path, got a {type(path).__name__}; {wrap}") from None
    if on_the_hub:
        kind = "hub"
    place = Path(path)
    if kind != "auto":
        return SOURCES[kind].open(place)
    if not place.exists():
        raise FileNotFoundError(f"{place.as_posix()!r} does not exist")
    if (found := recognized(place)) is not None:
        return SOURCES[found].open(place)
    raise DataError(
        f"{place.as_posix()!r} is not a known source of images; known: "
        + "; ".join(f"{name} ({SOURCES[name].description})" for name in _in_order())
    )


def recognized(place: Path) -> str | None:
    """The first kind of :data:`SOURCES` that recognizes the path; nothing is opened."""
    return next((name for name in _in_order() if SOURCES[name].recognizes(place)), None)


def _in_order() -> list[str]:
    """All kinds: those of other packages, then facezoo's own."""
    return [*(name for name in SOURCES.list() if name not in _ORDER), *(name for name in _ORDER if name in SOURCES)]


def by_rank(values: Iterable[object]) -> tuple[tuple[str, ...], Labels]:
    """Names of identities, sorted (whole numbers as numbers), and the rank of each value."""
    written = [str(value) for value in values]
    distinct = sorted(set(written), key=lambda text: (0, int(text), text) if _is_number(text) else (1, 0, text))
    index = {text: number for number, text in enumerate(distinct)}
    return tuple(distinct), np.array([index[text] for text in written], dtype=np.int64)


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 19


def read_same_people(file: str | os.PathLike[str]) -> dict[tuple[int, str], str]:
    """Which identities of several sources are the same person: CSV lines ``number of the source from 0, identity, person``.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: a line has another form, or an identity is named twice.
    """
    same: dict[tuple[int, str], str] = {}
    place = Path(file).as_posix()
    for number, line in read_lines(file, "table of people"):
        fields = [field.strip() for field in next(csv.reader([line]))]
        if (
            len(fields) != 3
            or not all(fields)
            or not (fields[0].isascii() and fields[0].isdecimal() and len(fields[0]) < 6)
        ):
            raise DataError(
                f"{place!r}, line {number}: expected 'source,identity,person', such as '0,n000012,Ann'; got {line[:200]!r}"
            )
        if same.setdefault((int(fields[0]), fields[1]), fields[2]) != fields[2]:
            raise DataError(f"{place!r}, line {number}: {fields[1][:100]!r} of source {fields[0]} is two people")
    return same


class Together(Source):
    """Several sources as one. Identities of different sources are different people, unless ``same`` says otherwise.

    Args:
        sources: at least one.
        same: maps ``(number of the source, identity)`` to the name of a person; all others are named ``"<number>/<identity>"``.

    Raises:
        ValueError: no source, or ``same`` names an identity that does not exist.
    """

    description = "several sources"

    def __init__(self, sources: Sequence[Source], same: Mapping[tuple[int, str], str] | None = None) -> None:
        if not sources:
            raise ValueError("Together: expected at least one source")
        same = dict(same or {})
        known = {(number, name) for number, source in enumerate(sources) for name in source.identities}
        if strange := sorted(set(same) - known):
            raise ValueError(f"Together: source {strange[0][0]} has no identity {strange[0][1][:200]!r}")
        self.sources = tuple(sources)
        self.root = sources[0].root
        self.metadata = {"sources": [{"root": source.root.as_posix(), **source.metadata} for source in sources]}
        people: dict[str, int] = {}
        parts: list[Labels] = []
        for number, source in enumerate(sources):
            names = [same.get((number, name), f"{number}/{name}") for name in source.identities]
            to = np.array([people.setdefault(name, len(people)) for name in names] + [-1], dtype=np.int64)
            parts.append(to[source.labels])  # -1 is the last entry
        self.identities, self.labels = tuple(people), np.concatenate(parts)
        self._ends = np.cumsum([len(source) for source in sources])
        self.unread = [f"{number}/{name}" for number, source in enumerate(sources) for name in source.unread]

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Always False: this source is made from other sources."""
        return False

    @classmethod
    def open(cls, path: Path) -> Source:
        """The source at ``path``, unchanged."""
        return open_source(path)

    @property
    def splits(self) -> Sequence[str]:
        """Splits of the sources."""
        return [split for source in self.sources for split in source.splits]

    @property
    def pairs(self) -> Pairs | None:
        """Pairs of the sources that have some."""
        starts = [0, *(int(end) for end in self._ends[:-1])]
        found = [(start, pairs) for start, source in zip(starts, self.sources, strict=True) if (pairs := source.pairs)]
        if not found:
            return None
        left, right = (np.concatenate([start + pairs[side] for start, pairs in found]) for side in (0, 1))
        return left, right, np.concatenate([pairs[2] for _, pairs in found])

    def _at(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return number, index - (int(self._ends[number - 1]) if number else 0)

    def name(self, index: int) -> str:
        """The number of the source, and the name of the image in it."""
        number, inner = self._at(index)
        return f"{number}/{self.sources[number].name(inner)}"

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Read the image from its source."""
        number, inner = self._at(index)
        return self.sources[number].read(inner)

    def file_of(self, index: int) -> Path:
        """The file in its source."""
        number, inner = self._at(index)
        return self.sources[number].file_of(inner)
