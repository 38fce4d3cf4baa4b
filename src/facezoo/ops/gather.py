"""Rows of all ranks in one tensor, with the matching gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_gradient(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Gather the rows of all ranks, in the order of the ranks; the backward pass returns their gradients to their ranks.

    In the backward pass each rank gets, for its own rows, the *sum* of all ranks' gradients. If every rank computes the same
    loss of all rows, that sum is ``world_size`` times the loss's gradient. DistributedDataParallel divides by ``world_size``,
    so the result is the gradient of a single process with the whole batch.

    Every rank of the group must call it and run its backward pass. Without a process group, or with a single rank, it returns the
    tensor itself.

    Class-parallel heads have their own gather in :mod:`facezoo.margins.engines.collective`: it sends features, norms and labels
    in one message, requires equal batches, and its features' gradient comes back by reduce-scatter. Here batches may be
    unequal, and there is one tensor; joining the two would need both sets of rules in one function.

    Args:
        tensor: ``(N, ...)``; N may differ between ranks, the rest and the dtype may not. Integer tensors have no gradient.
        group: the ranks; None means all.

    Returns:
        ``(ΣN, ...)``, on the device of ``tensor``.
    """
    if world_size(group) == 1:
        return tensor
    gathered: Tensor = _Gather.apply(tensor, group)
    return gathered


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of ranks in ``group``; 1 without a process group."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ranks, rank = world_size(group), dist.get_rank(group)
        # Ranks may have different numbers of rows, and an all_gather of unequal tensors hangs or gives wrong data. So all ranks
        # send the largest number, and the surplus is removed.
        own = torch.tensor([len(tensor)], device=tensor.device)
        counts = [torch.empty_like(own) for _ in range(ranks)]
        dist.all_gather(counts, own, group=group)
        sizes: list[int] = torch.cat(counts).tolist()
        padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(ranks)]
        dist.all_gather(parts, padded, group=group)
        ctx.group, ctx.first, ctx.size = group, sum(sizes[:rank]), sizes[rank]
        if not tensor.is_floating_point():
            ctx.mark_non_differentiable(gathered := _cut(parts, sizes))
            return gathered
        return _cut(parts, sizes)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        return gradient[ctx.first : ctx.first + ctx.size], None


def _cut(parts: list[Tensor], sizes: list[int]) -> Tensor:
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
