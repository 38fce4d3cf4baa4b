"""Engines: ways to reduce N × C logits to three numbers per sample, with equal values and gradients but different speed and
memory.

- ``dense`` (:mod:`~facezoo.margins.engines.dense`): plain autograd over all logits, the reference.
- The others are a :class:`~facezoo.margins.engines.kernel.Kernel` under one autograd function,
  :func:`~facezoo.margins.engines.driver.drive`: ``chunked`` (:mod:`~facezoo.margins.engines.chunked`) in plain PyTorch,
  ``fused`` (:mod:`~facezoo.margins.engines.fused`) in Triton, for CUDA.

Engines of the second kind can be extended without changing the margins or the driver, by

- another *kernel* (:mod:`~facezoo.margins.engines.kernel`): ``reduce`` and ``accumulate`` on a block of classes;
- a *collective* (:mod:`~facezoo.margins.engines.collective`): other processes have the other classes;
- a *sink* (:mod:`~facezoo.margins.engines.sinks`): takes each block's gradient of the centers, for an immediate optimizer step;
- a *subset* of the classes: ``weight`` with fewer rows, and ``labels`` as rows of it, -1 for a class that is not among them.

To add an engine, write a file with a function ``engine(problem) -> ClassStatistics``, and add a line to :data:`ENGINES`.
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

# Up to this number of logits (N·C) all engines take a few milliseconds, and torch.compile can optimize the dense one. Above it
# the other engines need less memory, and on a CPU less time.
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
    """The engine called ``name``; for ``"auto"`` the best one for ``samples`` × ``classes`` logits on this device.

    The dense engine supports neither collectives nor sinks; ``dense_will_do`` says whether it may be chosen. The fused engine has
    only some forms of the negatives.
    """
    if name == "auto":
        if dense_will_do and samples * classes <= _LARGEST_DENSE:
            name = "dense"
        else:
            fused = device is not None and fused_is_available(device) and (negatives is None or fused_has(negatives))
            name = "fused" if fused else "chunked"
    return ENGINES[name]
