"""Files of embeddings."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from facezoo.files import atomic_path
from facezoo.weights import save_file_atomic

SUFFIXES = (".safetensors", ".npz", ".csv")


def write_embeddings(path: Path, embeddings: Tensor, names: Sequence[str]) -> None:
    """Write embeddings with the names of their images.

    Args:
        path: ``.safetensors`` (tensor ``embeddings``; the names as JSON in the metadata ``names``), ``.npz`` (arrays
            ``embeddings`` and ``names``) or ``.csv`` (name, then one column per dimension).
        embeddings: (N, D) float32.
        names: N names.

    After an error the old file is unchanged.

    Raises:
        ValueError: an unknown suffix.
        OSError: the file cannot be written.
    """
    check_suffix(path)
    if path.suffix == ".safetensors":
        save_file_atomic(path, {"embeddings": embeddings}, {"names": json.dumps(list(names))})
        return
    with atomic_path(path) as temporary:
        if path.suffix == ".npz":
            import numpy as np

            with temporary.open("wb") as file:
                np.savez(file, embeddings=embeddings.numpy(), names=np.array(list(names)))
        else:
            with temporary.open("w", newline="", encoding="utf-8") as text:
                writer = csv.writer(text)
                writer.writerow(["name", *(f"e{index}" for index in range(embeddings.shape[1]))])
                writer.writerows([name, *row] for name, row in zip(names, embeddings.tolist(), strict=True))


def check_suffix(path: Path) -> None:
    """Raise ValueError if the suffix is unknown, and OSError if the path is a folder."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"embeddings are written as {', '.join(SUFFIXES)}; got {path}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
