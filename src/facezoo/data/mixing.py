"""Mixing the images of a batch: mixup (1710.09412) and CutMix (1905.04899)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class MixedBatch(NamedTuple):
    """A batch in which every image has two labels.

    Attributes:
        images: float (N, C, H, W).
        labels_a: int64 (N,): the labels with weight ``lam``.
        labels_b: int64 (N,): the labels with weight ``1 - lam``.
        lam: from 0 to 1; for CutMix the exact share of the pixels. 1 where nothing was mixed.
    """

    images: Tensor
    labels_a: Tensor
    labels_b: Tensor
    lam: float


def mix_batch(
    images: Tensor,
    labels: Tensor,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    probability: float = 1.0,
    generator: torch.Generator | None = None,
) -> MixedBatch:
    """Mix every image with another one of the batch, by mixup or CutMix. If both are on, each is chosen with probability 1/2.

    Args:
        images: float (N, C, H, W); left as it is.
        labels: int64 (N,).
        mixup_alpha: both parameters of the Beta distribution of ``lam`` for mixup; 0 turns mixup off.
        cutmix_alpha: likewise for the area that CutMix keeps.
        probability: probability that the batch is mixed at all.
        generator: CPU random generator, whatever device the images are on; None uses torch's global generator.

    Returns:
        The batch. The loss is ``lam * loss(labels_a) + (1 - lam) * loss(labels_b)``, see :func:`mixed_loss`.

    Raises:
        ValueError: shapes do not fit, or a parameter is out of range.
        TypeError: the images are not floating point.
    """
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"expected images (N, C, H, W) and labels (N,), got {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    if not images.is_floating_point():
        raise TypeError(f"expected normalized floating-point images, got {images.dtype}")
    if mixup_alpha < 0 or cutmix_alpha < 0 or not 0 <= probability <= 1:
        raise ValueError(
            "expected mixup_alpha and cutmix_alpha of at least 0 and probability from 0 to 1, "
            f"got {mixup_alpha}, {cutmix_alpha} and {probability}"
        )
    if not (mixup_alpha or cutmix_alpha):
        return MixedBatch(images, labels, labels, 1.0)
    # Drawn on the CPU, always the same number of draws: there is no wait for the device, and the random stream does not depend
    # on the settings.
    apply, coin = torch.rand(2, generator=generator).tolist()
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    partner = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
    if apply >= probability:
        return MixedBatch(images, labels, labels, 1.0)
    random = np.random.default_rng(seed)  # torch's Beta distribution takes no generator
    if mixup_alpha and (not cutmix_alpha or coin < 0.5):
        lam = float(random.beta(mixup_alpha, mixup_alpha))
        mixed = images.lerp(images[partner], 1 - lam)
    else:
        height, width = images.shape[-2:]
        top, bottom, left, right = _cut_box(height, width, float(random.beta(cutmix_alpha, cutmix_alpha)), random)
        lam = 1 - (bottom - top) * (right - left) / (height * width)
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = images[..., top:bottom, left:right][partner]
    return MixedBatch(mixed, labels, labels[partner], lam)


def mixed_loss(loss: Callable[[Tensor], Tensor], batch: MixedBatch) -> Tensor:
    """The loss of a mixed batch.

    Args:
        loss: from labels (N,) to a scalar: ``lambda labels: head(embeddings, labels)``. Called once where nothing was mixed.
        batch: result of :func:`mix_batch`.
    """
    first = loss(batch.labels_a)
    return first if batch.lam == 1 else batch.lam * first + (1 - batch.lam) * loss(batch.labels_b)


def mixed_accuracy(logits: Tensor, batch: MixedBatch) -> Tensor:
    """Expected accuracy for soft labels: ``lam`` if the first label is predicted, ``1 - lam`` if the second is.

    Args:
        logits: (N, C).
        batch: result of :func:`mix_batch`.

    Returns:
        Mean over the batch, a scalar tensor (fraction of 1) on the logits' device; with ``lam`` 1 the usual accuracy.
    """
    predicted = logits.argmax(dim=1)
    first = (predicted == batch.labels_a).float().mean()
    second = (predicted == batch.labels_b).float().mean()
    return batch.lam * first + (1 - batch.lam) * second


def _cut_box(height: int, width: int, lam: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of a box of area ``1 - lam`` about a uniform center, clipped to the image."""
    side = math.sqrt(1 - lam)
    half_height, half_width = int(height * side / 2), int(width * side / 2)
    y, x = int(random.integers(height)), int(random.integers(width))
    return max(y - half_height, 0), min(y + half_height, height), max(x - half_width, 0), min(x + half_width, width)
