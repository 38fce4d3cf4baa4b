"""The chunked engine: exact, in plain PyTorch, in blocks over the classes, N × block logits at a time.

The products take nearly all of its time: three where the similarities of the forward pass are kept for the backward pass, four
where they are computed again. It keeps them for as many blocks as fit a fixed amount of memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from facezoo.margins.engines.driver import drive
from facezoo.margins.engines.kernel import Gradients, Partial, Problem
from facezoo.margins.engines.sinks import GradientSink
from facezoo.margins.engines.statistics import ClassStatistics
from facezoo.ops.negatives import negative_slope, negative_value

# A block of logits, N × this, should stay in the cache.
BLOCK_SIZE_CPU = 2048
BLOCK_SIZE_GPU = 8192
# Similarities that one forward pass keeps for its backward pass, bytes. Some millions of them: a batch of 256 against 200,000
# classes, one of 1,024 against 50,000.
KEPT_BYTES = 200 * 2**20


def chunked_statistics(features: Tensor, weight: Tensor, labels: Tensor, **arguments: Any) -> ClassStatistics:
    """Class statistics in blocks over the classes; see :class:`Engine`.

    Extra memory: 2·N·block and C numbers, and up to :data:`KEPT_BYTES` between the forward and the backward pass.

    No second derivatives.
    """
    return drive(TorchKernel(), features, weight, labels, **arguments)


class TorchKernel:
    """A :class:`~facezoo.margins.engines.kernel.Kernel` in PyTorch's own operations.

    The buffers for a block are kept from one block to the next, so that no block allocates.

    Args:
        kept_bytes: similarities to keep between the forward and the backward pass.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._kept: dict[int, Tensor] = {}  # similarities by the first class of the block
        self._bytes_left = kept_bytes

    def block_size(self, problem: Problem) -> int:
        """By device; for sub-centres as many rows."""
        size = BLOCK_SIZE_CPU if problem.features.device.type == "cpu" else BLOCK_SIZE_GPU
        return max(1, size // problem.centres_per_class)

    def reduce(self, problem: Problem, classes: slice, partial: Partial) -> None:
        """See :meth:`Kernel.reduce`."""
        form, reduction = problem.negatives.form, problem.negatives.reduction
        rows = _rows(problem, classes)
        centres, inverse = problem.centres(rows)
        if inverse is not None and problem.inverse is not None:
            problem.inverse[rows] = inverse
        scale = _column(problem.scale)
        kept = self._keep(problem, classes, len(centres))
        similarity = self._similarity(problem, centres, inverse, out=kept)
        if problem.centres_per_class > 1:
            similarity = similarity.view(len(similarity), -1, problem.centres_per_class).amax(2)
        if form == "identity":
            out = similarity if kept is None else self._matrix("logits", *similarity.shape, like=similarity)
            logits = torch.mul(similarity, scale, out=out)
        else:
            logits = negative_value(form, similarity, problem.coefficients).mul_(scale)
        if problem.offset is not None:
            logits += _column(problem.offset)
        if problem.bias is not None:
            logits += problem.bias[classes]
        if problem.with_total:
            _set_target(logits, problem.labels, classes, 0.0)
            partial.total += logits.sum(1)
        _set_target(logits, problem.labels, classes, 0.0 if reduction == "square" else -math.inf)
        if reduction == "square":
            partial.summed += logits.square_().sum(1)
        elif reduction == "softplus":
            # The threshold is where softplus may turn linear: 20, its default, is too early for float64.
            partial.summed += F.softplus(logits, threshold=50.0).sum(1)
        else:
            if problem.shift is None:
                raised = torch.maximum(partial.maximum, logits.amax(1))
                partial.summed *= torch.exp(partial.maximum - raised)
                partial.maximum = raised
                logits -= raised[:, None]
            elif problem.shift:
                logits -= problem.shift
            partial.summed += logits.exp_().sum(1)

    def accumulate(self, problem: Problem, classes: slice, gradients: Gradients, sink: GradientSink | None) -> None:
        """See :meth:`Kernel.accumulate`."""
        rows = _rows(problem, classes)
        if problem.inverse is None:
            centres, inverse = problem.centres(rows)
        else:
            centres, inverse = problem.rows[rows].to(problem.features.dtype), problem.inverse[rows]
        similarity = self._kept.pop(classes.start, None)
        if similarity is None:
            similarity = self._similarity(problem, centres, inverse, out=None)
        if problem.centres_per_class == 1:
            grad = self._grad(problem, classes, similarity, gradients)
        else:
            nearest, index = similarity.view(len(similarity), -1, problem.centres_per_class).max(2, keepdim=True)
            grad = self._grad(problem, classes, nearest[..., 0], gradients)
            spread = similarity.new_zeros(len(similarity), len(grad[0]), problem.centres_per_class)
            grad = spread.scatter_(2, index, grad[..., None]).flatten(1)
        along = None
        if inverse is not None:
            along = similarity.mul_(grad).sum(0)  # ŵ · ∂loss/∂ŵ
            along *= inverse.square()
            grad *= inverse
        if gradients.features is not None:
            gradients.features.addmm_(grad, centres)
        if sink is not None:
            product = sink.buffer(rows, grad.dtype)
            product = torch.mm(grad.T, problem.features, out=product)
            if along is not None:  # of the gradient only the part across w_j reaches w_j
                product.addcmul_(centres, along[:, None], value=-1.0)
            sink.accept(rows, product if problem.memory is None else problem.through_memory(rows, product))

    def _grad(self, problem: Problem, classes: slice, similarity: Tensor, gradients: Gradients) -> Tensor:
        """G of a block, ``(N, classes)``."""
        form, reduction = problem.negatives.form, problem.negatives.reduction
        value = negative_value(form, similarity, problem.coefficients)
        start = None if problem.offset is None else _column(problem.offset)
        if reduction == "logsumexp":
            reduced = gradients.reduced[:, None]
            start = -reduced if start is None else start - reduced
        out = self._matrix("logits", *similarity.shape, like=similarity)
        if problem.scale_value is not None and start is not None:
            # One pass. (addcmul with the scale as a tensor is one pass too, but four times as slow: it is not vectorised.)
            grad = torch.add(start, value, alpha=problem.scale_value, out=out)
        else:
            grad = torch.mul(value, _column(problem.scale), out=out)
            if start is not None:
                grad += start
        if problem.bias is not None:
            grad += problem.bias[classes]
        if reduction == "logsumexp":
            grad.exp_()
        elif reduction == "softplus":
            grad.sigmoid_()
        else:
            grad *= 2.0
        weights = gradients.negatives
        by_logit = (gradients.total, gradients.scale, gradients.offset, gradients.bias)
        if all(x is None for x in by_logit):
            grad *= (weights * problem.scale)[:, None]
        else:
            # ∂loss/∂z first, for what is a sum of it, and with zeros in the own class's column.
            grad *= weights[:, None]
            if gradients.total is not None:
                grad += gradients.total[:, None]
            _set_target(grad, problem.labels, classes, 0.0)
            if gradients.scale is not None:
                gradients.scale += (grad * value).sum(1)
            if gradients.offset is not None:
                gradients.offset += grad.sum(1)
            if gradients.bias is not None:
                gradients.bias[classes] = grad.sum(0)
            grad *= _column(problem.scale)
        if form != "identity":
            grad *= negative_slope(form, similarity, problem.coefficients)
        _set_target(grad, problem.labels, classes, gradients.target)
        return grad

    def _keep(self, problem: Problem, classes: slice, centres: int) -> Tensor | None:
        """Memory for this block's similarities until the backward pass; None if that would be too much, or for nothing."""
        size = len(problem.features) * centres * problem.features.element_size()
        if not problem.will_differentiate or size > self._bytes_left:
            return None
        self._bytes_left -= size
        self._kept[classes.start] = problem.features.new_empty(len(problem.features), centres)
        return self._kept[classes.start]

    def _similarity(self, problem: Problem, centres: Tensor, inverse: Tensor | None, *, out: Tensor | None) -> Tensor:
        """``features·centreᵀ``, ``(N, centres)``, in ``out`` or in memory that the next block uses again."""
        features = problem.features
        if out is None:
            out = self._matrix("similarity", len(features), len(centres), like=features)
        similarity = torch.mm(features, centres.T, out=out)
        if inverse is not None:
            similarity *= inverse
        return similarity

    def _matrix(self, name: str, rows: int, columns: int, *, like: Tensor) -> Tensor:
        """A contiguous matrix in memory that the next block uses again; the first block is the widest."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < rows * columns:
            buffer = self._buffers[name] = like.new_empty(rows * columns)
        return buffer[: rows * columns].view(rows, columns)


def _rows(problem: Problem, classes: slice) -> slice:
    return slice(classes.start * problem.centres_per_class, classes.stop * problem.centres_per_class)


def _column(x: Tensor) -> Tensor:
    """Per sample as a column; a 0-dimensional tensor as it is."""
    return x[..., None] if x.dim() == 1 else x


def _set_target(matrix: Tensor, labels: Tensor, classes: slice, value: float | Tensor) -> None:
    """Write ``value`` into the own class's column of each row whose class lies in the block. No device sync."""
    column = labels - classes.start
    inside = (column >= 0) & (column < matrix.shape[1])
    column = column.clamp(0, matrix.shape[1] - 1)[:, None]
    present = matrix.gather(1, column)
    if isinstance(value, Tensor):
        present = torch.where(inside[:, None], value[:, None], present)
    else:
        present.masked_fill_(inside[:, None], value)
    matrix.scatter_(1, column, present)
