"""insightface's ``lfw.bin`` format: a pickle of image files and flags, two images and one flag per pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facezoo.data.errors import DataError
from facezoo.data.sources.pickles import read_plain_pickle
from facezoo.data.sources.source import SOURCES, Pairs, Source

_MOST_BYTES = 2**32


@SOURCES.register("bin")
class BinSource(Source):
    """insightface's verification pairs: ``([image, image, …], [same, …])``. Nothing in the file is executed.

    Args:
        file: the ``.bin`` file.
    """

    description = "insightface's pairs, *.bin"

    def __init__(self, file: Path) -> None:
        self.root, place = file, repr(file.as_posix())
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"{place}: {file.stat().st_size} bytes are more than the {_MOST_BYTES} allowed")
        content = read_plain_pickle(file.read_bytes(), place)
        if (
            not isinstance(content, (tuple, list))
            or len(content) != 2
            or not all(isinstance(part, (list, tuple)) for part in content)
        ):
            raise DataError(f"{place} holds no list of images with a list of flags")
        images, flags = content
        if not all(isinstance(image, bytes) for image in images):
            raise DataError(f"{place}: an image is not bytes")
        if not all(isinstance(flag, (bool, int)) and flag in (0, 1) for flag in flags):
            raise DataError(f"{place}: a flag is neither true nor false")
        if len(images) != 2 * len(flags) or not flags:
            raise DataError(f"{place}: {len(images)} images and {len(flags)} flags; expected two images per flag")
        self._images: list[bytes] = list(images)
        self._same = np.array(flags, dtype=np.bool_)
        self.labels = np.full(len(images), -1, dtype=np.int64)

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """A ``.bin`` file that begins like a pickle."""
        if not path.is_file() or path.suffix != ".bin":
            return False
        with open(path, "rb") as file:
            return file.read(1) in (b"\x80", b"(", b"]")

    @classmethod
    def open(cls, path: Path) -> BinSource:
        """See the class."""
        return cls(path)

    @property
    def pairs(self) -> Pairs:
        """Images 2i and 2i + 1 are pair i."""
        left = np.arange(0, len(self), 2, dtype=np.int64)
        return left, left + 1, self._same

    def name(self, index: int) -> str:
        """The number of the pair, and 0 or 1."""
        return f"{index // 2:06d}_{index % 2}"

    def read(self, index: int) -> bytes:
        """The image file."""
        return self._images[index]
