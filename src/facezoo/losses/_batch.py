"""Checks of a batch, and sums over a part of it."""

from __future__ import annotations

import math
from numbers import Real

import torch
from torch import Tensor

from facezoo.checks import is_whole
from facezoo.ops.checks import TOO_LONG, check_embeddings, check_finite, checked_labels, full_precision


def checked_batch(
    embeddings: Tensor,
    labels: Tensor,
    *,
    what: str = "embeddings",
    width: int | None = None,
    num_classes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings (or logits) in float32 (float64 stays) and labels in int64.

    NaN and infinity are detected on the CPU. On a GPU the check would synchronize every step, so it is done only inside
    ``torch.autograd.detect_anomaly()``; otherwise the loss is not finite.

    Args:
        embeddings: ``(N, D)``.
        labels: ``(N,)``.
        what: name of the embeddings, for messages.
        width: the required D; None for any.
        num_classes: upper limit of the labels (exclusive); None for no limit.

    Raises:
        ValueError: shapes or devices do not match, an empty batch, or values that are not finite.
        TypeError: labels that are not integers, or embeddings that are.
    """
    check_embeddings(embeddings, width=width, what=what)
    labels = checked_labels(embeddings, labels, num_classes=num_classes, what=what)
    check_finite(embeddings, what)
    return full_precision(embeddings), labels


def checked_lengths(embeddings: Tensor, kept_as: torch.dtype | None = None) -> Tensor:
    """Length of each row, ``(N,)``.

    Args:
        embeddings: ``(N, D)``.
        kept_as: dtype of a state that stores the lengths; their squares must be in its range too.

    Raises:
        NonFiniteError: a square is out of range of the dtype, on the CPU (see :func:`checked_batch`).
    """
    lengths = torch.linalg.vector_norm(embeddings, dim=1)
    squares = lengths.detach().to(kept_as or lengths.dtype).square()
    check_finite(squares, "the squared lengths of the embeddings", hint=TOO_LONG)
    return lengths


def finite_loss(loss: Tensor, what: str = "embeddings") -> Tensor:
    """Return the loss; raise if it is out of range of its dtype, on the CPU (see :func:`checked_batch`).

    Raises:
        NonFiniteError: it is not finite, although the embeddings are.
    """
    check_finite(loss, f"the loss, although the {what} are finite", hint=TOO_LONG)
    return loss


def check_not_negative(**values: float) -> None:
    """Raise ValueError unless the number is finite and at least 0."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 <= value < math.inf:
            raise ValueError(f"{name} is a finite number, not negative; got {str(value)[:200]}")


def check_positive(**values: float) -> None:
    """Raise ValueError unless the number is finite and above 0."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 < value < math.inf:
            raise ValueError(f"{name} is a finite number above 0; got {str(value)[:200]}")


def check_sizes(**values: int) -> None:
    """Raise ValueError unless each size is a whole number (Python's or NumPy's) of at least 1."""
    for name, value in values.items():
        if not is_whole(value, 1):
            raise ValueError(f"{name} is a whole number of at least 1, got {str(value)[:200]}")


def check_number(**values: float) -> None:
    """Raise ValueError unless the value is a number."""
    for name, value in values.items():
        if not _is_number(value):
            raise ValueError(f"{name} is a number, got {str(value)[:200]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def mean_of_active(terms: Tensor, candidates: Tensor) -> Tensor:
    """Mean of the candidates' terms above zero; if there is none, a zero that is connected to the graph."""
    active = candidates & (terms > 0)
    return mean_where(terms, active)


def mean_where(terms: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the terms selected by ``chosen``; if there is none, a zero that is connected to the graph."""
    return torch.where(chosen, terms, 0.0).sum() / chosen.sum().clamp_min(1)


def masked_logsumexp(terms: Tensor, mask: Tensor, dim: int) -> Tensor:
    """``log Σ exp`` over the selected terms; -inf with gradient 0 if none is selected.

    torch's gradient for a row of -inf is NaN. Masking would hide it, but ``torch.autograd.detect_anomaly()`` would still raise.
    """
    found = mask.any(dim)
    # A row without selected terms is summed unmasked, and the result is discarded, so value and gradient stay finite.
    kept = terms.masked_fill(~mask & found.unsqueeze(dim), -math.inf)
    return torch.logsumexp(kept, dim).masked_fill(~found, -math.inf)


def log1p_exp(terms: Tensor) -> Tensor:
    """``log(1 + exp(x))`` with full precision also in float64 (torch's softplus becomes linear at 20 by default)."""
    return torch.nn.functional.softplus(terms, threshold=50.0)
