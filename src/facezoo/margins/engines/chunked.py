"""The chunked engine: exact, in plain PyTorch, in blocks of classes with block × N logits at a time.

Matrix products take nearly all of its time: three if the similarities of the forward pass are kept for the backward pass, four if
they are recomputed. It keeps them for as many blocks as fit into a fixed amount of memory.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from facezoo.margins.engines.driver import drive
from facezoo.margins.engines.kernel import Gradients, Partial, Work
from facezoo.margins.engines.problem import ClassStatistics, Problem
from facezoo.margins.engines.sinks import GradientSink
from facezoo.margins.engines.workspace import Workspace

# A block of logits, this × N, should fit into the cache.
BLOCK_SIZE_CPU = 2048
BLOCK_SIZE_GPU = 8192
# Memory that one forward pass keeps for its backward pass. It is enough for a batch of 256 and 180,000 classes; autograd would
# need about eight times as much.
KEPT_BYTES = 176 * 2**20
WORKSPACE = Workspace()


def chunked_statistics(problem: Problem) -> ClassStatistics:
    """Class statistics in blocks over the classes.

    Extra memory: 2·N·block and C numbers, and up to :data:`KEPT_BYTES` between the forward and the backward pass.

    No second derivatives.
    """
    return drive(TorchKernel(), problem)


class TorchKernel:
    """A :class:`~facezoo.margins.engines.kernel.Kernel` in PyTorch's own operations.

    A block is a matrix ``(classes, N)``, because BLAS is faster in this orientation. The buffers of a block are reused for the
    next, so that no block allocates memory.

    The common case, a softmax of bounded logits without offsets, has a short cut. It keeps the exponentials ``e = exp(z)``
    instead of the similarities: ``∂loss/∂z_ij = e_ij · (∂loss/∂negatives_i / Σ e_i)`` is one product per number, and
    ``ŵ·∂loss/∂ŵ``, which the backward pass through the normalization needs, follows from the gradient of the centers.

    Args:
        kept_bytes: similarities or exponentials to keep between the forward and the backward pass; None for
            :data:`KEPT_BYTES`.
    """

    def __init__(self, kept_bytes: int | None = None) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._kept_bytes = KEPT_BYTES if kept_bytes is None else kept_bytes
        self._memory: Tensor | None = None  # of all that is kept
        self._used = 0
        self._kept: dict[int, Tensor] = {}  # by the first class of the block

    def block_size(self, work: Work) -> int:
        """By device; for sub-centers as many rows."""
        size = BLOCK_SIZE_CPU if work.features.device.type == "cpu" else BLOCK_SIZE_GPU
        return max(1, size // work.centers_per_class)

    def reduce(self, work: Work, classes: slice, partial: Partial) -> None:
        """See :meth:`Kernel.reduce`."""
        negatives, reduction = work.negatives, work.negatives.reduction
        rows = _rows(work, classes)
        centers, inverse = work.centers(rows)
        if inverse is not None and work.inverse is not None:
            work.inverse[rows] = inverse
        kept = self._keep(work, classes, len(centers))
        if _is_short(work):
            exponentials = self._exponentials(work, centers, inverse, out=kept)
            _set_target(exponentials, work.labels, classes, 0.0)
            partial.summed += exponentials.sum(0)
            return
        similarity = self._similarity(work, centers, inverse, out=kept)
        if work.centers_per_class > 1:
            similarity = similarity.view(-1, work.centers_per_class, similarity.shape[1]).amax(1)
        if negatives.is_identity:
            out = similarity if kept is None else self._matrix("logits", *similarity.shape, like=similarity)
            logits = torch.mul(similarity, work.scale, out=out)
        else:
            logits = negatives.value(similarity, work.coefficients).mul_(work.scale)
        if work.offset is not None:
            logits += work.offset
        if work.bias is not None:
            logits += work.bias[classes, None]
        if work.with_total:
            _set_target(logits, work.labels, classes, 0.0)
            partial.total += logits.sum(0)
        _set_target(logits, work.labels, classes, 0.0 if reduction == "square" else -math.inf)
        if reduction == "square":
            partial.summed += logits.square_().sum(0)
        elif reduction == "softplus":
            # Above the threshold softplus becomes linear; its default of 20 is too low for float64.
            partial.summed += F.softplus(logits, threshold=50.0).sum(0)
        else:
            if work.shift is None:
                raised = torch.maximum(partial.maximum, logits.amax(0))
                partial.summed *= torch.exp(partial.maximum - raised)
                partial.maximum = raised
                logits -= raised
            elif work.shift:
                logits -= work.shift
            partial.summed += logits.exp_().sum(0)

    def accumulate(self, work: Work, classes: slice, gradients: Gradients, sink: GradientSink | None) -> None:
        """See :meth:`Kernel.accumulate`."""
        self._accumulate(work, classes, gradients, sink)
        self._release()

    def _accumulate(self, work: Work, classes: slice, gradients: Gradients, sink: GradientSink | None) -> None:
        rows = _rows(work, classes)
        if work.inverse is None:
            centers, inverse = work.centers(rows)
        else:
            centers, inverse = work.rows[rows].to(work.features.dtype), work.inverse[rows]
        kept = self._kept.pop(classes.start, None)
        along = None  # ŵ · ∂loss/∂ŵ
        if _is_short(work):
            grad = self._exponentials(work, centers, inverse, out=None) if kept is None else kept
            grad *= torch.exp(-gradients.reduced) * gradients.negatives * work.scale
            _set_target(grad, work.labels, classes, gradients.target)
        else:
            similarity = self._similarity(work, centers, inverse, out=None) if kept is None else kept
            grad = self._grad_of_centers(work, classes, similarity, gradients)
            if inverse is not None and sink is not None:
                along = similarity.mul_(grad).sum(1)
        if inverse is not None:
            grad *= inverse[:, None]
        if gradients.features is not None:
            gradients.features.addmm_(grad.T, centers)
        if sink is None:
            return
        product = torch.mm(grad, work.features, out=sink.buffer(rows, grad.dtype))
        if inverse is not None:  # only the part of the gradient perpendicular to w_j reaches w_j
            if along is None:
                along = torch.linalg.vecdot(product, centers)
            along *= inverse.square()
            product.addcmul_(centers, along[:, None], value=-1.0)
        sink.accept(rows, product if work.memory is None else work.through_memory(rows, product))

    def _grad_of_centers(self, work: Work, classes: slice, similarity: Tensor, gradients: Gradients) -> Tensor:
        """∂loss/∂similarity of a block, ``(centers, N)``: G; of several sub-centers only the nearest gets it."""
        per_class = work.centers_per_class
        if per_class == 1:
            return self._grad(work, classes, similarity, gradients)
        nearest, index = similarity.view(-1, per_class, similarity.shape[1]).max(1, keepdim=True)
        grad = self._grad(work, classes, nearest[:, 0], gradients)
        spread = similarity.new_zeros(len(grad), per_class, grad.shape[1])
        return spread.scatter_(1, index, grad[:, None]).flatten(0, 1)

    def _grad(self, work: Work, classes: slice, similarity: Tensor, gradients: Gradients) -> Tensor:
        """G of a block, ``(classes, N)``."""
        negatives, reduction = work.negatives, work.negatives.reduction
        value = negatives.value(similarity, work.coefficients)
        start = work.offset
        if reduction == "logsumexp":
            start = -gradients.reduced if start is None else start - gradients.reduced
        out = self._matrix("logits", *similarity.shape, like=similarity)
        if work.scale_value is not None and start is not None:
            # One pass over memory. (addcmul with a tensor as scale is also one pass, but not vectorized and four times slower.)
            grad = torch.add(start, value, alpha=work.scale_value, out=out)
        else:
            grad = torch.mul(value, work.scale, out=out)
            if start is not None:
                grad += start
        if work.bias is not None:
            grad += work.bias[classes, None]
        if reduction == "logsumexp":
            grad.exp_()
        elif reduction == "softplus":
            grad.sigmoid_()
        else:
            grad *= 2.0
        weights = gradients.negatives
        by_logit = (gradients.total, gradients.scale, gradients.offset, gradients.bias)
        if all(x is None for x in by_logit):
            grad *= weights * work.scale
        else:
            # First ∂loss/∂z, with zeros in the own class's row, for the sums over it.
            grad *= weights
            if gradients.total is not None:
                grad += gradients.total
            _set_target(grad, work.labels, classes, 0.0)
            if gradients.scale is not None:
                gradients.scale += (grad * value).sum(0)
            if gradients.offset is not None:
                gradients.offset += grad.sum(0)
            if gradients.bias is not None:
                gradients.bias[classes] = grad.sum(1)
            grad *= work.scale
        if not negatives.is_identity:
            grad *= negatives.slope(similarity, work.coefficients)
        _set_target(grad, work.labels, classes, gradients.target)
        return grad

    def _keep(self, work: Work, classes: slice, centers: int) -> Tensor | None:
        """Memory for this block's matrix until the backward pass; None if it would be too much or there is no backward pass."""
        if not work.will_differentiate:
            return None
        features = work.features
        if self._memory is None:
            most = self._kept_bytes // features.element_size()
            self._memory = WORKSPACE.take(min(most, len(work.rows) * len(features)), features)
        start, stop = self._used, self._used + centers * len(features)
        if stop > len(self._memory):
            return None
        self._used = stop
        self._kept[classes.start] = self._memory[start:stop].view(centers, len(features))
        return self._kept[classes.start]

    def _release(self) -> None:
        """Release the memory for the next step, once the backward pass has used everything."""
        if self._memory is not None and not self._kept:
            WORKSPACE.give_back(self._memory)
            self._memory = None

    def _similarity(
        self, work: Work, centers: Tensor, inverse: Tensor | None, *, out: Tensor | None, scale: float = 1.0
    ) -> Tensor:
        """``scale · center·featuresᵀ``, ``(centers, N)``, in ``out`` or in memory that the next block uses again."""
        features = work.features
        if out is None:
            out = self._matrix("similarity", len(centers), len(features), like=features)
        similarity = torch.mm(centers, features.T, out=out)
        if inverse is not None:
            similarity *= (inverse * scale)[:, None]
        return similarity

    def _exponentials(self, work: Work, centers: Tensor, inverse: Tensor | None, *, out: Tensor | None) -> Tensor:
        """exp(z), ``(classes, N)``, own classes included, where the memory is as in :meth:`_similarity`."""
        assert work.scale_value is not None
        return self._similarity(work, centers, inverse, out=out, scale=work.scale_value).exp_()

    def _matrix(self, name: str, rows: int, columns: int, *, like: Tensor) -> Tensor:
        """A contiguous matrix in memory that the next block uses again; the first block is the widest."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < rows * columns:
            buffer = self._buffers[name] = like.new_empty(rows * columns)
        return buffer[: rows * columns].view(rows, columns)


def _is_short(work: Work) -> bool:
    """Whether exp(z) can neither overflow nor underflow, and both passes need nothing else of the similarities."""
    return (
        work.is_plain_softmax
        and work.shift == 0.0  # which excludes offset and bias
        and work.scale_value is not None
        and work.centers_per_class == 1
        and not work.with_total
    )


def _rows(work: Work, classes: slice) -> slice:
    return slice(classes.start * work.centers_per_class, classes.stop * work.centers_per_class)


def _set_target(matrix: Tensor, labels: Tensor, classes: slice, value: float | Tensor) -> None:
    """Write ``value`` into the own class's row of each sample whose class lies in the block. No device sync."""
    row = labels - classes.start
    inside = (row >= 0) & (row < len(matrix))
    row = row.clamp(0, len(matrix) - 1)[None]
    present = matrix.gather(0, row)
    if isinstance(value, Tensor):
        present = torch.where(inside, value, present)
    else:
        present.masked_fill_(inside, value)
    matrix.scatter_(0, row, present)
