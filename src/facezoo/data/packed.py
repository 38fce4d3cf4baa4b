"""Packed faces: all images of a data set in a few large, memory-mapped files.

A packed folder contains ``packed.json`` (the header, with length and checksum of every other file), ``shard-00000.bin`` and so
on, ``index.npz`` (label, split and checksum per image, and the offsets of image files), ``names.txt`` and ``identities.txt``
(one JSON string per line), ``problems.csv``, ``pairs.npz`` if the source has pairs of its images, and, if it has lists of pairs,
those lists and ``ver_data/``.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from facezoo.arrays import read_arrays
from facezoo.data._listing import leaves_root
from facezoo.data.errors import DataError, first_few
from facezoo.data.image import Pixels, decode_pixels, transformed

HEADER = "packed.json"
PAIRS = "pairs.npz"  # numbers of the images left and right, and whether they are of one person
SPLITS = ("train", "dev", "test")
_LARGEST_SIDE = 4096
_ARRAYS = ("labels", "splits", "checksums", "shards", "rows", "offsets", "lengths")


def is_packed(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a packed folder."""
    return os.path.isfile(os.path.join(folder, HEADER))


class _Lines(Sequence[str]):
    """The lines of a file of JSON strings, read from its map when they are asked for: as Python's strings, millions of names would
    fill gigabytes in every process."""

    def __init__(self, file: Path, size: int) -> None:
        self._file = file
        self._bytes = np.zeros(0, dtype=np.uint8)
        if size:
            self._bytes = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8).numpy()
        step = 2**24
        ends = [np.flatnonzero(self._bytes[start : start + step] == 10) + start for start in range(0, size, step)]
        self._ends: NDArray[np.int64] = np.concatenate(ends) if ends else np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        number = range(len(self))[index]
        start = int(self._ends[number - 1]) + 1 if number else 0
        try:
            value = json.loads(self._bytes[start : int(self._ends[number])].tobytes())
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, str):
            raise DataError(f"{self._file.as_posix()!r}, line {number + 1}, is damaged; pack again, or copy it")
        return value

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]  # as of other sequences that compare their items


