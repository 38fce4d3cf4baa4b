"""Checks of a batch, and what the pair-wise losses share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facezoo.ops.margin import unit_vectors


def checked_batch(embeddings: Tensor, labels: Tensor, *, what: str = "embeddings") -> tuple[Tensor, Tensor]:
    """Embeddings (or logits) in float32 (float64 stays) and labels in int64.

    Raises:
        ValueError: shapes that do not fit, or an empty batch.
        TypeError: labels that are not integers.
    """
    if embeddings.dim() != 2:
        raise ValueError(f"expected {what} of shape (N, D), got {tuple(embeddings.shape)}")
    if not embeddings.is_floating_point():
        raise TypeError(f"expected floating-point {what}, got {embeddings.dtype}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.dim() == 2:
        raise TypeError(
            f"expected integer labels of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}; "
            "for mixup and cutmix weigh the losses of the two label sets by lam and 1 - lam"
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"expected {len(embeddings)} labels, one per row of {what}, got shape {tuple(labels.shape)}")
    if len(labels) == 0:
        raise ValueError("the batch is empty: the mean of no losses is not defined")
    return (embeddings if embeddings.dtype == torch.float64 else embeddings.float()), labels.long()


def check_range(labels: Tensor, num_classes: int) -> None:
    """Labels lie in [0, num_classes): a ValueError on the CPU, an assertion on the device (no sync) on a GPU.

    Raises:
        ValueError: a label out of range.
    """
    bad = (labels < 0) | (labels >= num_classes)
    if labels.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(~bad.any(), f"a label lies outside [0, {num_classes})")
    elif bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise ValueError(f"label {int(labels[index])} at position {index} lies outside [0, {num_classes})")


def check_not_negative(**values: float) -> None:
    """Raises ValueError for a number below zero, or one that is not finite."""
    for name, value in values.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} is a finite number, not negative; got {value}")


def pairwise_distances(embeddings: Tensor, *, normalise: bool) -> Tensor:
    """Euclidean distances between all rows, ``(N, N)``; the gradient at distance 0 is 0."""
    if normalise:
        embeddings = unit_vectors(embeddings)[0]
    # Distances through a matrix product lose half of the digits of small ones, and these are the ones that matter here.
    return torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")


def pair_masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """``(positive, negative)``, ``(N, N)`` bool: other samples of the same class, and those of other classes."""
    same = labels[:, None] == labels[None, :]
    self_pair = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return same & ~self_pair, ~same


def mean_of_active(terms: Tensor, candidates: Tensor) -> Tensor:
    """Mean of the candidates' terms that are above zero; zero, with a graph, where there is none."""
    active = candidates & (terms > 0)
    return torch.where(active, terms, 0.0).sum() / active.sum().clamp_min(1)
