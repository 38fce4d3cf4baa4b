"""Checks of a batch of embeddings and labels, for heads and losses."""

from __future__ import annotations

import torch
from torch import Tensor

TOO_LONG = "they are too long for this type; lower the learning rate, or let the backbone end in a norm"


class NonFiniteError(ValueError):
    """A tensor contains NaN or infinity. The message names the tensor and its first bad row."""


def check_finite(tensor: Tensor, what: str, *, hint: str = "") -> None:
    """Raise if ``tensor`` contains NaN or infinity.

    The check runs on the CPU; on other devices only inside ``torch.autograd.detect_anomaly()``, since it would synchronize
    every step; never inside ``torch.compile``.

    Args:
        tensor: ``(N, ...)``, or 0-dimensional.
        what: what it is, for the message.
        hint: what to do, for the message.

    Raises:
        NonFiniteError: it contains NaN or infinity.
    """
    if torch.compiler.is_compiling() or not (tensor.device.type == "cpu" or torch.is_anomaly_enabled()):
        return
    good = torch.isfinite(tensor.detach())
    if bool(good.all()):
        return
    rows = (~good).reshape(len(tensor) if tensor.dim() else 1, -1).any(1)
    row = int(rows.nonzero()[0])
    kind = "NaN" if bool(torch.isnan(tensor.detach().reshape(len(rows), -1)[row]).any()) else "infinity"
    where = f", row {row} ({int(rows.sum())} of {len(rows)} rows are not finite)" if tensor.dim() else ""
    raise NonFiniteError(f"{kind} in {what}{where}" + (f"; {hint}" if hint else ""))


def check_embeddings(embeddings: Tensor, *, width: int | None = None, what: str = "embeddings") -> None:
    """Check that embeddings (or logits) are ``(N, D)`` and floating-point.

    Args:
        embeddings: the tensor to check.
        width: the required D; None for any.
        what: their name, for messages.

    Raises:
        ValueError: a wrong shape.
        TypeError: not floating-point.
    """
    if embeddings.dim() != 2 or (width is not None and embeddings.shape[1] != width):
        hint = (
            "; does embedding_dim of the head or loss equal that of the model?"
            if width and what == "embeddings"
            else ""
        )
        expected = "D" if width is None else width
        raise ValueError(f"expected {what} of shape (N, {expected}), got {tuple(embeddings.shape)}{hint}")
    if not embeddings.is_floating_point():
        raise TypeError(f"expected floating-point {what}, got {embeddings.dtype}")


def checked_labels(
    embeddings: Tensor, labels: Tensor, *, num_classes: int | None = None, what: str = "embeddings"
) -> Tensor:
    """One identity per embedding, as int64 ``(N,)``.

    A label out of range is a ValueError on the CPU, and a device assertion on a GPU, where a check would synchronize every
    step. A negative label is always out of range (other libraries use -100 or -1 for "ignore this row").

    Args:
        embeddings: ``(N, D)``.
        labels: ``(N,)``, any integer type.
        num_classes: upper limit of the labels (exclusive); None for no limit.
        what: name of the embeddings, for messages.

    Raises:
        ValueError: an empty batch, a wrong number of labels, another device, or a label out of range.
        TypeError: labels that are not integers.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool or labels.dim() == 2:
        raise TypeError(
            f"expected integer labels of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}. For mixup and cutmix add "
            "the losses of the two label sets, lam·loss(x, labels_a) + (1 - lam)·loss(x, labels_b); for smoothed labels use "
            "label_smoothing"
        )
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"expected {len(embeddings)} labels, one per row of {what}, got shape {tuple(labels.shape)}")
    if labels.device != embeddings.device:
        raise ValueError(f"{what} are on {embeddings.device} but labels on {labels.device}; move the labels")
    if len(labels) == 0:
        raise ValueError("the batch is empty: the mean of no losses is not defined")
    labels = labels.long()
    if labels.device.type == "meta":
        return labels
    if num_classes is None:
        bad, why = labels < 0, "is negative, so it names no identity; leave such rows out of the batch"
    else:
        bad = (labels < 0) | (labels >= num_classes)
        why = f"lies outside [0, {num_classes}); num_classes is the largest label plus 1"
    if labels.is_cuda or torch.compiler.is_compiling():
        torch._assert_async(~bad.any(), f"a label {why}")
    elif bool(bad.any()):
        index = int(bad.nonzero()[0])
        raise ValueError(
            f"label {int(labels[index])} at position {index} {why} ({int(bad.sum())} of {len(labels)} labels do)"
        )
    return labels


def full_precision(x: Tensor) -> Tensor:
    """Convert to float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
