"""The checkpoint of a run: one safetensors file that holds all it takes to go on, and all it takes to use the network.

Tensors are named ``model.…``, ``head.…``, ``joint.…``, ``average.…`` (moving average of those three) and
``optimizer.<parameter>.<state>``; everything else is JSON in the header. ``best.safetensors`` has the evaluated weights only.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facezoo._version import __version__
from facezoo.margins import create_margin
from facezoo.models import Preprocessing, create_model
from facezoo.models.init import drawing_only
from facezoo.training.config import TrainConfig
from facezoo.training.ema import WeightAverage
from facezoo.training.sharding import gather_parts, is_training_only, local_state, take_parts
from facezoo.weights import (
    CheckpointError,
    find_pretrained,
    is_pretrained_name,
    read_file,
    save_file_atomic,
)

FORMAT = "facezoo-training-1"


@dataclass
class TrainState:
    """Where a run is. All of it is in the checkpoint; the random numbers of an update are a function of seed, update and rank.

    Attributes:
        epoch: epochs completed.
        updates: updates done in all.
        position: images of the running epoch that are done, all ranks together.
        losses: losses of the updates since the last row of steps.csv.
        grad_norm: last gradient norm; None if not clipped.
        loss_sum: sum of the losses of the running epoch.
        loss_count: number of updates in it.
        correct: correct answers (soft for mixed batches) in the batches sampled for the training accuracy.
        seen: images in those batches.
        seconds: training time of the running epoch, seconds.
        best: best value so far of the best metric, higher is better; None before the first evaluation.
        best_epoch: its epoch, from 1.
        metric: what it is best by; "" in runs of the first edition.
        history: selection value of every evaluation so far.
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


