"""Read arrays from untrusted ``.npz`` files."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_MOST_PACKED = 1100  # deflate compresses by a factor of at most 1,032


def read_arrays(
    path: str | os.PathLike[str], names: Sequence[str], *, most_items: int | None = None
) -> dict[str, NDArray[Any]]:
    """Read these arrays of an ``.npz`` file. Nothing is unpickled, and the claimed size of an array is checked before allocation.

    Args:
        path: the file.
        names: names of the arrays.
        most_items: largest number of items in an array.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not an ``.npz`` file, is damaged, lacks an array, or an array claims more than the file can contain.
    """
    try:
        with zipfile.ZipFile(path) as content:
            for name in names:
                _check_claim(content, name, most_items)
        with np.load(path, allow_pickle=False) as content:
            return {name: np.asarray(content[name]) for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # damaged files cause many kinds of errors in zipfile, zlib and NumPy
        raise ValueError(
            f"not a complete .npz file with {', '.join(names)}: {str(error)[:100] or type(error).__name__}"
        ) from None


def _check_claim(content: zipfile.ZipFile, name: str, most_items: int | None) -> None:
    """Raise ValueError if an array's header claims more than its part of the file can contain, or more than allowed."""
    entry = content.getinfo(f"{name}.npy")
    with content.open(entry) as member:
        version = npy.read_magic(member)
        if version == (1, 0):
            shape, _, dtype = npy.read_array_header_1_0(member)
        elif version == (2, 0):
            shape, _, dtype = npy.read_array_header_2_0(member)
        else:
            raise ValueError(f"{name} is written in version {version} of NumPy's format, not in 1.0 or 2.0")
    items = math.prod(shape)
    if items * dtype.itemsize > _MOST_PACKED * entry.compress_size:
        raise ValueError(f"{name} claims {items} numbers, in {entry.compress_size} bytes")
    if most_items is not None and items > most_items:
        raise ValueError(f"{name} claims {items} numbers; at most {most_items} fit the other files")
