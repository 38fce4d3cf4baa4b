"""Checks of what a head is called with; each raises an error that says what would be right."""

from __future__ import annotations

import torch
from torch import Tensor


def check_embeddings(embeddings: Tensor, width: int) -> None:
    """``(N, width)``, floating.

    Raises:
        ValueError: another shape.
        TypeError: embeddings that are not floating-point.
    """
    if embeddings.dim() != 2 or embeddings.shape[1] != width:
        raise ValueError(
            f"expected embeddings of shape (N, {width}), got {tuple(embeddings.shape)}; "
            "does embedding_dim of the head equal that of the model?"
        )
    if not embeddings.is_floating_point():
        raise TypeError(f"expected floating-point embeddings, got {embeddings.dtype}")


def checked_labels(embeddings: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """One label in [0, num_classes) per embedding, as int64.

    Raises:
        ValueError: an empty batch, another number of labels, another device, a label out of range.
        TypeError: labels that are not integers.
    """
    if labels.is_floating_point() or labels.dim() == 2:
        raise TypeError(
            f"expected integer labels of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}. Soft labels have no "
            "target to put a margin on: for mixup and cutmix call the head twice, lam·head(x, labels_a) + "
            "(1 - lam)·head(x, labels_b); for smoothed labels use label_smoothing"
        )
    if labels.dtype == torch.bool or labels.is_complex():
        raise TypeError(f"expected integer labels, got {labels.dtype}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"expected {len(embeddings)} labels, one per embedding, got shape {tuple(labels.shape)}")
    if labels.device != embeddings.device:
        raise ValueError(f"embeddings are on {embeddings.device} but labels on {labels.device}; move the labels")
    if len(labels) == 0:
        raise ValueError("the batch is empty: the mean of no losses is not defined")
    labels = labels.long()
    if labels.device.type != "meta":
        _check_range(labels, num_classes)
    return labels


def full_precision(x: Tensor) -> Tensor:
    """In float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def _check_range(labels: Tensor, num_classes: int) -> None:
    bad = (labels < 0) | (labels >= num_classes)
    if labels.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(~bad.any(), f"a label lies outside [0, {num_classes}), the range of this head")
    elif bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise ValueError(
            f"label {int(labels[index])} at position {index} lies outside [0, {num_classes}), the range of this head "
            f"({int(bad.sum())} of {len(labels)} labels do); num_classes is the largest label plus 1, "
            "and samples to be ignored have to be left out of the batch"
        )
