"""Errors about data."""

from __future__ import annotations

from collections.abc import Sequence


class DataError(ValueError):
    """A data folder, label file or list of pairs cannot be used. The message says where the problem is and what to do."""


class ImageDecodeError(DataError):
    """An image file is unreadable, truncated, or not an 8-bit image. The message names the file."""


class ImageReadError(ImageDecodeError):
    """An image file cannot be read now: it or its disk is gone, or there is no right to read it. Its content may be good."""


def first_few(names: Sequence[str], count: int = 5) -> str:
    """The first ``count`` names, comma-separated, on one line of about 200 characters, and the number of the others."""
    listed = " ".join(", ".join(name[:200] for name in names[:count]).split())
    listed = listed if len(listed) <= 200 else listed[:199] + "…"
    return listed if len(names) <= count else f"{listed} and {len(names) - count} more"
