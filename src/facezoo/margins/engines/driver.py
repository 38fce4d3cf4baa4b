"""The driver of the memory-saving engines: one autograd function around a :class:`~facezoo.margins.engines.kernel.Kernel`.

Forward: target similarity of each sample from its own center; thresholds from it; the reduction over the other classes, block by
block. Backward: each block's logits are computed again and give ``G = ∂loss/∂c``, from which follow the gradients of the features
and of the block's centers, the latter handed to a sink. Four matrix products instead of three, no matrix of N × C. The idea is
that of Cut Cross-Entropy (2411.09009) without its filter, which is not safe with a scale of 64.

Saved for the backward pass: features, weight, labels, scale, offset, bias, 1/‖w‖ of the rows, the coefficients of the form, the
memory, and the N reduced numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from facezoo.margins.engines.collective import SINGLE_PROCESS, Collective
from facezoo.margins.engines.kernel import Gradients, Kernel, Partial, Problem
from facezoo.margins.engines.sinks import DenseGradient, SinkFactory
from facezoo.margins.engines.statistics import ClassStatistics, Memory, Negatives, Prepare
from facezoo.ops.negatives import Coefficients

# |z| ≤ scale·bound. exp(z - shift) with shift = max(0, scale·bound - 64) neither overflows in float32 (e^64 · 1e10 classes
# < 3e38) nor underflows (e^-86) up to this size, so no maximum has to be looked for. Beyond it, or where the bound is not known,
# each row's running maximum is the shift: a fixed one would lose every negative of a row that lies far below the bound.
_LARGEST_BOUND_OF_FIXED_SHIFT = 75.0
_HEADROOM = 64.0


@dataclass(frozen=True)
class _Setting:
    """All that is no tensor of the graph."""

    kernel: Kernel
    scale_value: float | None
    normalize: bool
    negatives: Negatives
    prepare: Prepare | None
    memory: Memory | None
    with_total: bool
    block_size: int | None
    shift: float | None
    collective: Collective
    make_sink: SinkFactory


def drive(
    kernel: Kernel,
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
    """Class statistics by ``kernel``; the other arguments are those of :class:`~facezoo.margins.engines.statistics.Engine`."""
    negatives = Negatives() if negatives is None else negatives
    scale_value = None
    if isinstance(scale, float):
        scale_bound = scale_value = scale
        scale = features.new_full((), scale)
    shift = None
    if normalize and bias is None and offset is None and scale_bound is not None and negatives.bound is not None:
        bound = scale_bound * negatives.bound
        shift = max(0.0, bound - _HEADROOM) if bound <= _LARGEST_BOUND_OF_FIXED_SHIFT else None
    setting = _Setting(
        kernel, scale_value, normalize, negatives, prepare, memory, with_total, block_size, shift, collective, make_sink
    )
    run = _ClassReduction.apply
    if torch.compiler.is_compiling():
        # A compiler would unroll the loop over the blocks, and take minutes over it. The wrapper is not made at import because
        # making it loads torch._dynamo, which takes seconds.
        run = torch.compiler.disable(run)
    target, reduced, total = run(features, weight, scale, offset, bias, labels, setting)
    return ClassStatistics(target, reduced, total if with_total else None)


class _ClassReduction(torch.autograd.Function):
    """``(features, weight, scale, offset, bias, labels, setting) -> (target, negatives, total)``."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        scale: Tensor,
        offset: Tensor | None,
        bias: Tensor | None,
        labels: Tensor,
        setting: _Setting,
    ) -> tuple[Tensor, Tensor, Tensor]:
        negatives, collective = setting.negatives, setting.collective
        problem = Problem(
            features=features.contiguous(),
            weight=weight.contiguous(),
            labels=labels,
            scale=scale,
            scale_value=setting.scale_value,
            offset=offset,
            bias=bias,
            normalize=setting.normalize,
            negatives=negatives,
            coefficients=Coefficients(a=negatives.a, b=negatives.b),
            memory=setting.memory,
            with_total=setting.with_total,
            shift=setting.shift,
            inverse=None,
            will_differentiate=any(ctx.needs_input_grad),
        )
        if setting.normalize and setting.memory is None:
            problem.inverse = features.new_empty(problem.rows.shape[0])
        target = _own_similarity(problem)
        if setting.prepare is not None:
            (target,) = collective.sum(target)
            problem.coefficients = _constants(setting.prepare(target), negatives)
        samples = len(features)
        partial = Partial(
            summed=features.new_zeros(samples),
            maximum=features.new_full(
                (samples,), torch.finfo(features.dtype).min if setting.shift is None else setting.shift
            ),
            total=features.new_zeros(samples if setting.with_total else 0),
        )
        block_size = setting.block_size or setting.kernel.block_size(problem)
        for classes in _blocks(problem.classes, block_size):
            setting.kernel.reduce(problem, classes, partial)
        reduced, total = partial.summed, partial.total
        maximum = partial.maximum
        if negatives.reduction == "logsumexp" and setting.shift is None:
            maximum = collective.max(maximum.clone())
            reduced = reduced * torch.exp(partial.maximum - maximum)
        if setting.prepare is None:
            target, reduced, total = collective.sum(target, reduced, total)
        else:
            reduced, total = collective.sum(reduced, total)
        if negatives.reduction == "logsumexp":
            reduced = reduced.log() + maximum
        coefficients, memory = problem.coefficients, problem.memory
        ctx.save_for_backward(
            problem.features,
            problem.weight,
            scale,
            offset,
            bias,
            labels,
            problem.inverse,
            reduced,
            coefficients.threshold,
            coefficients.factor,
            None if memory is None else memory.features,
            None if memory is None else memory.share,
        )
        ctx.setting, ctx.block_size = setting, block_size
        return target, reduced, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_target: Tensor, grad_reduced: Tensor, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        setting: _Setting = ctx.setting
        need_features, need_weight, need_scale, need_offset, need_bias = ctx.needs_input_grad[:5]
        features, weight, scale, offset, bias, labels, inverse, reduced, threshold, factor, stored, share = (
            ctx.saved_tensors
        )
        problem = Problem(
            features=features,
            weight=weight,
            labels=labels,
            scale=scale,
            scale_value=setting.scale_value,
            offset=offset,
            bias=bias,
            normalize=setting.normalize,
            negatives=setting.negatives,
            coefficients=Coefficients(threshold, factor, setting.negatives.a, setting.negatives.b),
            memory=None if stored is None else Memory(stored, share),
            with_total=setting.with_total,
            shift=setting.shift,
            inverse=inverse,
        )
        gradients = Gradients(
            target=grad_target.contiguous(),
            negatives=grad_reduced.contiguous(),
            total=grad_total.contiguous() if setting.with_total else None,
            reduced=reduced.masked_fill(reduced == -math.inf, math.inf),  # no negatives: exp(z - reduced) = 0, not NaN
            features=torch.zeros_like(features) if need_features else None,
            scale=features.new_zeros(len(features)) if need_scale else None,
            offset=features.new_zeros(len(features)) if need_offset else None,
            bias=torch.empty_like(bias) if need_bias else None,
        )
        sink = setting.make_sink(weight) if need_weight else None
        # A backward pass runs under the autocast state of whoever calls it.
        with torch.autocast(features.device.type, enabled=False):
            for classes in _blocks(problem.classes, ctx.block_size):
                setting.kernel.accumulate(problem, classes, gradients, sink)
        # Numbers per sample are whole on every process; ∂loss/∂features is this process's part of a sum, see Collective.
        grad_scale, grad_offset = (
            None if gradient is None else setting.collective.sum(gradient)[0].sum_to_size(like.shape)
            for gradient, like in ((gradients.scale, scale), (gradients.offset, offset))
        )
        grad_weight = None if sink is None else sink.result()
        return gradients.features, grad_weight, grad_scale, grad_offset, gradients.bias, None, None


def _own_similarity(problem: Problem) -> Tensor:
    """Similarity with the own center (the nearest of its sub-centers), 0 where the class is not among the rows, ``(N,)``."""
    samples, per_class = len(problem.labels), problem.centers_per_class
    if problem.classes == 0:  # more processes than there are classes for
        return problem.features.new_zeros(samples)
    own = problem.labels.clamp_min(0)[:, None] * per_class + torch.arange(per_class, device=problem.labels.device)
    centers, inverse = problem.centers(own.flatten())
    similarity = (problem.features[:, None, :] * centers.view(samples, per_class, -1)).sum(2)
    if inverse is not None:
        similarity = similarity * inverse.view(samples, per_class)
    return similarity.amax(1).masked_fill(problem.labels < 0, 0.0)


def _constants(coefficients: Coefficients, negatives: Negatives) -> Coefficients:
    """With the constants of the form, and nothing of it in a graph."""
    threshold, factor = (None if x is None else x.detach() for x in (coefficients.threshold, coefficients.factor))
    return Coefficients(threshold, factor, negatives.a, negatives.b)


def _blocks(classes: int, block_size: int) -> Iterator[slice]:
    return (slice(start, min(start + block_size, classes)) for start in range(0, classes, block_size))
