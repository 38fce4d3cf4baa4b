"""Rows of all ranks in one tensor, with the gradient that belongs to it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_gradient(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The rows of every rank, in the order of the ranks; the gradient of all of them comes back to the rank that they are from.

    Backward, each rank receives for its own rows the *sum* of the gradients that the ranks have for them. Where every rank computes
    the same loss of all rows, that sum is ``world_size`` times the loss's gradient, and DistributedDataParallel, which divides by
    ``world_size``, ends at the very gradient that one process would have for the whole batch.

    Every rank of the group has to call it, and has to run its backward pass. Where no process group is initialized, or one of a
    single rank, the tensor itself comes back.

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
    """Number of ranks in ``group``; 1 where no process group is initialized."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ranks, rank = world_size(group), dist.get_rank(group)
        # Ranks may have different numbers of rows, and an all_gather of unequal tensors hangs or gives rubbish: all send the
        # largest number, and the surplus is cut off.
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
