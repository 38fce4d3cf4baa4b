"""The contract between the margins, which see N numbers, and the engines, which see N × C: a problem, and its statistics."""

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
    """One batch against the class centers of one process: all that an engine is given.

    Attributes:
        features: ``(N, D)``, float32 or float64; of length 1 or 0 if ``normalize``.
        weight: class centers as the head stores them, ``(C, D)``, or ``(C, K, D)`` with K sub-centers per class: the similarity
            with a class is the largest of its K.
        labels: int64, row of ``weight`` that is the sample's class, or -1 where that class is not among the rows, ``(N,)``.
        scale: a positive number, or a tensor, 0-dimensional or ``(N,)``.
        scale_bound: a number that ``scale`` does not exceed, where it is a tensor and such a number is known.
        offset: added to every logit, 0-dimensional or ``(N,)``.
        bias: added to the logits of a class, ``(C,)``.
        normalize: divide each center by its length.
        negatives: how the other classes enter.
        prepare: makes the coefficients of ``negatives``; None if it needs no more than its constants.
        memory: stored features to mix into the centers.
        with_total: compute ``total`` too.
        block_size: classes per block, for engines that work in blocks; None lets the engine choose.
        collective: joins the results of several processes that hold a part of the classes each.
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
    """All that a loss needs to know about the C classes.

    Attributes:
        target: similarity ``x_i·w_y`` with the own center (a cosine, if the engine normalizes; that of the nearest sub-center),
            ``(N,)``.
        negatives: the reduction of ``z_ij`` over j ≠ y, ``(N,)``. For ``"logsumexp"`` -inf where there is no other class.
        total: ``Σ_{j≠y} z_ij``, ``(N,)``; None unless it was asked for (label smoothing needs it).
    """

    target: Tensor
    negatives: Tensor
    total: Tensor | None


# A way to compute the statistics of a problem, differentiable in features, weight, scale, offset and bias. No margin appears here.
# The head puts the margin on `target` with ordinary autograd, on N numbers, and an engine's backward pass receives ∂loss/∂target
# and ∂loss/∂negatives; so every engine runs every margin, and none of them knows its formula.
Engine = Callable[[Problem], ClassStatistics]
