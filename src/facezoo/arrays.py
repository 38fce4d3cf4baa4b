"""Arrays out of ``.npz`` files that somebody else wrote."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_arrays(path: str | os.PathLike[str], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """These arrays of an ``.npz`` file; nothing is unpickled.

    Args:
        path: the file.
        names: the arrays wanted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no such file, damaged, or holds no such array.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            return {name: np.asarray(content[name]) for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # of damage, zipfile, zlib and NumPy make nearly every kind of error
        raise ValueError(
            f"no whole .npz file with {', '.join(names)}: {str(error)[:100] or type(error).__name__}"
        ) from None
