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

    NaN and infinity are looked for on the CPU. On a GPU the look would make every step wait for the device: there they are looked
    for only under ``torch.autograd.detect_anomaly()``, and otherwise come out as a loss that is not finite.

    Args:
        embeddings: ``(N, D)``.
        labels: ``(N,)``.
        what: name of the embeddings, for messages.
        width: D, where only one fits.
        num_classes: labels lie below this; None for no upper end.

    Raises:
        ValueError: shapes or devices that do not fit, an empty batch, or values that are not finite.
        TypeError: labels that are not integers, embeddings that are.
    """
    check_embeddings(embeddings, width=width, what=what)
    labels = checked_labels(embeddings, labels, num_classes=num_classes, what=what)
    check_finite(embeddings, what)
    return full_precision(embeddings), labels


def checked_lengths(embeddings: Tensor, kept_as: torch.dtype | None = None) -> Tensor:
    """Length of each row, ``(N,)``.

    Args:
        embeddings: ``(N, D)``.
        kept_as: type of the state that takes them in, whose range must hold their squares too.

    Raises:
        NonFiniteError: a square is beyond the range of the type, on the CPU (see :func:`checked_batch`).
    """
    lengths = torch.linalg.vector_norm(embeddings, dim=1)
    squares = lengths.detach().to(kept_as or lengths.dtype).square()
    check_finite(squares, "the squared lengths of the embeddings", hint=TOO_LONG)
    return lengths


def finite_loss(loss: Tensor, what: str = "embeddings") -> Tensor:
    """The loss itself; an error if it is beyond the range of its type, on the CPU (see :func:`checked_batch`).

    Raises:
        NonFiniteError: it is not finite, although the embeddings are.
    """
    check_finite(loss, f"the loss, although the {what} are finite", hint=TOO_LONG)
    return loss


def check_not_negative(**values: float) -> None:
    """Raises ValueError for a number below zero, or one that is not finite."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 <= value < math.inf:
            raise ValueError(f"{name} is a finite number, not negative; got {str(value)[:200]}")


def check_positive(**values: float) -> None:
    """Raises ValueError for a number that is not above zero, or not finite."""
    for name, value in values.items():
        if not _is_number(value) or not 0.0 < value < math.inf:
            raise ValueError(f"{name} is a finite number above 0; got {str(value)[:200]}")


def check_sizes(**values: int) -> None:
    """Raises ValueError for a size that is no whole number (NumPy's are), or below 1."""
    for name, value in values.items():
        if not is_whole(value, 1):
            raise ValueError(f"{name} is a whole number of at least 1, got {str(value)[:200]}")


def check_number(**values: float) -> None:
    """Raises ValueError for what is no number."""
    for name, value in values.items():
        if not _is_number(value):
            raise ValueError(f"{name} is a number, got {str(value)[:200]!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def mean_of_active(terms: Tensor, candidates: Tensor) -> Tensor:
    """Mean of the candidates' terms that are above zero; zero, with a graph, where there is none."""
    active = candidates & (terms > 0)
    return mean_where(terms, active)


def mean_where(terms: Tensor, chosen: Tensor) -> Tensor:
    """Mean of the terms that ``chosen`` marks; zero, with a graph, where there is none."""
    return torch.where(chosen, terms, 0.0).sum() / chosen.sum().clamp_min(1)


def masked_logsumexp(terms: Tensor, mask: Tensor, dim: int) -> Tensor:
    """``log Σ exp`` over the marked terms; -inf, with a gradient of zero, where none is marked.

    torch's own gradient of a row of -inf is NaN; the mask stops it, but ``torch.autograd.detect_anomaly()`` stops at it.
    """
    found = mask.any(dim)
    # A row without any marked term is summed as it is, and thrown away: value and gradient stay finite on the way.
    kept = terms.masked_fill(~mask & found.unsqueeze(dim), -math.inf)
    return torch.logsumexp(kept, dim).masked_fill(~found, -math.inf)


def log1p_exp(terms: Tensor) -> Tensor:
    """``log(1 + exp(x))`` to the full precision of float64 too (torch's softplus turns linear at 20 unless told otherwise)."""
    return torch.nn.functional.softplus(terms, threshold=50.0)