class PackedFolder:
    """The files of a packed folder, checked for consistency before anything is mapped.

    Args:
        root: the folder.

    Attributes:
        root: the folder.
        header: content of ``packed.json``.
        size: height and width of the images; None where they are image files of any size (``--keep-jpeg``).
        identities: names by label.
        names: names of the images.
        labels: int64 (N,), -1 for none.
        splits: number in :data:`SPLITS` of every image, uint8 (N,).
        pairs: pairs for verification: left, right (int64) and whether they are of one person; None if the source had none.

    Raises:
        FileNotFoundError: the folder has no ``packed.json``.
        DataError: a file is missing, has a length other than in the header, or contradicts another file.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not is_packed(root):
            raise FileNotFoundError(f"{self.root.as_posix()!r} is not a packed folder: it holds no {HEADER}")
        self.header = self._read_header()
        count = self.header["images"]
        size = self.header["size"]
        self.size: tuple[int, int] | None = None if size is None else (size[0], size[1])
        for name, entry in self.header["files"].items():
            self._require_length(name, entry["bytes"])
        # a name takes three bytes at least, so the list of names, whose length is known, bounds what the index may claim
        if 3 * count > self.header["files"]["names.txt"]["bytes"]:
            raise self._error(HEADER, f"says {count} images, for which names.txt is too short")
        try:
            arrays = read_arrays(self.root / "index.npz", _ARRAYS, most_items=count)
        except ValueError as error:
            raise self._error("index.npz", f"is damaged: {error}") from None
        if any(values.dtype.kind not in "iu" for values in arrays.values()):
            raise self._error("index.npz", "is damaged: it contains values that are not whole numbers")
        if any(values.shape != (count,) for values in arrays.values()):
            raise self._error("index.npz", f"holds other numbers of images than the {count} of {HEADER}")
        self.labels: NDArray[np.int64] = arrays["labels"].astype(np.int64, copy=False)
        self.splits: NDArray[np.uint8] = arrays["splits"]
        self.checksums: NDArray[np.uint32] = arrays["checksums"]
        # every rank of a large training holds these, so they are no wider than they must be
        self._shard, self._row = (self._narrow(arrays.pop(name)) for name in ("shards", "rows"))
        if self.size is None:
            self._offset: NDArray[np.int64] = arrays["offsets"].astype(np.int64, copy=False)
            self._length: NDArray[np.int64] = arrays["lengths"].astype(np.int64, copy=False)
        del arrays
        self.identities = tuple(self._read_strings("identities.txt"))
        self.names: Sequence[str] = _Lines(self.root / "names.txt", self.header["files"]["names.txt"]["bytes"])
        if len(self.names) != count or (
            count and not -1 <= self.labels.min() <= self.labels.max() < len(self.identities)
        ):
            raise self._error("index.npz", "does not fit names.txt and identities.txt")
        self._check_places()
        self.pairs = self._read_pairs()
        self._maps: dict[int, Pixels] = {}

    def _read_header(self) -> dict[str, Any]:
        file = self.root / HEADER
        try:
            header = json.loads(file.read_text(encoding="utf-8"))
            if header["format"] != 1:
                raise self._error(HEADER, f"has format {str(header['format'])[:50]}; this facezoo reads format 1")
            sizes = header["size"]
            good = (
                all(type(value) is int and 0 <= value < 2**40 for value in (header["images"], len(header["shards"])))
                and (
                    sizes is None
                    or (len(sizes) == 2 and all(type(side) is int and 1 <= side <= _LARGEST_SIDE for side in sizes))
                )
                and all(
                    type(entry["bytes"]) is int and type(entry["crc32"]) is int for entry in header["files"].values()
                )
                and all(
                    name in header["files"] for name in (*header["shards"], "index.npz", "names.txt", "identities.txt")
                )
                and all(os.path.basename(name) == name for name in header["files"])
                and all(
                    type(entry["crc32"]) is int and not leaves_root(name)
                    for name, entry in header.get("beside", {}).items()
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise self._error(HEADER, f"is damaged: {type(error).__name__}: {str(error)[:100]}") from None
        if not good:
            raise self._error(HEADER, "is damaged: a field of it is missing or not allowed")
        return dict(header)

    def _read_pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]] | None:
        if PAIRS not in self.header["files"]:
            return None
        try:
            arrays = read_arrays(
                self.root / PAIRS, ("left", "right", "same"), most_items=self.header["files"][PAIRS]["bytes"]
            )
        except ValueError as error:
            raise self._error(PAIRS, f"is damaged: {error}") from None
        left, right, same = arrays.values()
        if any(side.dtype.kind not in "iu" or side.ndim != 1 or len(side) != len(left) for side in arrays.values()):
            raise self._error(PAIRS, "is damaged: it does not hold three lists of whole numbers of the same length")
        for side in (left, right):
            if len(side) and not 0 <= side.min() <= side.max() < len(self):
                raise self._error(PAIRS, "names an image that is not there")
        return left.astype(np.int64), right.astype(np.int64), same.astype(np.bool_)

    def _check_places(self) -> None:
        shards = self.header["shards"]
        count = len(self.names)
        if count and not 0 <= self._shard.min() <= self._shard.max() < len(shards):
            raise self._error("index.npz", "names a shard that is not there")
        lengths = np.array([self.header["files"][name]["bytes"] for name in shards], dtype=np.int64)
        if self.size is not None:
            each = self.size[0] * self.size[1] * 3
            begin = self._row.astype(np.int64) * each
            end = begin + each
        else:
            begin, end = self._offset, self._offset + self._length
        if count and (begin.min() < 0 or (end < begin).any() or (end > lengths[self._shard]).any()):
            raise self._error("index.npz", "says that an image lies outside of its shard")

    def _narrow(self, values: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        if len(values) and not 0 <= values.min() <= values.max() < 2**31:
            raise self._error("index.npz", "is damaged: the place of an image is out of range")
        return values.astype(np.int32)

    def _require_length(self, name: str, expected: int) -> None:
        try:
            found = os.path.getsize(self.root / name)
        except OSError:
            raise self._error(name, f"is missing, although {HEADER} names it; pack again, or copy it") from None
        if found != expected:
            raise self._error(
                name,
                f"has {found} bytes, {HEADER} says {expected}: it is truncated or another file; pack again, or copy it",
            )

    def _read_strings(self, name: str) -> list[str]:
        try:
            values = [json.loads(line) for line in (self.root / name).read_text(encoding="utf-8").splitlines()]
        except (ValueError, RecursionError):
            raise self._error(name, "is damaged") from None
        if not all(isinstance(value, str) for value in values):
            raise self._error(name, "is damaged")
        return values

    def _error(self, name: str, what: str) -> DataError:
        return DataError(f"{(self.root / name[:100]).as_posix()!r} {what}")

    def __len__(self) -> int:
        return len(self.names)

    def _map(self, shard: int) -> Pixels:
        mapped = self._maps.get(shard)
        if mapped is None:
            # Not numpy's map: Python's keeps the file open, and ten thousand shards would need ten thousand handles.
            name = self.header["shards"][shard]
            expected = self.header["files"][name]["bytes"]
            self._require_length(name, expected)  # it may have been cut since the folder was opened
            mapped = torch.from_file(str(self.root / name), shared=False, size=expected, dtype=torch.uint8).numpy()
            mapped.flags.writeable = False
            if self.size is not None:
                mapped = mapped.reshape(-1, *self.size, 3)
            self._maps[shard] = mapped
        return mapped

    def stored(self, index: int) -> bytes:
        """The stored bytes of image ``index``."""
        mapped = self._map(int(self._shard[index]))
        if self.size is not None:
            return mapped[int(self._row[index])].tobytes()
        start = int(self._offset[index])
        return mapped[start : start + int(self._length[index])].tobytes()

    def pixels(self, index: int) -> Pixels:
        """Image ``index``, uint8 (H, W, 3)."""
        if self.size is None:
            return decode_pixels(self.stored(index), f"{self.root.as_posix()}/{self.names[index]}")
        return self._map(int(self._shard[index]))[int(self._row[index])]

    def views(self, indices: NDArray[np.int64]) -> list[Pixels]:
        """Images where they lie in the files, uint8 (H, W, 3), read-only; files with JPEG inside are decoded."""
        return [self.pixels(index) for index in indices.tolist()]

    def gather(self, indices: NDArray[np.int64]) -> Pixels:
        """Images as one block, uint8 (N, H, W, 3); they must all have the same size."""
        images = self.views(indices)
        if len({image.shape for image in images}) > 1:
            raise DataError(f"{self.root.as_posix()!r} keeps image files of several sizes; pack it without --keep-jpeg")
        return np.stack(images)

    def verify(self) -> None:
        """Read everything and compare all checksums. Raises :class:`DataError`, which names the damaged files and images."""
        for name, entry in self.header["files"].items():
            if name not in self.header["shards"] and zlib.crc32((self.root / name).read_bytes()) != entry["crc32"]:
                raise self._error(name, "is not what was written: its checksum differs; pack again, or copy it")
        for name, entry in self.header.get("beside", {}).items():
            try:
                content = (self.root / name).read_bytes()
            except OSError:
                raise self._error(name, f"is missing, although {HEADER} names it; pack again, or copy it") from None
            if zlib.crc32(content) != entry["crc32"]:
                raise self._error(name, "is not what was written: its checksum differs; pack again, or copy it")
        wrong = [index for index in range(len(self)) if zlib.crc32(self.stored(index)) != int(self.checksums[index])]
        if wrong:
            shards = sorted({self.header["shards"][int(self._shard[index])] for index in wrong})
            raise DataError(
                f"{self.root.as_posix()!r}: {len(wrong)} of {len(self)} images are not what was written "
                f"({first_few([self.names[index] for index in wrong])}; in {first_few(shards)}); pack again, or copy these shards"
            )


class PackedFaces(Dataset[tuple[Any, int]]):
    """The images of one split of a packed folder, as a map-style data set.

    Args:
        folder: the packed folder, or its path.
        split: ``"train"``, ``"dev"`` or ``"test"``.
        transform: applied to each uint8 array (H, W, 3), or to a PIL image if it is not facezoo's; None gives the array.
        indices: indices of images of the folder, instead of a split.

    Attributes:
        folder: the packed folder.
        indices: indices of the images in the folder, int64 (N,).
        transform: as given; it may be replaced.
    """

    def __init__(
        self,
        folder: PackedFolder | str | os.PathLike[str],
        split: str = "train",
        transform: Any = None,
        *,
        indices: Iterable[int] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is one of {', '.join(SPLITS)}; got {split!r}")
        self.folder = folder if isinstance(folder, PackedFolder) else PackedFolder(folder)
        self.transform = transform
        if indices is None:
            indices = np.flatnonzero(self.folder.splits == SPLITS.index(split)).tolist()
        self.indices = np.array(list(indices), dtype=np.int64)
        self._labels = self.folder.labels[self.indices]

    @property
    def root(self) -> Path:
        """The packed folder."""
        return self.folder.root

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the identities by class index."""
        return self.folder.identities

    @property
    def labels(self) -> Tensor:
        """Class index of every image, int64 (N,)."""
        return torch.from_numpy(self._labels.copy())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images in the source."""
        return tuple(self.folder.names[index] for index in self.indices)

    @property
    def samples(self) -> tuple[tuple[Path, int], ...]:
        """Path (see :attr:`paths`) and class index of every image."""
        return tuple(zip(self.paths, self._labels.tolist(), strict=True))

    @property
    def paths(self) -> tuple[Path, ...]:
        """Names of the images as paths below the packed folder, where no such files exist."""
        return tuple(self.root / name for name in self.names)

    def subset(self, indices: Iterable[int], transform: Any = None) -> PackedFaces:
        """The images at ``indices``, with the same classes and a transform of their own."""
        chosen = self.indices[np.array(list(indices), dtype=np.int64)]
        return PackedFaces(self.folder, transform=transform, indices=chosen.tolist())

    def gather(self, indices: NDArray[np.int64]) -> tuple[Pixels, NDArray[np.int64]]:
        """A block of images, uint8 (N, H, W, 3), and their labels."""
        return self.folder.gather(self.indices[indices]), self._labels[indices]

    def views(self, indices: NDArray[np.int64]) -> tuple[list[Pixels], NDArray[np.int64]]:
        """As :meth:`gather`, but the images are not copied: N arrays (H, W, 3)."""
        return self.folder.views(self.indices[indices]), self._labels[indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Image ``index``, transformed, and its class index."""
        pixels, label = self.load(index)
        return transformed(pixels, self.transform), label

    def load(self, index: int) -> tuple[Pixels, int]:
        """Image ``index`` as it is, uint8 (H, W, 3), read-only, and its class index."""
        return self.folder.pixels(int(self.indices[index])), int(self._labels[index])

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, which map the files themselves."""
        return {"root": self.folder.root, "indices": self.indices, "transform": self.transform}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder = PackedFolder(state["root"])
        self.indices, self.transform = state["indices"], state["transform"]
        self._labels = self.folder.labels[self.indices]

    def __repr__(self) -> str:
        return f"PackedFaces({self.root.as_posix()!r}, {len(self)} images of {len(self.classes)} classes)"


class PackedImages(Dataset[Any]):
    """Images of a packed folder that have no labels, in the order of the folder.

    Args:
        folder: the packed folder.
        indices: indices of images of the folder.
        transform: as of :class:`PackedFaces`.
    """

    def __init__(self, folder: PackedFolder, indices: Iterable[int], transform: Any = None) -> None:
        self._faces = PackedFaces(folder, transform=transform, indices=indices)

    @property
    def paths(self) -> tuple[Path, ...]:
        """Names of the images as paths below the packed folder, where no such files exist."""
        return self._faces.paths

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, index: int) -> Any:
        """Image ``index``, transformed."""
        return self._faces[index][0]

    def __repr__(self) -> str:
        return f"PackedImages({self._faces.root.as_posix()!r}, {len(self)} images)"
