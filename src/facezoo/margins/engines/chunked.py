"""The chunked engine: exact, in blocks over the classes, N × block logits at a time.

Forward: the log-sum-exp over the other classes, block by block. Backward: each block's logits are computed again and give
``G = ∂loss/∂z`` for that block, from which follow the gradients of the features (``G·Ŵ``, summed over blocks) and of the block's
centres (``Gᵀ·X``). Four matrix products instead of three, no matrix of N × C. The idea is that of Cut Cross-Entropy (2411.09009)
without its filter, which is not safe with a scale of 64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facezoo.margins.engines.statistics import ClassStatistics
from facezoo.ops.margin import ZERO_NORM

# A block of logits, N × this, should stay in the cache.
BLOCK_SIZE_CPU = 2048
BLOCK_SIZE_GPU = 8192

# |z| ≤ scale for cosines. exp(z - shift) with shift = max(0, scale - 64) neither overflows in float32 (e^64 · 1e10 classes
# < 3e38) nor underflows (e^-86) up to this scale, so no maximum has to be looked for. Beyond it, or where the bound is not known,
# each row's running maximum is the shift: a fixed one would lose every negative of a row that lies far below the bound.
_LARGEST_SCALE_OF_FIXED_SHIFT = 75.0
_HEADROOM = 64.0


def chunked_statistics(
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
    """Class statistics in blocks over the classes; see :class:`Engine`. Extra memory: 2·N·block and C numbers."""
    if block_size is None:
        block_size = BLOCK_SIZE_CPU if features.device.type == "cpu" else BLOCK_SIZE_GPU
    block_size = min(block_size, len(weight))
    shift = None
    if normalise and bias is None and isinstance(scale, float) and scale <= _LARGEST_SCALE_OF_FIXED_SHIFT:
        shift = max(0.0, scale - _HEADROOM)
    if not isinstance(scale, Tensor):
        scale = features.new_full((), scale)
    run = _ChunkedStatistics.apply
    if torch.compiler.is_compiling():
        # A compiler would unroll the loop over the blocks, and take minutes over it. The wrapper is not made at import because
        # making it loads torch._dynamo, which takes seconds.
        run = torch.compiler.disable(run)
    target, negatives, total = run(features, weight, bias, scale, labels, normalise, with_total, block_size, shift)
    return ClassStatistics(target, negatives, total if with_total else None)


class _ChunkedStatistics(torch.autograd.Function):
    """``(features, weight, bias, scale, labels, ...) -> (target, negatives, total)``."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        labels: Tensor,
        normalise: bool,
        with_total: bool,
        block_size: int,
        shift: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        samples = len(features)
        scaled = features * scale[..., None]
        inverse = features.new_empty(len(weight)) if normalise else None  # 1 / ‖w_j‖, 0 for a centre without direction
        summed = features.new_zeros(samples)  # Σ exp(z - maximum)
        maximum = features.new_full((samples,), torch.finfo(features.dtype).min if shift is None else shift)
        total = features.new_zeros(samples if with_total else 0)
        buffer = features.new_empty(samples * block_size)
        for rows in _blocks(len(weight), block_size):
            centres = weight[rows].to(features.dtype)
            if inverse is not None:
                norm = torch.linalg.vector_norm(centres, dim=1)
                torch.reciprocal(norm.masked_fill_(norm <= ZERO_NORM, math.inf), out=inverse[rows])
            logits = _block_logits(scaled, centres, bias, inverse, rows, buffer)
            if with_total:
                total += logits.sum(1)
            _set_target(logits, labels, rows, -math.inf)
            if shift is None:
                raised = torch.maximum(maximum, logits.amax(1))
                summed *= torch.exp(maximum - raised)
                maximum = raised
                logits -= maximum[:, None]
            elif shift:
                logits -= shift
            summed += logits.exp_().sum(1)
        negatives = summed.log() + maximum
        target = (features * weight[labels].to(features.dtype)).sum(1)
        if inverse is not None:
            target *= inverse[labels]
        ctx.save_for_backward(features, weight, bias, scale, labels, inverse, target, negatives)
        ctx.block_size, ctx.with_total = block_size, with_total
        return target, negatives, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_target: Tensor, grad_negatives: Tensor, grad_total: Tensor
    ) -> tuple[Tensor | None, ...]:
        features, weight, bias, scale, labels, inverse, target, negatives = ctx.saved_tensors
        need_features, need_weight, need_bias, need_scale = ctx.needs_input_grad[:4]
        # A backward pass runs under the autocast state of whoever calls it.
        with torch.autocast(features.device.type, enabled=False):
            scaled = features * scale[..., None]
            grad_scaled = torch.zeros_like(features)
            grad_weight = torch.empty_like(weight) if need_weight else None
            grad_bias = torch.empty_like(bias) if need_bias else None
            subtrahend = negatives.masked_fill(negatives == -math.inf, math.inf)  # no negatives: p = 0 instead of NaN
            buffer, spare = (features.new_empty(len(features) * ctx.block_size) for _ in range(2))
            for rows in _blocks(len(weight), ctx.block_size):
                centres = weight[rows].to(features.dtype)
                logits = _block_logits(scaled, centres, bias, inverse, rows, buffer)
                grad = torch.sub(logits, subtrahend[:, None], out=_matrix(spare, len(features), rows)).exp_()
                grad *= grad_negatives[:, None]
                _set_target(grad, labels, rows, 0.0)
                if ctx.with_total:
                    grad += grad_total[:, None]
                if grad_bias is not None:
                    grad_bias[rows] = grad.sum(0)
                if inverse is not None:
                    if bias is not None:
                        logits -= bias[rows]
                    along = logits.mul_(grad).sum(0)  # ŵ · ∂loss/∂ŵ
                    along *= inverse[rows].square()
                    grad *= inverse[rows]
                if need_features or need_scale:
                    grad_scaled.addmm_(grad, centres)
                if grad_weight is not None:
                    in_place = grad_weight.dtype == grad.dtype
                    product = torch.mm(grad.T, scaled, out=grad_weight[rows] if in_place else None)
                    if inverse is not None:  # of the gradient only the part across w_j reaches w_j
                        product.addcmul_(centres, along[:, None], value=-1.0)
                    if not in_place:
                        grad_weight[rows] = product
            # The target's part: N rows, no block needed.
            own = weight[labels].to(features.dtype)
            across = features
            if inverse is not None:
                own *= inverse[labels][:, None]
                across = (features - own * target[:, None]) * inverse[labels][:, None]
            if grad_weight is not None:
                grad_weight.index_add_(0, labels, (across * grad_target[:, None]).to(grad_weight.dtype))
            grad_features = grad_scaled * scale[..., None] + own * grad_target[:, None] if need_features else None
            grad_scale = None
            if need_scale:
                grad_scale = (features * grad_scaled).sum(1).sum_to_size(scale.shape)
        return grad_features, grad_weight, grad_bias, grad_scale, None, None, None, None, None


