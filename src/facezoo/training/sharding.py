"""Training with a class-parallel head: its sharded tensors, and how they are gathered for files and figures.

Files contain whole tensors, so a run can be resumed with another number of ranks, and its checkpoint is like any other.
``head.`` is the margin head of an :class:`~facezoo.training.objective.Objective`. If the head has no process group, the
functions do nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from facezoo.margins import create_margin
from facezoo.training.distributed import Distributed
from facezoo.weights.run_format import is_training_only


def sharded_names(objective: nn.Module) -> tuple[str, ...]:
    """Names of the parameters and buffers that differ between ranks."""
    return tuple(f"head.{name}" for name in getattr(objective.head, "sharded", ()))


def over_ranks(objective: nn.Module, process: Distributed) -> nn.Module:
    """Wrap the network so that the backward pass averages gradients over the ranks; ``objective`` itself if there is one rank."""
    if process.world_size == 1:
        return objective
    devices = [process.device] if process.device.type == "cuda" else None
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, sharded_names(objective))
    return DistributedDataParallel(objective, device_ids=devices)


def local_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, with this rank's part of the sharded tensors."""
    return {
        name: value.to_local() if hasattr(value, "to_local") else value for name, value in module.state_dict().items()
    }


def gather_parts(objective: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Gather whole tensors on rank 0 (sharded ones on the CPU); None on the other ranks. All ranks must call it.

    Args:
        objective: determines which tensors are sharded.
        tensors: tensors by their names in a checkpoint.
    """
    names, shard = sharded_names(objective), _shard(objective)
    if shard is None:
        return dict(tensors)
    whole = {name: shard.gather(value) if _is_part(name, value, names) else value for name, value in tensors.items()}
    return None if shard.rank > 0 else {name: value for name, value in whole.items() if value is not None}


def take_parts(objective: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This rank's part of whole tensors, by the names of a checkpoint."""
    names, shard = sharded_names(objective), _shard(objective)
    if shard is None:
        return dict(tensors)
    return {name: shard.own(value) if _is_part(name, value, names) else value for name, value in tensors.items()}


def whole_head(objective: nn.Module, record: Mapping[str, Any], device: torch.device) -> Any:
    """The head with all classes, for the evaluation on rank 0; None on other ranks. All ranks must call it.

    Args:
        objective: the run's objective.
        record: ``name`` and ``options`` of :func:`facezoo.create_margin`.
        device: device of the head.
    """
    if _shard(objective) is None:
        return objective.head
    state = gather_parts(objective, {name: v for name, v in local_state(objective).items() if name.startswith("head.")})
    if state is None:
        return None
    head = create_margin(record["name"], **record["options"])
    head.load_state_dict({name.removeprefix("head."): v for name, v in state.items() if not is_training_only(name)})
    return head.to(device).eval()


def clip_gradients(objective: nn.Module, max_norm: float) -> Tensor:
    """Clip the gradients of all parameters to a norm that is the same on every rank; returns the norm before."""
    shard, names = _shard(objective), sharded_names(objective)
    if shard is None:
        return nn.utils.clip_grad_norm_(objective.parameters(), max_norm)
    parameters = dict(objective.named_parameters())
    parts = [p for name, p in parameters.items() if name in names and p.grad is not None]
    others = [p for name, p in parameters.items() if name not in names and p.grad is not None]
    square = nn.utils.get_total_norm([p.grad for p in parts if p.grad is not None]).square().to(others[0].device)
    dist.all_reduce(square, group=shard.group)
    norm = (square + nn.utils.get_total_norm([p.grad for p in others if p.grad is not None]).square()).sqrt()
    nn.utils.clip_grads_with_norm_(parts + others, max_norm, norm)
    return norm


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, including those on other ranks."""
    names, shard = getattr(module, "sharded", ()), getattr(module, "shard", None)
    return sum(
        math.prod(p.shape[1:]) * shard.num_classes if shard is not None and name in names else p.numel()
        for name, p in module.named_parameters()
    )


def _shard(objective: nn.Module) -> Any:
    return getattr(objective.head, "shard", None)


def _is_part(name: str, value: Tensor, names: tuple[str, ...]) -> bool:
    """Whether a tensor of a checkpoint has a row for each class: a weight, its average, or its optimizer's state."""
    name = name.removeprefix("average.")
    if name.startswith("optimizer."):
        name = name.removeprefix("optimizer.").rpartition(".")[0]
    return name in names and value.dim() > 0
