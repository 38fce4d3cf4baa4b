"""The inner loop of a memory-saving engine: its inputs, its sums, and the interface of a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from facezoo.margins.engines.problem import Memory
from facezoo.margins.engines.sinks import GradientSink
from facezoo.margins.negatives import Coefficients, Negatives
from facezoo.ops.margin import ZERO_NORM


@dataclass
class Work:
    """The input of a kernel, used in the forward and the backward pass.

    Attributes:
        features: ``(N, D)``, contiguous, float32 or float64: the dtype of all arithmetic.
        weight: ``(C, D)`` or ``(C, K, D)``, contiguous, any floating dtype.
        labels: row of ``weight`` (its first dimension) or -1, ``(N,)``.
        scale: 0-dimensional or ``(N,)``, in the dtype of ``features``.
        scale_value: the scale as a number, if known on the host.
        offset: like ``scale``, or None.
        bias: ``(C,)`` or None.
        normalize: divide each center by its length.
        negatives: form and reduction.
        coefficients: of the form; its threshold is ``(N,)``.
        memory: stored features to mix into the centers, or None.
        with_total: whether the sum of the logits is needed.
        shift: subtracted from every logit before exp, in place of a maximum: \\|z\\| is bounded; None where it is not.
        inverse: 1 / ‖w‖ of each row of ``rows`` (0 for a row without direction), ``(C·K,)``; written by ``reduce``, read by
            ``accumulate``; None unless ``normalize`` and without memory.
        will_differentiate: whether a backward pass may follow, so that a kernel may keep tensors for it.
    """

    features: Tensor
    weight: Tensor
    labels: Tensor
    scale: Tensor
    scale_value: float | None
    offset: Tensor | None
    bias: Tensor | None
    normalize: bool
    negatives: Negatives
    coefficients: Coefficients
    memory: Memory | None
    with_total: bool
    shift: float | None
    inverse: Tensor | None
    will_differentiate: bool = True

    @property
    def classes(self) -> int:
        """C."""
        return self.weight.shape[0]

    @property
    def centers_per_class(self) -> int:
        """K."""
        return self.weight.shape[1] if self.weight.dim() == 3 else 1

    @property
    def rows(self) -> Tensor:
        """All centers, ``(C·K, D)``; those of a class are adjacent."""
        return self.weight.view(-1, self.weight.shape[-1])

    @property
    def is_plain_softmax(self) -> bool:
        """Whether logits are affine in the similarity and reduced by log-sum-exp; this case has a short cut."""
        return self.negatives.is_identity and self.negatives.reduction == "logsumexp"

    def centers(self, rows: slice | Tensor) -> tuple[Tensor, Tensor | None]:
        """Some centers in the dtype of the arithmetic, and 1 / their lengths (None unless ``normalize``).

        With a memory these are the mixed centers, not yet normalized.
        """
        centers = self.rows[rows].to(self.features.dtype)
        if not self.normalize:
            return centers, None
        inverse = inverse_length(centers)
        if self.memory is None:
            return centers, inverse
        centers = centers * inverse[:, None]
        share = self.memory.share[rows].to(centers.dtype)[:, None]
        centers = torch.lerp(centers, self.memory.features[rows].to(centers.dtype), share)
        return centers, inverse_length(centers)

    def through_memory(self, rows: slice, gradient: Tensor) -> Tensor:
        """Convert the gradient of the mixed centers of :meth:`centers` to that of the rows of ``weight``."""
        assert self.memory is not None
        weight = self.rows[rows].to(gradient.dtype)
        inverse = inverse_length(weight)[:, None]
        unit = weight * inverse
        gradient = gradient * (1.0 - self.memory.share[rows].to(gradient.dtype))[:, None]
        return (gradient - unit * (unit * gradient).sum(1, keepdim=True)) * inverse


@dataclass
class Partial:
    """Results of the forward pass so far, each ``(N,)``.

    Attributes:
        summed: ``Σ exp(z - maximum)``, ``Σ softplus(z)`` or ``Σ z²``, by the reduction.
        maximum: the largest logit so far, or the shift of the work. Read and written for ``"logsumexp"`` only.
        total: ``Σ z``; of length 0 unless needed.
    """

    summed: Tensor
    maximum: Tensor
    total: Tensor


@dataclass
class Gradients:
    """The inputs and the sums of the backward pass.

    Attributes:
        target: ∂loss/∂target, ``(N,)``.
        negatives: ∂loss/∂negatives, ``(N,)``.
        total: ∂loss/∂total, ``(N,)``; None unless it is needed.
        reduced: the negatives of the forward pass over all processes, ``(N,)``, so that ``exp(z - reduced)`` is the softmax among
            the other classes; +inf if there is none.
        features: ``+= G·Ŵ``, ``(N, D)``; None if not needed, like the next three.
        scale: ``+= Σ_j ∂loss/∂z_ij · ν_ij``, ``(N,)``.
        offset: ``+= Σ_j ∂loss/∂z_ij``, ``(N,)``.
        bias: ``= Σ_i ∂loss/∂z_ij``, ``(C,)``.
    """

    target: Tensor
    negatives: Tensor
    total: Tensor | None
    reduced: Tensor
    features: Tensor | None
    scale: Tensor | None
    offset: Tensor | None
    bias: Tensor | None


class Kernel(Protocol):
    """Forward and backward computation on a block of classes. The blocks are in order and cover all classes once."""

    def block_size(self, work: Work) -> int:
        """A suitable number of classes per block."""
        ...

    def reduce(self, work: Work, classes: slice, partial: Partial) -> None:
        """Add the logits of these classes, without each sample's own class, to ``partial``."""
        ...

    def accumulate(self, work: Work, classes: slice, gradients: Gradients, sink: GradientSink | None) -> None:
        """Recompute the logits, compute G, and add this block's part to ``gradients`` and ``sink``.

        ``G_ij = ∂loss/∂c_ij``, ``(N, classes)``: for j ≠ y it is ``scale_i · ∂loss/∂z_ij · slope``, and in the own class's column
        ``gradients.target``. Then ``features += G·Ŵ``, and the rows of the sink are ``(Gᵀ·X - ŵ(ŵ·Gᵀ·X)) / ‖w‖`` (``Gᵀ·X``
        unless ``normalize``). The sink is None if the weight needs no gradient.
        """
        ...


def inverse_length(centers: Tensor) -> Tensor:
    """1 / ‖row‖, 0 for a row without direction."""
    norm = torch.linalg.vector_norm(centers, dim=1)
    return norm.masked_fill_(norm <= ZERO_NORM, math.inf).reciprocal_()
