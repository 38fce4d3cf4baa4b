"""Mean and standard deviation of a data set's pixels."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from facezoo.data.errors import DataError


def mean_std(
    dataset: Dataset[Any], *, progress: bool = True
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation per channel over all pixels of all images.

    They are computed from exact histograms of the 8-bit values, without rounding errors. (Some programs average the standard
    deviations of single images instead; that value is smaller.)

    Args:
        dataset: gives 8-bit RGB images, PIL or uint8 tensors (3, H, W), or tuples that begin with one: open it without
            transform, ``ImageFolder(root)``.
        progress: show a progress bar.

    Returns:
        ``(mean, std)`` in R, G, B, as fractions of 1: what ``Preprocessing(mean=..., std=...)`` takes.

    Raises:
        TypeError: an item is not an 8-bit RGB image.
        DataError: the data set is empty.
    """
    from tqdm import tqdm

    if not isinstance(dataset, Sized):
        raise TypeError(f"{type(dataset).__name__} has no length; expected a map-style data set")
    counts = np.zeros((3, 256), dtype=np.int64)
    for index in tqdm(range(len(dataset)), desc="mean and std", unit="img", disable=not progress):
        item = dataset[index]
        counts += _histogram(item[0] if isinstance(item, tuple | list) else item)
    total = int(counts[0].sum())
    if total == 0:
        raise DataError("mean_std: the data set is empty")
    # Sums of 8-bit values are exact as Python integers, so the variance has no cancellation error.
    mean: list[float] = []
    std: list[float] = []
    for channel in counts.tolist():
        first = sum(value * count for value, count in enumerate(channel))
        second = sum(value * value * count for value, count in enumerate(channel))
        mean.append(first / total / 255)
        std.append(((second * total - first * first) / total**2) ** 0.5 / 255)
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _histogram(image: Any) -> np.ndarray:
    if isinstance(image, Image.Image) and image.mode == "RGB":
        return np.array(image.histogram(), dtype=np.int64).reshape(3, 256)
    if isinstance(image, Tensor) and image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3:
        return torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in image]).numpy()
    got = f"{image.dtype} tensor {tuple(image.shape)}" if isinstance(image, Tensor) else f"{type(image).__name__}"
    raise TypeError(
        f"mean_std needs 8-bit RGB images (PIL, or uint8 tensors (3, H, W)), got {got}; open the data set without its transform"
    )
