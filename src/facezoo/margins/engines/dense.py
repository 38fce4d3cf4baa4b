"""The dense engine: the N × C logits at once, plain autograd. The shortest way, and the yardstick of the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from facezoo.margins.engines.statistics import ClassStatistics
from facezoo.ops.margin import unit_vectors


def dense_logits(
    features: Tensor, weight: Tensor, *, scale: float | Tensor = 1.0, bias: Tensor | None = None, normalise: bool = True
) -> Tensor:
    """``scale_i · x_i·w_j + bias_j``, ``(N, C)``; the arguments are those of :class:`Engine`."""
    return _logits(_similarities(features, weight, normalise), scale, bias)


def dense_statistics(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float | Tensor,
    bias: Tensor | None,
    normalise: bool,
    with_total: bool,
    block_size: int | None = None,
) -> ClassStatistics:
    """Class statistics from materialised logits; see :class:`Engine`. ``block_size`` is not used."""
    similarities = _similarities(features, weight, normalise)
    logits = _logits(similarities, scale, bias)
    own = labels[:, None]
    return ClassStatistics(
        target=similarities.gather(1, own)[:, 0],
        negatives=logits.scatter(1, own, -math.inf).logsumexp(1),
        total=logits.sum(1) if with_total else None,
    )


def _similarities(features: Tensor, weight: Tensor, normalise: bool) -> Tensor:
    weight = weight.to(features.dtype)
    return torch.mm(features, (unit_vectors(weight)[0] if normalise else weight).T)


def _logits(similarities: Tensor, scale: float | Tensor, bias: Tensor | None) -> Tensor:
    logits = similarities * (scale[:, None] if isinstance(scale, Tensor) else scale)
    return logits if bias is None else logits + bias.to(logits.dtype)
