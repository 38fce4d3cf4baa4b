"""The checkpoint of a run: one safetensors file with everything to resume the run and to use the network.

Tensors are named ``model.…``, ``head.…``, ``joint.…``, ``average.…`` (moving average of those three) and
``optimizer.<parameter>.<state>``; everything else is JSON in the header. ``best.safetensors`` has the evaluated weights only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from facezoo._version import __version__
from facezoo.checks import is_real, is_whole
from facezoo.renamed import current_state
from facezoo.training.config import TrainConfig
from facezoo.training.ema import WeightAverage
from facezoo.training.sharded_files import HEADER, read_parts, remove_parts, write_parts
from facezoo.training.sharding import gather_parts, local_part, local_state, shards_of, take_parts
from facezoo.weights import CheckpointError, read_file, save_file_atomic
from facezoo.weights.errors import shorten
from facezoo.weights.run_format import (
    FORMAT,
    NetworkRecord,
    fill_module,
    is_training_only,
    is_weight,
    network_record,
    placed_like,
    read_header,
    require_format,
    with_prefix,
)


@dataclass
class TrainState:
    """The progress of a run, saved in the checkpoint. Random numbers are not part of it: they depend on seed, update and rank.

    Attributes:
        epoch: epochs completed.
        updates: updates done in all.
        position: images of the current epoch that are done, over all ranks.
        losses: losses of the updates since the last row of steps.csv.
        grad_norm: last gradient norm; None if not clipped.
        loss_sum: sum of the losses of the current epoch.
        loss_count: number of updates in that sum.
        correct: correct answers (soft for mixed batches) in the batches sampled for the training accuracy.
        seen: images in those batches.
        seconds: training time of the current epoch, seconds.
        best: best value so far of the best metric, higher is better; None before the first evaluation.
        best_epoch: its epoch, from 1.
        metric: name of the best metric; "" in runs of the first edition.
        history: selection value of every evaluation so far.
        normalized: 1 once the weights have gone through ``wccn``.
    """

    epoch: int = 0
    updates: int = 0
    position: int = 0
    losses: list[float] = field(default_factory=list)
    grad_norm: float | None = None
    loss_sum: float = 0.0
    loss_count: int = 0
    correct: float = 0.0
    seen: float = 0.0
    seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    metric: str = ""
    history: list[float] = field(default_factory=list)
    normalized: int = 0


def save_training_checkpoint(
    path: Path,
    *,
    objective: nn.Module,
    record: NetworkRecord,
    config: TrainConfig,
    state: TrainState,
    average: WeightAverage | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    scaler_state: Mapping[str, Any] | None = None,
    data: Mapping[str, str] | None = None,
) -> None:
    """Write ``last.safetensors`` atomically, or ``last.json`` with its parts, as the name of ``path`` says.

    Without ``optimizer`` it writes ``best.safetensors``: the average if there is one, else the weights. All ranks must call it;
    rank 0 writes a single file. ``data`` is the fingerprint of the data.

    Raises:
        CheckpointError: a weight is not finite, or the file cannot be written; the old file is intact in both cases.
    """
    weights = local_state(objective)
    tensors = weights if optimizer is not None or average is None else dict(average.tensors)
    if optimizer is None:
        tensors = {name: value for name, value in tensors.items() if not is_training_only(name)}
    optimizer_json: dict[str, Any] = {}
    if optimizer is not None:
        if average is not None:
            tensors = tensors | {f"average.{name}": value for name, value in average.tensors.items()}
        optimizer_tensors, optimizer_json = _flatten_optimizer(optimizer, objective)
        tensors = tensors | optimizer_tensors
    in_parts = path.name == HEADER
    if not in_parts:
        whole = gather_parts(objective, tensors)
        if whole is None or (dist.is_initialized() and dist.get_rank() > 0):
            return
        tensors = whole
    broken = [
        name for name, value in tensors.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise CheckpointError(
            f"not written, since {len(broken)} tensors hold NaN or infinity, first of them {broken[0]}: {path}"
        )
    metadata = {
        "format": FORMAT,
        "facezoo_version": __version__,
        "network": json.dumps(dataclasses.asdict(record)),
        "config": json.dumps(config.to_dict()),
        "state": json.dumps(dataclasses.asdict(state)),
        "optimizer": json.dumps(optimizer_json),
        "scaler": json.dumps(dict(scaler_state or {})),
        "data": json.dumps(dict(data or {})),
    }
    if in_parts:
        write_parts(path.parent, tensors, shards_of(objective), metadata)
        return
    save_file_atomic(path, tensors, metadata)
    if optimizer is not None:
        remove_parts(path.parent)


def load_training_checkpoint(
    path: Path,
    *,
    objective: nn.Module,
    config: TrainConfig,
    record: NetworkRecord,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
    scaler: Any = None,
    data: Mapping[str, str] | None = None,
    metric: str = "",
    may_be_longer: Callable[[TrainConfig, TrainState], bool] | None = None,
) -> tuple[TrainState, NetworkRecord]:
    """Restore everything that :func:`save_training_checkpoint` saved.

    ``data`` is the fingerprint of the data, ``metric`` the metric of the best checkpoint; ``may_be_longer`` decides whether the
    run may have another number of epochs.

    Returns:
        The progress of the run, and the saved description of the network (with the figures of its last evaluation).

    Raises:
        CheckpointError: not a training checkpoint, or its network, classes, settings or data differ; the message names the
            difference.
    """
    in_parts = path.name == HEADER
    tensors, metadata = read_parts(path, shards_of(objective)) if in_parts else read_file(path)
    tensors = current_state(tensors)
    require_format(path, metadata)
    saved, state = _train_config(path, metadata), _train_state(path, metadata)
    saved_data = read_header(path, metadata, "data") if "data" in metadata else {}
    longer = may_be_longer is not None and may_be_longer(saved, state)
    _require_same_settings(path, saved, config, longer=longer)
    network = network_record(path, metadata)
    if network.classes != record.classes:
        raise CheckpointError(
            f"cannot resume {path}: it was trained on {len(network.classes)} classes "
            f"that are not the {len(record.classes)} of {config.data.path or 'this data'}"
        )
    if data is not None:
        _require_same_data(path, saved_data, data)
    if state.metric and metric and state.metric != metric:
        raise CheckpointError(
            f"cannot resume {path}: its best checkpoint is best by {shorten(state.metric)}, which this data cannot give any more "
            f"(it gives {metric}). Restore the data, or start a new run in another folder"
        )
    state.metric = metric or state.metric
    if not in_parts:
        tensors = take_parts(objective, tensors)
    fill_module(path, objective, {name: value for name, value in tensors.items() if is_weight(name)})
    if average is not None:
        average.load(with_prefix(tensors, "average."))
    plain, scaler_state = read_header(path, metadata, "optimizer"), read_header(path, metadata, "scaler")
    try:
        _restore_optimizer(optimizer, objective, with_prefix(tensors, "optimizer."), plain)
        if scaler is not None and scaler_state:
            scaler.load_state_dict(scaler_state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the state of its optimizer is damaged ({shorten(error)})") from None
    return state, network


def _flatten_optimizer(
    optimizer: torch.optim.Optimizer, objective: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state by *parameter name* (the order of parameters may change), tensors separate from plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, parameter in objective.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = local_part(value)
            else:
                plain[f"{name}.{key}"] = value
    return tensors, plain


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, objective: nn.Module, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    parameters = dict(objective.named_parameters())
    names = {parameter: name for name, parameter in parameters.items()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    by_name: dict[str, dict[str, Any]] = {}
    for key, value in plain.items():
        if not isinstance(value, (int, float, type(None))):
            raise ValueError(f"{shorten(key)} is {shorten(repr(value))}")
    for key, value in {**tensors, **plain}.items():
        name, _, entry = key.rpartition(".")
        if isinstance(value, Tensor) and value.dim() and name in parameters:
            value = placed_like(value, parameters[name])
        by_name.setdefault(name, {})[entry] = value
    state = optimizer.state_dict()["state"]  # what the file lacks, such as that of frozen parts, stays as it began
    state |= {index: by_name[name] for index, name in enumerate(ordered) if name in by_name}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _require_same_settings(path: Path, saved: TrainConfig, config: TrainConfig, *, longer: bool) -> None:
    """Raise if the settings are not those of the run; another number of epochs is allowed if ``longer``."""
    differences = saved.differences(config)
    if not differences or (longer and differences.keys() == {"epochs"}):
        return
    listed = "; ".join(
        f"{name}: {shorten(repr(old), 80)} in the run, {shorten(repr(new), 80)} asked for"
        for name, (old, new) in differences.items()
    )
    more = ", such as one of more epochs from its weights (--init-checkpoint)" if "epochs" in differences else ""
    raise CheckpointError(
        f"cannot resume {path} with other settings ({listed}). "
        f"Resume with the old ones, or start a new run in another folder{more}"
    )


def _require_same_data(path: Path, saved: Mapping[str, str], data: Mapping[str, str]) -> None:
    """Raise if the data has changed since the run began. Checkpoints of the first edition have no fingerprint of the data."""
    changed = [name for name in {**saved, **data} if saved.get(name) != data.get(name)]
    if not saved or not changed:
        return
    name = changed[0]
    before, now = (_entries(side[name]) if name in side else "nothing" for side in (saved, data))
    raise CheckpointError(
        f"cannot resume {path}: {shorten(name)} has changed since the run began ({before} then, {now} now"
        f"{', other names or labels' if before == now else ''}). Restore the data, or start a new run in another folder"
    )


def _entries(fingerprint: object) -> str:
    count = str(fingerprint).split()[:1]
    return f"{shorten(count[0], 20)} entries" if count else "nothing"


def _train_config(path: Path, metadata: Mapping[str, str]) -> TrainConfig:
    values = read_header(path, metadata, "config")
    try:
        return TrainConfig.from_dict(values)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path}: the settings in its header are damaged ({shorten(error)})") from None


def _train_state(path: Path, metadata: Mapping[str, str]) -> TrainState:
    values = read_header(path, metadata, "state")
    plain = TrainState()
    for name, value in values.items():
        known = name in {entry.name for entry in dataclasses.fields(TrainState)}
        if not known or not _can_be(value, getattr(plain, name)):
            raise CheckpointError(
                f"{path}: the state of the run in its header is damaged ({shorten(name)} is {shorten(repr(value))})"
            )
    return TrainState(**values)


def _can_be(value: object, fresh: object) -> bool:
    """Whether ``value`` has the type of the field whose initial value is ``fresh``."""
    if isinstance(fresh, list):
        return isinstance(value, list) and all(value_of is not None and _can_be(value_of, 0.0) for value_of in value)
    if isinstance(fresh, str):
        return isinstance(value, str)
    if isinstance(fresh, int):
        return is_whole(value, 0) and value < 2**63
    return value is None or isinstance(value, float) or is_real(value)
