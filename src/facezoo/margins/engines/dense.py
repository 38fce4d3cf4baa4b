"""The dense engine: the N × C logits at once, plain autograd. The shortest way, and the yardstick of the others."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from facezoo.margins.engines.collective import SINGLE_PROCESS, Collective
from facezoo.margins.engines.sinks import DenseGradient, SinkFactory
from facezoo.margins.engines.statistics import ClassStatistics, Memory, Negatives, Prepare
from facezoo.ops.margin import unit_vectors
from facezoo.ops.negatives import Coefficients, negative_form


def dense_logits(
    features: Tensor, weight: Tensor, *, scale: float | Tensor = 1.0, bias: Tensor | None = None, normalize: bool = True
) -> Tensor:
    """``scale_i · x_i·w_j + bias_j``, ``(N, C)``; the arguments are those of :class:`Engine`."""
    logits = _similarities(features, weight, normalize, None) * _column(scale)
    return logits if bias is None else logits + bias.to(logits.dtype)


def dense_statistics(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    scale: float | Tensor,
    scale_bound: float | None = None,
    offset: Tensor | None = None,
    bias: Tensor | None = None,
    normalize: bool = True,
    negatives: Negatives | None = None,
    prepare: Prepare | None = None,
    memory: Memory | None = None,
    with_total: bool = False,
    block_size: int | None = None,
    collective: Collective = SINGLE_PROCESS,
    make_sink: SinkFactory = DenseGradient,
) -> ClassStatistics:
    """Class statistics from materialized logits; see :class:`Engine`. All classes are here: no collective, no sink, no blocks."""
    negatives = Negatives() if negatives is None else negatives
    similarities = _similarities(features, weight, normalize, memory)
    own = labels[:, None]
    target = similarities.gather(1, own).sum(
        1
    )  # of one number; no view, which torch.compile would lose across a graph break
    coefficients = Coefficients(a=negatives.a, b=negatives.b)
    if prepare is not None:
        with torch.no_grad():
            prepared = prepare(target.detach())
        threshold = None if prepared.threshold is None else prepared.threshold[:, None]
        coefficients = Coefficients(threshold, prepared.factor, negatives.a, negatives.b)
    logits = negative_form(negatives.form, similarities, coefficients) * _column(scale)
    if offset is not None:
        logits = logits + _column(offset)
    if bias is not None:
        logits = logits + bias.to(logits.dtype)
    if negatives.reduction == "logsumexp":
        reduced = logits.scatter(1, own, -math.inf).logsumexp(1)
    elif negatives.reduction == "softplus":
        reduced = F.softplus(logits, threshold=50.0).scatter(1, own, 0.0).sum(1)
    else:
        reduced = logits.scatter(1, own, 0.0).square().sum(1)
    total = logits.scatter(1, own, 0.0).sum(1) if with_total else None
    return ClassStatistics(target, reduced, total)


def _similarities(features: Tensor, weight: Tensor, normalize: bool, memory: Memory | None) -> Tensor:
    """``x_i·w_j``, with the nearest of a class's sub-centers, ``(N, C)``."""
    weight = weight.to(features.dtype)
    if normalize:
        weight = unit_vectors(weight)[0]
    if memory is not None:
        weight = torch.lerp(weight, memory.features.to(weight.dtype), memory.share.to(weight.dtype)[:, None])
        weight = unit_vectors(weight)[0]
    if weight.dim() == 2:
        return torch.mm(features, weight.T)
    similarities = torch.mm(features, weight.flatten(0, 1).T)
    # max with indices gives the whole gradient to one of equals, as amax would not.
    return similarities.view(len(features), weight.shape[0], weight.shape[1]).max(2).values


def _column(x: float | Tensor) -> float | Tensor:
    return x[:, None] if isinstance(x, Tensor) and x.dim() == 1 else x
