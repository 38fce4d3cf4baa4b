"""Contact sheets: many small pictures in one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facezoo.files import atomic_path

_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def check_picture_name(file: str | os.PathLike[str]) -> None:
    """Raise ValueError unless the suffix is that of a PNG or JPEG file."""
    if Path(file).suffix.lower() not in _KINDS:
        raise ValueError(f"a contact sheet is a .png or .jpg; got {os.fspath(file)[:200]!r}")


def grid(images: Sequence[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    """Images row by row on white, all in the size of the first.

    Args:
        images: uint8 (H, W, 3) each, at least one; those of another size are scaled.
        columns: images per row.

    Returns:
        uint8 (rows x H, columns x W, 3).
    """
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, dtype=np.uint8)
    for number, pixels in enumerate(images):
        if pixels.shape != images[0].shape:
            scaled = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(scaled)
        top, left = number // columns * height, number % columns * width
        sheet[top : top + height, left : left + width] = pixels
    return sheet


def write_picture(pixels: NDArray[np.uint8], file: str | os.PathLike[str]) -> None:
    """Write uint8 (H, W, 3) as a PNG or JPEG, atomically. Raises ValueError for another suffix."""
    check_picture_name(file)
    with atomic_path(file) as temporary:
        Image.fromarray(pixels).save(temporary, _KINDS[Path(file).suffix.lower()])
