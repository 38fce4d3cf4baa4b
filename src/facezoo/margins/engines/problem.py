"""The interface between margins, which use N numbers, and engines, which use N × C: a problem and its statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from facezoo.margins.engines.collective import SINGLE_PROCESS, Collective
from facezoo.margins.engines.sinks import DenseGradient, SinkFactory
from facezoo.margins.negatives import PLAIN, Coefficients, Negatives

# Computes thresholds and factors of the negatives from the target similarities, (N,), of the whole batch. Called once, without
# gradient; the head advances the margin's running state in it.
Prepare = Callable[[Tensor], Coefficients]


@dataclass(frozen=True)
class Memory:
    """Stored features, mixed into the class centers: row j is ``(1 - share_j)·ŵ_j + share_j·features_j``, normalized again.

    Attributes:
        features: of length 1 (or 0), ``(C, D)``; constant in the backward pass.
        share: in [0, 1], ``(C,)``; 0 for a class without a fresh feature.
    """

    features: Tensor
    share: Tensor


@dataclass(frozen=True)
class Problem:
    """One batch and the class centers of one process: the input of an engine.

    Attributes:
        features: ``(N, D)``, float32 or float64; of length 1 or 0 if ``normalize``.
        weight: class centers as the head stores them, ``(C, D)``, or ``(C, K, D)`` with K sub-centers per class: the similarity
            with a class is the largest of its K.
        labels: int64, row of ``weight`` of the sample's class, or -1 if that class is not among the rows, ``(N,)``.
        scale: a positive number, or a tensor, 0-dimensional or ``(N,)``.
        scale_bound: an upper bound of ``scale``, if it is a tensor and a bound is known.
        offset: added to every logit, 0-dimensional or ``(N,)``.
        bias: added to the logits of a class, ``(C,)``.
        normalize: divide each center by its length.
        negatives: form and reduction of the other classes.
        prepare: computes the coefficients of ``negatives``; None if it needs only its constants.
        memory: stored features to mix into the centers.
        with_total: compute ``total`` too.
        block_size: classes per block, for engines that work in blocks; None lets the engine choose.
        collective: combines the results of several processes that have a part of the classes each.
        make_sink: receives the gradient of the centers, see :class:`~facezoo.margins.engines.sinks.GradientSink`.
    """

    features: Tensor
    weight: Tensor
    labels: Tensor
    scale: float | Tensor
    scale_bound: float | None = None
    offset: Tensor | None = None
    bias: Tensor | None = None
    normalize: bool = True
    negatives: Negatives = PLAIN
    prepare: Prepare | None = None
    memory: Memory | None = None
    with_total: bool = False
    block_size: int | None = None
    collective: Collective = SINGLE_PROCESS
    make_sink: SinkFactory = DenseGradient


class ClassStatistics(NamedTuple):
    """The statistics of the C classes that a loss needs.

    Attributes:
        target: similarity ``x_i·w_y`` with the own center (a cosine, if the engine normalizes; that of the nearest sub-center),
            ``(N,)``.
        negatives: the reduction of ``z_ij`` over j ≠ y, ``(N,)``. For ``"logsumexp"`` -inf if there is no other class.
        total: ``Σ_{j≠y} z_ij``, ``(N,)``; None unless requested (label smoothing needs it).
    """

    target: Tensor
    negatives: Tensor
    total: Tensor | None


# An engine computes the statistics of a problem, differentiable in features, weight, scale, offset and bias. The head applies the
# margin to `target` with ordinary autograd, on N numbers, and an engine's backward pass receives ∂loss/∂target and
# ∂loss/∂negatives. So every engine supports every margin without knowing its formula.
Engine = Callable[[Problem], ClassStatistics]
