"""Engines: ways to reduce N × C logits to three numbers per sample. They agree in value and gradient, not in speed and memory.

- ``dense`` (:mod:`~facezoo.margins.engines.dense`): plain autograd over all logits, the yardstick.
- The others are a :class:`~facezoo.margins.engines.kernel.Kernel` under one autograd function,
  :func:`~facezoo.margins.engines.driver.drive`: ``chunked`` (:mod:`~facezoo.margins.engines.chunked`) in plain PyTorch,
  ``fused`` (:mod:`~facezoo.margins.engines.fused`) in Triton, for CUDA.

What an engine of the second kind can be given from outside, without a line changed in the margins or in the driver:

- another *kernel* (:mod:`~facezoo.margins.engines.kernel`): ``reduce`` and ``accumulate`` on a block of classes;
- a *collective* (:mod:`~facezoo.margins.engines.collective`): other processes hold the other classes;
- a *sink* (:mod:`~facezoo.margins.engines.sinks`): takes each block's gradient of the centers, for an optimizer step on the spot;
- a *subset* of the classes: ``weight`` with fewer rows, and ``labels`` as rows of it, -1 where a class is not among them.

A further engine is one file with a function ``engine(problem) -> ClassStatistics``, and one line in :data:`ENGINES`.
"""

from __future__ import annotations

import torch

from facezoo.margins.engines.chunked import TorchKernel, chunked_statistics
from facezoo.margins.engines.collective import SINGLE_PROCESS, Collective, ProcessGroupCollective, SingleProcess
from facezoo.margins.engines.dense import dense_logits, dense_statistics
from facezoo.margins.engines.driver import drive
from facezoo.margins.engines.fused import TritonKernel, fused_has, fused_is_available, fused_statistics
from facezoo.margins.engines.kernel import Gradients, Kernel, Partial, Work
from facezoo.margins.engines.problem import ClassStatistics, Engine, Memory, Prepare, Problem
from facezoo.margins.engines.sinks import DenseGradient, GradientSink, SinkFactory
from facezoo.margins.negatives import Negatives

__all__ = [
    "ENGINES",
    "SINGLE_PROCESS",
    "ClassStatistics",
    "Collective",
    "DenseGradient",
    "Engine",
    "GradientSink",
    "Gradients",
    "Kernel",
    "Memory",
    "Partial",
    "Prepare",
    "Problem",
    "ProcessGroupCollective",
    "SingleProcess",
    "SinkFactory",
    "TorchKernel",
    "TritonKernel",
    "Work",
    "chunked_statistics",
    "dense_logits",
    "dense_statistics",
    "drive",
    "fused_has",
    "fused_is_available",
    "fused_statistics",
    "pick_engine",
]

ENGINES: dict[str, Engine] = {"dense": dense_statistics, "chunked": chunked_statistics, "fused": fused_statistics}

# Up to this many logits (N·C) all engines take a few milliseconds, and the dense one is all plain autograd: torch.compile sees
# through it. Above, the others are the faster ones too, not only the smaller.
_LARGEST_DENSE = 2**16


def pick_engine(
    name: str,
    *,
    samples: int,
    classes: int,
    device: torch.device | None = None,
    negatives: Negatives | None = None,
    dense_will_do: bool = True,
) -> Engine:
    """The engine called ``name``; for ``"auto"`` the one that suits ``samples`` × ``classes`` logits on this device.

    The dense one knows neither collectives nor sinks: ``dense_will_do`` says whether it may be chosen. The fused one has some
    forms of the negatives only.
    """
    if name == "auto":
        if dense_will_do and samples * classes <= _LARGEST_DENSE:
            name = "dense"
        else:
            fused = device is not None and fused_is_available(device) and (negatives is None or fused_has(negatives))
            name = "fused" if fused else "chunked"
    return ENGINES[name]
