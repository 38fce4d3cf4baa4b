"""Pairs for verification on their way into a packed folder: those of its own images, and lists with images of their own."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facezoo.data.layout import identity_overlap
from facezoo.data.sources import LayoutSource, Source, Together
from facezoo.data.sources.folders import open_pairs_of
from facezoo.data.sources.source import Pairs
from facezoo.files import write_atomic


def renumbered_pairs(pairs: Pairs | None, kept: NDArray[np.int64]) -> tuple[bytes | None, int]:
    """The pairs of the images that are kept, by their new numbers, as a file; and how many pairs are lost."""
    if pairs is None:
        return None, 0
    to = np.full(1 + max(int(kept.max()), *(int(side.max(initial=0)) for side in pairs[:2])), -1, dtype=np.int64)
    to[kept] = np.arange(len(kept))
    left, right = to[pairs[0]], to[pairs[1]]
    whole = (left >= 0) & (right >= 0)
    buffer = io.BytesIO()
    np.savez(buffer, left=left[whole], right=right[whole], same=pairs[2][whole].astype(np.uint8))
    return buffer.getvalue(), int((~whole).sum())


def lists_lost(source: Source) -> int:
    """How many lists of pairs stay behind: those of several sources together."""
    if not isinstance(source, Together):
        return 0
    data = [one.data for one in source.sources if isinstance(one, LayoutSource)]
    return sum((one.val_pairs is not None) + (one.test_pairs is not None) for one in data)


def copy_lists(
    partial: Path, source: Source, people: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, dict[str, int]]]:
    """Copy the lists of pairs and their images.

    Returns:
        The identities that are also in the training set; lengths and checksums of the files that were copied.
    """
    if not isinstance(source, LayoutSource):
        return (), {}
    names = open_pairs_of(source.data)
    lists = [name for name in ("val_pairs.txt", "test_pairs.txt") if (source.root / name).is_file()]
    beside = {}
    for name in (*lists, *names):
        content = (source.root / name).read_bytes()
        write_atomic(partial / name, content)
        beside[name] = {"bytes": len(content), "crc32": zlib.crc32(content)}
    return identity_overlap(people, names), beside