def _blocks(classes: int, block_size: int) -> Iterator[slice]:
    return (slice(start, min(start + block_size, classes)) for start in range(0, classes, block_size))


def _matrix(buffer: Tensor, samples: int, rows: slice) -> Tensor:
    """The beginning of a flat buffer as a contiguous (N, block) matrix; the last block may be narrower."""
    columns = rows.stop - rows.start
    return buffer[: samples * columns].view(samples, columns)


def _block_logits(
    scaled: Tensor, centres: Tensor, bias: Tensor | None, inverse: Tensor | None, rows: slice, buffer: Tensor
) -> Tensor:
    logits = torch.mm(scaled, centres.T, out=_matrix(buffer, len(scaled), rows))
    if inverse is not None:
        logits *= inverse[rows]
    if bias is not None:
        logits += bias[rows]
    return logits


def _set_target(matrix: Tensor, labels: Tensor, rows: slice, value: float) -> None:
    """Write ``value`` into the own class's column of each row whose class lies in the block. No device sync."""
    column = labels - rows.start
    inside = (column >= 0) & (column < matrix.shape[1])
    column = column.clamp(0, matrix.shape[1] - 1)[:, None]
    matrix.scatter_(1, column, matrix.gather(1, column).masked_fill_(inside[:, None], value))
