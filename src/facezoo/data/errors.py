"""What can be wrong with a data folder."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """A data folder, a label file or a list of pairs that cannot be used as it is; the message says where and what to do."""


class ImageDecodeError(DataError):
    """An image file that cannot be read, is cut short, or holds something that is not an 8-bit image; the message names it."""


def first_few(names: Sequence[str], count: int = 5) -> str:
    """The first ``count`` of ``names``, comma-separated, on one line of some 200 characters, and how many more there are."""
    listed = " ".join(", ".join(name[:200] for name in names[:count]).split())
    listed = listed if len(listed) <= 200 else listed[:199] + "…"
    return listed if len(names) <= count else f"{listed} and {len(names) - count} more"