@dataclass(frozen=True)
class NetworkRecord:
    """What rebuilds a network: the JSON part of a checkpoint that inference needs.

    Attributes:
        model: arguments of :func:`facezoo.create_model`.
        head: ``name`` and ``options`` of :func:`facezoo.create_margin`.
        preprocessing: fields of :class:`facezoo.models.Preprocessing`.
        classes: class names in the order of the labels.
        metrics: figures of the last evaluation.
    """

    model: dict[str, Any]
    head: dict[str, Any]
    preprocessing: dict[str, Any]
    classes: tuple[str, ...]
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrainedNetwork:
    """A network as it left training, in evaluation mode.

    Attributes:
        path: the checkpoint.
        model: images -> embeddings.
        head: margin head; ``head.logits(embeddings)`` classifies. None if the checkpoint has none that can be rebuilt.
        preprocessing: how its images are made.
        classes: class names in the order of the logits.
        metrics: figures of its last evaluation during training (fractions of 1, cosine for ``threshold``).
    """

    path: Path
    model: Any
    head: Any
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    metrics: dict[str, float]


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
    """Write ``last.safetensors`` atomically.

    Without ``optimizer`` what is written is ``best.safetensors``: the average if there is one, else the weights. If the classes are
    spread over ranks, all ranks have to call it, and rank 0 writes the whole. ``data`` is the fingerprint of the data.

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
    whole = gather_parts(objective, tensors)
    if whole is None:
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
    save_file_atomic(path, tensors, metadata)


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
) -> tuple[TrainState, NetworkRecord]:
    """Put everything back as :func:`save_training_checkpoint` found it.

    Returns:
        Where the run is, and the saved description of the network (with the figures of its last evaluation).

    Raises:
        CheckpointError: no training checkpoint, one of another network or other classes, or of a run with other settings or
            other data; the message names what differs.
    """
    tensors, metadata = read_file(path)
    _require_format(path, metadata)
    try:
        saved = TrainConfig.from_dict(json.loads(metadata["config"]))
        state = TrainState(**json.loads(metadata["state"]))
        optimizer_state, scaler_state = json.loads(metadata["optimizer"]), json.loads(metadata["scaler"])
        saved_data = dict(json.loads(metadata.get("data", "{}")))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: its header is damaged ({str(error)[:200]})") from None
    differences = saved.differences(config)
    if differences:
        listed = "; ".join(f"{name}: {old!r} in the run, {new!r} asked for" for name, (old, new) in differences.items())
        raise CheckpointError(
            f"cannot resume {path} with other settings ({listed}). "
            "Resume with the old ones, or start a new run in another folder"
        )
    network = _network_record(path, metadata)
    if network.classes != record.classes:
        raise CheckpointError(
            f"cannot resume {path}: it was trained on {len(network.classes)} classes "
            f"that are not the {len(record.classes)} of {config.data.path or 'this data'}"
        )
    if data is not None:
        _require_same_data(path, saved_data, data)
    if state.metric and metric and state.metric != metric:
        raise CheckpointError(
            f"cannot resume {path}: its best checkpoint is best by {state.metric}, which this data cannot give any more "
            f"(it gives {metric}). Restore the data, or start a new run in another folder"
        )
    state.metric = metric or state.metric
    tensors = take_parts(objective, tensors)
    _load_module(path, objective, {name: value for name, value in tensors.items() if _is_weight(name)})
    if average is not None:
        average.load(_with_prefix(tensors, "average."))
    _restore_optimizer(optimizer, objective, _with_prefix(tensors, "optimizer."), optimizer_state)
    if scaler is not None and scaler_state:
        scaler.load_state_dict(scaler_state)
    return state, network


def load_trained(path: str | Path, device: str | torch.device = "cpu") -> TrainedNetwork:
    """Rebuild a network from its checkpoint alone.

    Args:
        path: a checkpoint, a run folder (then its ``best.safetensors``, or ``last.safetensors`` if there is no best yet),
            ``"hf-hub:owner/name"`` or ``"local-dir:path"``.
        device: where the network goes.

    Returns:
        The network in evaluation mode, with the averaged weights if the run kept an average.

    Raises:
        CheckpointError: no file, no training checkpoint, or one that does not fit its own description.
    """
    if is_pretrained_name(path):
        return _load_pretrained(str(path), device)
    path = find_checkpoint(path)
    tensors, metadata = read_file(path)
    _require_format(path, metadata)
    record = _network_record(path, metadata)
    averaged = _with_prefix(tensors, "average.")
    weights = averaged or {
        name: value for name, value in tensors.items() if _is_weight(name) and not is_training_only(name)
    }
    with drawing_only(()):
        model = create_model(**record.model)
    _load_module(path, model, _with_prefix(weights, "model."))
    head = create_margin(record.head["name"], **record.head["options"]) if record.head else None
    if head is not None:
        _load_module(path, head, _with_prefix(weights, "head."))
        head = head.to(device).eval()
    preprocessing = Preprocessing.from_dict(record.preprocessing)
    model.preprocessing = preprocessing  # it goes where the network goes, into save_pretrained too
    return TrainedNetwork(path, model.to(device).eval(), head, preprocessing, record.classes, record.metrics)


def _load_pretrained(name: str, device: str | torch.device) -> TrainedNetwork:
    """What ``save_pretrained`` or ``push_to_hub`` wrote, its margin head too."""
    found = find_pretrained(name)
    model = create_model(name)
    head, state = None, found.margin_tensors()
    if found.config is not None and found.config.margin is not None and state is not None:
        head = create_margin(found.config.margin.name, **found.config.margin.options)
        _load_module(found.path, head, {key: value for key, value in state.items() if not is_training_only(key)})
        head = head.to(device).eval()
    classes = () if found.config is None else found.config.classes
    return TrainedNetwork(found.path, model.to(device).eval(), head, found.preprocessing, classes, {})


def find_checkpoint(path: str | Path) -> Path:
    """``path`` itself, or the best (else the last) checkpoint of the run folder ``path``."""
    path = Path(path)
    if not path.is_dir():
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).exists():
            return path / name
    raise CheckpointError(
        f"{path} holds neither best.safetensors nor last.safetensors; name a checkpoint or a run folder"
    )


def _flatten_optimizer(
    optimizer: torch.optim.Optimizer, objective: nn.Module
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The optimizer's state by *parameter name*, tensors apart from plain values: an order of parameters is easily changed."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for name, parameter in objective.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
            else:
                plain[f"{name}.{key}"] = value
    return tensors, plain


def _restore_optimizer(
    optimizer: torch.optim.Optimizer, objective: nn.Module, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    names = {parameter: name for name, parameter in objective.named_parameters()}
    ordered = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    by_name: dict[str, dict[str, Any]] = {}
    for key, value in {**tensors, **plain}.items():
        name, _, entry = key.rpartition(".")
        by_name.setdefault(name, {})[entry] = value
    state = {index: by_name[name] for index, name in enumerate(ordered) if name in by_name}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _require_same_data(path: Path, saved: Mapping[str, str], data: Mapping[str, str]) -> None:
    """Refuse data that is not what the run began with. Checkpoints of the first edition do not say what that was."""
    changed = [name for name in {**saved, **data} if saved.get(name) != data.get(name)]
    if not saved or not changed:
        return
    name = changed[0]
    before, now = (side[name].split()[0] + " entries" if name in side else "nothing" for side in (saved, data))
    raise CheckpointError(
        f"cannot resume {path}: {name} has changed since the run began ({before} then, {now} now"
        f"{', other names or labels' if before == now else ''}). Restore the data, or start a new run in another folder"
    )


def _require_format(path: Path, metadata: Mapping[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of `facezoo train` (format {metadata.get('format')!r}, expected {FORMAT!r}); "
            "load other weights with facezoo.load_checkpoint(model, path), or train from them with init_checkpoint"
        )


def _network_record(path: Path, metadata: Mapping[str, str]) -> NetworkRecord:
    try:
        values = json.loads(metadata["network"])
        return NetworkRecord(**{**values, "classes": tuple(values["classes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: the description of the network in its header is damaged ({error!r})") from None


def _load_module(path: Path, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:4]]
        raise CheckpointError(f"{path} does not fit this network: {' '.join(reasons)}") from None


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _is_weight(name: str) -> bool:
    return name.startswith(("model.", "head.", "joint."))
