"""The dense engine: all N × C logits at once, with plain autograd. It is the reference for the other engines."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from facezoo.margins.engines.problem import ClassStatistics, Memory, Problem
from facezoo.margins.negatives import Coefficients
from facezoo.ops.margin import unit_vectors


def dense_logits(
    features: Tensor, weight: Tensor, *, scale: float | Tensor = 1.0, bias: Tensor | None = None, normalize: bool = True
) -> Tensor:
    """``scale_i · x_i·w_j + bias_j``, ``(N, C)``; the arguments are those of :class:`Problem`."""
    logits = _similarities(features, weight, normalize, None) * _column(scale)
    return logits if bias is None else logits + bias.to(logits.dtype)


def dense_statistics(problem: Problem) -> ClassStatistics:
    """Class statistics from all logits in memory; no collective, no sink, no blocks."""
    negatives = problem.negatives
    similarities = _similarities(problem.features, problem.weight, problem.normalize, problem.memory)
    own = problem.labels[:, None]
    # A sum of one number instead of a view, which torch.compile loses across a graph break.
    target = similarities.gather(1, own).sum(1)
    coefficients = Coefficients()
    if problem.prepare is not None:
        with torch.no_grad():
            threshold, factor = problem.prepare(target.detach())
        coefficients = Coefficients(None if threshold is None else threshold[:, None], factor)
    if not negatives.is_identity:
        similarities = negatives.differentiable(similarities, coefficients)
    logits = similarities * _column(problem.scale)
    if problem.offset is not None:
        logits = logits + _column(problem.offset)
    if problem.bias is not None:
        logits = logits + problem.bias.to(logits.dtype)
    if negatives.reduction == "logsumexp":
        reduced = logits.scatter(1, own, -math.inf).logsumexp(1)
    elif negatives.reduction == "softplus":
        reduced = F.softplus(logits, threshold=50.0).scatter(1, own, 0.0).sum(1)
    else:
        reduced = logits.scatter(1, own, 0.0).square().sum(1)
    total = logits.scatter(1, own, 0.0).sum(1) if problem.with_total else None
    return ClassStatistics(target, reduced, total)


def _similarities(features: Tensor, weight: Tensor, normalize: bool, memory: Memory | None) -> Tensor:
    """``x_i·w_j``, with the nearest of a class's sub-centers, ``(N, C)``."""
    weight = weight.to(features.dtype)
    if normalize:
        weight = unit_vectors(weight, what=None)[0]  # the head names a bad center
    if memory is not None:
        weight = torch.lerp(weight, memory.features.to(weight.dtype), memory.share.to(weight.dtype)[:, None])
        weight = unit_vectors(weight, what=None)[0]
    if weight.dim() == 2:
        return torch.mm(features, weight.T)
    similarities = torch.mm(features, rearrange(weight, "c k d -> d (c k)"))
    # max with indices gives the whole gradient to one of several equal values; amax would divide it.
    return rearrange(similarities, "n (c k) -> n c k", k=weight.shape[1]).max(2).values


def _column(x: float | Tensor) -> float | Tensor:
    return x[:, None] if isinstance(x, Tensor) and x.dim() == 1 else x
