"""The driver of the memory-saving engines: one autograd function around a :class:`~facezoo.margins.engines.kernel.Kernel`.

Forward: target similarity of each sample from its own center; thresholds from it; the reduction over the other classes, block by
block. Backward: each block's logits are recomputed and give ``G = ∂loss/∂c``, from which follow the gradients of the features
and of the block's centers; a sink takes the latter. This needs four matrix products instead of three, but no N × C matrix. The
idea is that of Cut Cross-Entropy (2411.09009) without its filter, which is not safe with a scale of 64.

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

from facezoo.margins.engines.collective import Collective
from facezoo.margins.engines.kernel import Gradients, Kernel, Partial, Work
from facezoo.margins.engines.problem import ClassStatistics, Memory, Prepare, Problem
from facezoo.margins.engines.sinks import SinkFactory
from facezoo.margins.negatives import Coefficients, Negatives

# |z| ≤ scale·bound. exp(z - shift) with shift = max(0, scale·bound - 64) neither overflows in float32 (e^64 · 1e10 classes
# < 3e38) nor underflows (e^-86) up to this size, so no maximum is needed. Beyond it, or if the bound is unknown, each row's
# running maximum is the shift: a fixed shift would lose all negatives of a row far below the bound.
_LARGEST_BOUND_OF_FIXED_SHIFT = 75.0
_HEADROOM = 64.0


@dataclass(frozen=True)
class _Setting:
    """Non-tensor arguments."""

    kernel: Kernel
    scale_value: float | None
    shift: float | None
    normalize: bool
    negatives: Negatives
    prepare: Prepare | None
    memory: Memory | None
    with_total: bool
    block_size: int | None
    collective: Collective
    make_sink: SinkFactory


def drive(kernel: Kernel, problem: Problem) -> ClassStatistics:
    """The class statistics of ``problem``, by ``kernel``."""
    scale, scale_bound, scale_value = problem.scale, problem.scale_bound, None
    if not isinstance(scale, Tensor):
        scale_bound = scale_value = scale
        scale = problem.features.new_full((), scale)
    shift, largest = None, problem.negatives.bound
    bounded = problem.normalize and problem.bias is None and problem.offset is None
    if bounded and scale_bound is not None and largest is not None:
        bound = scale_bound * largest
        shift = max(0.0, bound - _HEADROOM) if bound <= _LARGEST_BOUND_OF_FIXED_SHIFT else None
    setting = _Setting(
        kernel, scale_value, shift, problem.normalize, problem.negatives, problem.prepare, problem.memory,
        problem.with_total, problem.block_size, problem.collective, problem.make_sink,
    )  # fmt: skip
    run = _ClassReduction.apply
    if torch.compiler.is_compiling():
        # torch.compile would unroll the loop over the blocks and take minutes. The wrapper is not created at import because this
        # loads torch._dynamo, which takes seconds.
        run = torch.compiler.disable(run)
    target, reduced, total = run(
        problem.features, problem.weight, scale, problem.offset, problem.bias, problem.labels, setting
    )
    return ClassStatistics(target, reduced, total if problem.with_total else None)


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
        work = _work((features.contiguous(), weight.contiguous(), labels, scale, offset, bias), setting)
        work.will_differentiate = any(ctx.needs_input_grad)
        if setting.normalize and setting.memory is None:
            work.inverse = features.new_empty(work.rows.shape[0])
        target = _own_similarity(work)
        if setting.prepare is not None:
            (target,) = setting.collective.sum(target)
            threshold, factor = setting.prepare(target)
            work.coefficients = Coefficients(*(None if x is None else x.detach() for x in (threshold, factor)))
        partial = _first_partial(work)
        block_size = setting.block_size or setting.kernel.block_size(work)
        for classes in _blocks(work.classes, block_size):
            setting.kernel.reduce(work, classes, partial)
        target, reduced, total = _joined(work, target, partial, setting)
        memory = work.memory
        ctx.save_for_backward(
            *(work.features, work.weight, labels, scale, offset, bias),
            *(work.inverse, reduced, *work.coefficients),
            *((None, None) if memory is None else (memory.features, memory.share)),
        )
        ctx.setting, ctx.block_size = setting, block_size
        return target, reduced, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_target: Tensor, grad_reduced: Tensor, grad_total: Tensor) -> tuple[Tensor | None, ...]:
        setting: _Setting = ctx.setting
        need_features, need_weight, need_scale, need_offset, need_bias = ctx.needs_input_grad[:5]
        *inputs, inverse, reduced, threshold, factor, stored, share = ctx.saved_tensors
        work = _work(tuple(inputs), setting)
        work.inverse, work.coefficients = inverse, Coefficients(threshold, factor)
        work.memory = None if stored is None else Memory(stored, share)
        features, weight, scale, offset, bias = work.features, work.weight, work.scale, work.offset, work.bias
        gradients = Gradients(
            target=grad_target.contiguous(),
            negatives=grad_reduced.contiguous(),
            total=grad_total.contiguous() if setting.with_total else None,
            reduced=reduced.masked_fill(reduced == -math.inf, math.inf),  # no negatives: exp(z - reduced) = 0, not NaN
            features=torch.zeros_like(features) if need_features else None,
            scale=features.new_zeros(len(features)) if need_scale else None,
            offset=features.new_zeros(len(features)) if need_offset else None,
            bias=torch.empty_like(bias) if need_bias and bias is not None else None,
        )
        sink = setting.make_sink(weight) if need_weight else None
        # A backward pass runs in the autocast state of its caller.
        with torch.autocast(features.device.type, enabled=False):
            for classes in _blocks(work.classes, ctx.block_size):
                setting.kernel.accumulate(work, classes, gradients, sink)
        # Per-sample numbers are complete on every process; ∂loss/∂features is this process's part of a sum, see Collective.
        grad_scale, grad_offset = (
            None if gradient is None or like is None else setting.collective.sum(gradient)[0].sum_to_size(like.shape)
            for gradient, like in ((gradients.scale, scale), (gradients.offset, offset))
        )
        grad_weight = None if sink is None else sink.result()
        return gradients.features, grad_weight, grad_scale, grad_offset, gradients.bias, None, None


def _work(tensors: tuple[Any, ...], setting: _Setting) -> Work:
    """The input of the kernel, from ``(features, weight, labels, scale, offset, bias)`` and the setting."""
    features, weight, labels, scale, offset, bias = tensors
    return Work(
        features=features,
        weight=weight,
        labels=labels,
        scale=scale,
        scale_value=setting.scale_value,
        offset=offset,
        bias=bias,
        normalize=setting.normalize,
        negatives=setting.negatives,
        coefficients=Coefficients(),
        memory=setting.memory,
        with_total=setting.with_total,
        shift=setting.shift,
        inverse=None,
    )


def _first_partial(work: Work) -> Partial:
    """The sums before the first block."""
    samples = len(work.features)
    start = torch.finfo(work.features.dtype).min if work.shift is None else work.shift
    return Partial(
        summed=work.features.new_zeros(samples),
        maximum=work.features.new_full((samples,), start),
        total=work.features.new_zeros(samples if work.with_total else 0),
    )


def _joined(work: Work, target: Tensor, partial: Partial, setting: _Setting) -> tuple[Tensor, Tensor, Tensor]:
    """``(target, negatives, total)`` over the classes of all processes."""
    collective, softmax = setting.collective, work.negatives.reduction == "logsumexp"
    reduced, total, maximum = partial.summed, partial.total, partial.maximum
    if softmax and work.shift is None:
        maximum = collective.max(maximum.clone())
        reduced = reduced * torch.exp(partial.maximum - maximum)
    if setting.prepare is None:
        target, reduced, total = collective.sum(target, reduced, total)
    else:
        reduced, total = collective.sum(reduced, total)
    return target, reduced.log() + maximum if softmax else reduced, total


def _own_similarity(work: Work) -> Tensor:
    """Similarity with the own center (the nearest of its sub-centers), 0 where the class is not among the rows, ``(N,)``."""
    samples, per_class = len(work.labels), work.centers_per_class
    if work.classes == 0:  # more processes than classes
        return work.features.new_zeros(samples)
    own = work.labels.clamp_min(0)[:, None] * per_class + torch.arange(per_class, device=work.labels.device)
    centers, inverse = work.centers(own.flatten())
    similarity = (work.features[:, None, :] * centers.view(samples, per_class, -1)).sum(2)
    if inverse is not None:
        similarity = similarity * inverse.view(samples, per_class)
    return similarity.amax(1).masked_fill(work.labels < 0, 0.0)


def _blocks(classes: int, block_size: int) -> Iterator[slice]:
    return (slice(start, min(start + block_size, classes)) for start in range(0, classes, block_size))
