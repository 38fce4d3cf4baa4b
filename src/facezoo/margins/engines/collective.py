"""Communication of processes that have a part of the classes each.

The scaling rule: all processes compute the same mean loss L of the *whole* batch, each with its own classes, and each must run
the backward pass from the same ∂/∂L (so a factor on the loss must be the same everywhere). Then

- the gradient of this process's *class centers* is that of L: complete here and nowhere else. They are not averaged: keep them
  out of DistributedDataParallel and FSDP;
- the gradient of this process's *embeddings* is that of L times the number of processes W. DistributedDataParallel and FSDP2
  divide the sum over processes by W, so the backbone gets the gradient of a single process with the whole batch. If you sum
  gradients instead of averaging them, divide by W;
- *replicated* parameters of the head (the learned offset of the binary losses) have the gradient of L on every process; averaging
  does not change it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


class Collective(Protocol):
    """Communication of a head whose classes are distributed over several processes.

    Every process takes the rows of *all* processes' batches (``gather``), reduces over its own classes, and combines the results
    (``sum``, ``max``). From there on all processes compute the same numbers, including the loss. So gradients of per-sample
    numbers are the same everywhere, while ∂loss/∂features is a sum over processes.
    """

    def gather(self, features: Tensor, norm: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(n, D)``, ``(n,)``, ``(n,)`` of each process -> ``(N, D)``, ``(N,)``, ``(N,)``.

        Backward: every process has a *part* of the features' gradient, which is summed, and the *whole* gradient of the norms.
            The own
        rows are kept; see the scaling rule of the module.
        """
        ...

    def broadcast(self, x: Tensor) -> Tensor:
        """The first process's ``x``, without gradient, for random numbers that all must share."""
        ...

    def sum(self, *x: Tensor) -> tuple[Tensor, ...]:
        """Sums over processes, without gradient, all in one message; may write into ``x``."""
        ...

    def max(self, x: Tensor) -> Tensor:
        """Largest over processes, elementwise, without gradient; may write into ``x``."""
        ...


class SingleProcess:
    """A single process with all classes: every operation returns its arguments."""

    def gather(self, features: Tensor, norm: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments."""
        return features, norm, labels

    def broadcast(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def sum(self, *x: Tensor) -> tuple[Tensor, ...]:
        """``x``."""
        return x

    def max(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


SINGLE_PROCESS = SingleProcess()


class ProcessGroupCollective:
    """The processes of a group of torch.distributed, any backend.

    A training step costs one all-gather (embeddings, norms and labels in one message), one all-reduce of 2·N numbers (N more with
    label smoothing; for margins with a threshold per sample the target cosines go first, in their own; where no bound of the logits
    is known a maximum goes before the sum), and one reduce-scatter of the embeddings' gradient. Each gather is preceded by one
    number per process, their batch sizes.

    Args:
        group: the processes; each must be a member.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def __deepcopy__(self, memo: dict[int, Any]) -> ProcessGroupCollective:
        return self  # process groups cannot be copied

    def gather(self, features: Tensor, norm: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Collective.gather`.

        Raises:
            ValueError: the processes have batches of different sizes. On a GPU it is an assertion on the device.
        """
        run = _Gather.apply
        if torch.compiler.is_compiling():
            run = torch.compiler.disable(run)
        gathered: tuple[Tensor, Tensor, Tensor] = run(features, norm, labels, self.group)
        return gathered

    def broadcast(self, x: Tensor) -> Tensor:
        """See :meth:`Collective.broadcast`."""
        x = x.contiguous()
        dist.broadcast(x, src=dist.get_global_rank(self.group, 0), group=self.group)
        return x

    def sum(self, *x: Tensor) -> tuple[Tensor, ...]:
        """See :meth:`Collective.sum`."""
        joined = torch.cat([part.flatten() for part in x])
        dist.all_reduce(joined, op=dist.ReduceOp.SUM, group=self.group)
        sizes = [part.numel() for part in x]
        # Copies, because outputs of an autograd function must not be views of one tensor.
        return tuple(summed.reshape(part.shape).clone() for summed, part in zip(joined.split(sizes), x, strict=True))

    def max(self, x: Tensor) -> Tensor:
        """See :meth:`Collective.max`."""
        x = x.contiguous()
        dist.all_reduce(x, op=dist.ReduceOp.MAX, group=self.group)
        return x


class _Gather(torch.autograd.Function):
    """Gathers features, norms and labels of all processes, in the order of the processes."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, norm: Tensor, labels: Tensor, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.group, ctx.samples = group, len(features)
        _require_equal_batches(features, group)
        # One message for all three, with their bits side by side as integers.
        parts = [features.contiguous(), norm.contiguous()[:, None], labels.contiguous()[:, None]]
        bits = [part.view(torch.int32) for part in parts]
        received = all_gather(torch.cat(bits, dim=1), group)
        columns = received.split([part.shape[1] for part in bits], dim=1)
        gathered_labels = columns[2].contiguous().view(labels.dtype)[:, 0]
        ctx.mark_non_differentiable(gathered_labels)
        return (
            columns[0].contiguous().view(features.dtype),
            columns[1].contiguous().view(norm.dtype)[:, 0],
            gathered_labels,
        )

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_features: Tensor, grad_norm: Tensor, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        size, first = dist.get_world_size(ctx.group), dist.get_rank(ctx.group) * ctx.samples
        # Every process takes part in the exchange, even if its own embeddings need no gradient.
        features = _reduce_scatter(grad_features, ctx.group).mul_(size)
        norm = grad_norm[first : first + ctx.samples] * size
        return features, norm, None, None


def all_gather(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Rows of all processes one after the other, ``(W·n, ...)``, from ``(n, ...)`` on each."""
    received = x.new_empty(dist.get_world_size(group) * len(x), *x.shape[1:])
    _newest("all_gather_single", "all_gather_into_tensor")(received, x.contiguous(), group=group)
    return received


def _reduce_scatter(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """This process's rows of the sum over processes, ``(n, ...)``, from ``(W·n, ...)`` on each."""
    size = dist.get_world_size(group)
    rows = len(x) // size
    if dist.get_backend(group) == "gloo":  # gloo has no reduce-scatter in older versions of torch
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x[dist.get_rank(group) * rows :][:rows].clone()
    received = x.new_empty(rows, *x.shape[1:])
    _newest("reduce_scatter_single", "reduce_scatter_tensor")(received, x.contiguous(), group=group)
    return received


def _newest(name: str, older: str) -> Any:
    return getattr(dist, name, None) or getattr(dist, older)


def _require_equal_batches(features: Tensor, group: dist.ProcessGroup) -> None:
    """Raise if the batch sizes differ: the exchange would hang, or mix up samples and labels."""
    own = torch.tensor([len(features)], device=features.device)
    sizes = all_gather(own, group)
    if features.is_cuda:
        torch._assert_async((sizes == own).all(), "the processes of a class-parallel head have batches of unequal size")
    elif bool((sizes != own).any()):
        raise ValueError(
            f"the processes of a class-parallel head have batches of {sizes.tolist()} samples; they must be equal: let the sampler "
            "drop the last images of an epoch, or repeat a few, as DistributedSampler does"
        )
