"""Sharded tensors in a training, and how they are gathered for files and figures.

These are the centers of a class-parallel head and, with ``fully_shard``, the weights of the backbone (FSDP2). A checkpoint means
whole tensors, so a run can be resumed with another number of ranks. ``head.`` is the margin head of an
:class:`~facezoo.training.objective.Objective`. If nothing is sharded, the functions change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from facezoo.margins import create_margin
from facezoo.margins.shard import ClassShard
from facezoo.models import create_model
from facezoo.training.distributed import Distributed
from facezoo.weights.run_format import NetworkRecord, is_training_only, with_prefix


def shards_of(objective: nn.Module) -> dict[str, ClassShard]:
    """The shards of this rank, by the names of parameters and buffers."""
    shard = getattr(objective.head, "shard", None)
    found = {} if shard is None else {f"head.{name}": shard for name in objective.head.sharded}  # type: ignore[union-attr]
    for name, parameter in objective.named_parameters():
        if name not in found and hasattr(parameter, "device_mesh"):
            found[name] = ClassShard.of_group(len(parameter), parameter.device_mesh.get_group())
    return found


def fully_shard_backbone(backbone: nn.Module, process: Distributed) -> None:
    """Shard weights, gradients and optimizer state of the backbone over the ranks, stage by stage, with torch's FSDP2.

    Raises:
        ValueError: a torch without it (before 2.6).
    """
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
    except ImportError:
        raise ValueError(f"fully_shard needs torch 2.6 or newer; this is {torch.__version__}") from None
    mesh = init_device_mesh(process.device.type, (process.world_size,))
    for stage in getattr(backbone, "stages", ()):
        if any(True for _ in stage.parameters()):
            fully_shard(stage, mesh=mesh)
    fully_shard(backbone, mesh=mesh)


def over_ranks(objective: nn.Module, process: Distributed) -> nn.Module:
    """Wrap the network so that the backward pass averages gradients over the ranks; ``objective`` itself if there is one rank."""
    if process.world_size == 1:
        return objective
    parts = shards_of(objective)
    if all(name in parts or not parameter.requires_grad for name, parameter in objective.named_parameters()):
        return objective
    devices = [process.device] if process.device.type == "cuda" else None
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(objective, tuple(parts))
    return DistributedDataParallel(objective, device_ids=devices)


@contextmanager
def without_averaging(network: nn.Module, backbone: nn.Module) -> Iterator[None]:
    """A backward pass within this block keeps its gradients on this rank: those of the next one are averaged with them."""
    set_sync = getattr(backbone, "set_requires_gradient_sync", None)  # of FSDP2
    own: AbstractContextManager[Any] = nullcontext()
    if isinstance(network, DistributedDataParallel):
        own = network.no_sync()
    if set_sync is not None:
        set_sync(False)
    with own:
        yield
    if set_sync is not None:
        set_sync(True)


def local_part(value: Tensor) -> Tensor:
    """This rank's part of a DTensor; a plain tensor itself. They share their memory."""
    own: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return own


def base_name(name: str) -> str:
    """The name of the weight that a tensor of a checkpoint belongs to: itself, its average, or its optimizer's state."""
    name = name.removeprefix("average.")
    return name.removeprefix("optimizer.").rpartition(".")[0] if name.startswith("optimizer.") else name


def local_state(module: nn.Module) -> dict[str, Tensor]:
    """The state dict, with this rank's part of the sharded tensors."""
    return {name: local_part(value) for name, value in module.state_dict().items()}


def gather_parts(objective: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Gather whole tensors on rank 0 (sharded ones on the CPU); None on the other ranks. All ranks must call it.

    Args:
        objective: determines which tensors are sharded.
        tensors: tensors by their names in a checkpoint.
    """
    shards = shards_of(objective)
    if not shards:
        return dict(tensors)
    whole = {name: _gather(shards.get(base_name(name)), value) for name, value in tensors.items()}
    found = {name: value for name, value in whole.items() if value is not None}
    return found if next(iter(shards.values())).rank == 0 else None


def take_parts(objective: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This rank's part of whole tensors, by the names of a checkpoint."""
    shards = shards_of(objective)
    return {name: _own(shards.get(base_name(name)), value) for name, value in tensors.items()}


def _gather(shard: ClassShard | None, value: Tensor) -> Tensor | None:
    return value if shard is None or value.dim() == 0 else shard.gather(value)


def _own(shard: ClassShard | None, value: Tensor) -> Tensor:
    return value if shard is None or value.dim() == 0 else shard.own(value)


def sharded_kinds(objective: nn.Module) -> set[str]:
    """Which of ``model`` and ``head`` have sharded tensors."""
    return {name.partition(".")[0] for name in shards_of(objective)}


def whole_network(objective: nn.Module, record: NetworkRecord, device: torch.device) -> tuple[Any, Any]:
    """The whole backbone and head, for the evaluation. All ranks must call it.

    Args:
        objective: the run's objective. A backbone or head that is not sharded is returned itself, on every rank.
        record: description that the others are rebuilt from.
        device: device of the rebuilt ones, which are on rank 0 only; the other ranks get None.
    """
    kinds = sharded_kinds(objective)
    if not kinds:
        return objective.model, objective.head
    state = {name: value for name, value in local_state(objective).items() if name.partition(".")[0] in kinds}
    whole = gather_parts(objective, state)
    if whole is None:
        return (None if "model" in kinds else objective.model), (None if "head" in kinds else objective.head)
    weights = {name: value for name, value in whole.items() if not is_training_only(name)}
    own: Any = objective.model
    model, head = own, objective.head
    if "model" in kinds:
        model = create_model(**record.model)
        model.load_state_dict(with_prefix(weights, "model."))
        model.preprocessing = own.preprocessing
        model = model.to(device).eval()
    if "head" in kinds:
        head = create_margin(record.head["name"], **record.head["options"])
        head.load_state_dict(with_prefix(weights, "head."))
        head = head.to(device).eval()
    return model, head


def clip_gradients(objective: nn.Module, max_norm: float) -> Tensor:
    """Clip the gradients of all parameters to a norm that is the same on every rank; returns the norm before."""
    shards = shards_of(objective)
    if not shards:
        return nn.utils.clip_grad_norm_(objective.parameters(), max_norm)
    grads = {name: local_part(p.grad) for name, p in objective.named_parameters() if p.grad is not None}
    parts = [grad for name, grad in grads.items() if name in shards]
    others = [grad for name, grad in grads.items() if name not in shards]
    square = nn.utils.get_total_norm(parts).square().to(next(iter(grads.values())).device)
    dist.all_reduce(square, group=next(iter(shards.values())).group)
    norm = (square + nn.utils.get_total_norm(others).square().to(square)).sqrt() if others else square.sqrt()
    torch._foreach_mul_(list(grads.values()), torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, including those on other ranks."""
    names, shard = getattr(module, "sharded", ()), getattr(module, "shard", None)
    return sum(
        math.prod(p.shape[1:]) * shard.num_classes if shard is not None and name in names else p.numel()
        for name, p in module.named_parameters()
    )
