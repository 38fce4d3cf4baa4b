"""Blocks that are recomputed in the backward pass, to save the memory of their activations."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def _frozen_running_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms in the block use the batch's statistics, as in training, but do not update the running statistics and their
    counter.

    The running tensors stay arguments of the operation (momentum 0), since checkpointing requires the same saved tensors.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        counter = norm.num_batches_tracked
        spare = (
            counter.clone() if counter is not None and isinstance(norm, nn.SyncBatchNorm) else None
        )  # it requires a counter
        norm.momentum, norm.num_batches_tracked = 0.0, spare
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


# A compiled graph recomputes without updating buffers, except in torch 2.6: there it keeps its activations.
_GRAPHS_REPEAT_UPDATES = torch.__version__ < "2.7"  # TorchVersion compares versions, not text


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """``block(x)``, recomputed in the backward pass."""
    if torch.compiler.is_compiling():
        return block(x) if _GRAPHS_REPEAT_UPDATES else checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=functools.partial(_checkpoint_contexts, block))


def _checkpoint_contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for the first computation and for the recomputation, which must not update running statistics again."""
    return nullcontext(), _frozen_running_statistics(block)
