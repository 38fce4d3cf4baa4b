"""Files of embeddings: which images, and how they are written."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from facezoo.weights import save_file_atomic

SUFFIXES = (".safetensors", ".npz", ".csv")


def list_images(paths: Iterable[Path]) -> list[Path]:
    """The image files among ``paths``, as :func:`facezoo.data.list_images` finds them."""
    from facezoo.data import list_images as listed

    return listed(paths)


def write_embeddings(path: Path, embeddings: Tensor, names: Sequence[str]) -> None:
    """Write embeddings with the names of their images.

    Args:
        path: ``.safetensors`` (tensor ``embeddings``; the names as JSON in the metadata ``names``), ``.npz`` (arrays
            ``embeddings`` and ``names``) or ``.csv`` (name, then one column per dimension).
        embeddings: (N, D) float32.
        names: N names.

    Raises:
        ValueError: another suffix.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"embeddings are written as {', '.join(SUFFIXES)}; got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file_atomic(path, {"embeddings": embeddings}, {"names": json.dumps(list(names))})
    elif path.suffix == ".npz":
        import numpy as np

        np.savez(path, embeddings=embeddings.numpy(), names=np.array(list(names)))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["name", *(f"e{index}" for index in range(embeddings.shape[1]))])
            writer.writerows([name, *row] for name, row in zip(names, embeddings.tolist(), strict=True))
