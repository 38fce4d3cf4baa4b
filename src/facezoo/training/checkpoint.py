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
from facezoo.models import create_model, get_model_spec
from facezoo.models.init import drawing_only
from facezoo.models.rebuild import check_description, check_numbers, check_shapes
from facezoo.preprocessing import Preprocessing
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
from facezoo.weights.errors import shorten
from facezoo.weights.pretrained import MARGIN_FILE
from facezoo.weights.state_dict import require_loadable

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
        preprocessing: fields of :class:`facezoo.preprocessing.Preprocessing`.
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
    saved, state = _train_config(path, metadata), _train_state(path, metadata)
    saved_data = _header(path, metadata, "data") if "data" in metadata else {}
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
    plain, scaler_state = _header(path, metadata, "optimizer"), _header(path, metadata, "scaler")
    try:
        _restore_optimizer(optimizer, objective, _with_prefix(tensors, "optimizer."), plain)
        if scaler is not None and scaler_state:
            scaler.load_state_dict(scaler_state)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path}: the state of its optimizer is damaged ({shorten(error)})") from None
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
    network_weights = _with_prefix(weights, "model.")
    arguments = check_description(get_model_spec, record.model, network_weights, str(path))
    preprocessing = _preprocessing(path, record)
    with drawing_only(()):
        model = create_model(**arguments)
    _load_module(path, model, network_weights)
    head = _head(path, record.head, _with_prefix(weights, "head."))
    if head is not None:
        head = head.to(device).eval()
    model.preprocessing = preprocessing  # it goes where the network goes, into save_pretrained too
    return TrainedNetwork(path, model.to(device).eval(), head, preprocessing, record.classes, record.metrics)


def _load_pretrained(name: str, device: str | torch.device) -> TrainedNetwork:
    """What ``save_pretrained`` or ``push_to_hub`` wrote, its margin head too."""
    found = find_pretrained(name)
    model = create_model(name)
    head, state = None, found.margin_tensors()
    if found.config is not None and found.config.margin is not None and state is not None:
        description = {"name": found.config.margin.name, "options": found.config.margin.options}
        weights = {key: value for key, value in state.items() if not is_training_only(key)}
        head = _head(Path(f"{MARGIN_FILE} of {name}"), description, weights)
        head = None if head is None else head.to(device).eval()
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
    values = _header(path, metadata, "network")
    try:
        record = NetworkRecord(**{**values, "classes": tuple(values["classes"])})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the description of the network in its header is damaged ({shorten(repr(error))})"
        ) from None
    if not all(isinstance(name, str) for name in record.classes):
        raise CheckpointError(f"{path}: the description of the network in its header is damaged (a class without name)")
    if not isinstance(record.metrics, dict) or not all(
        isinstance(value, (int, float)) for value in record.metrics.values()
    ):
        raise CheckpointError(f"{path}: the description of the network in its header is damaged (metrics)")
    return record


def _header(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
    """One JSON object of the header."""
    try:
        values = json.loads(metadata[key])
        if not isinstance(values, dict):
            raise TypeError(f"a {type(values).__name__} instead of an object")
    except KeyError:
        raise CheckpointError(f"{path}: its header says nothing about the {key}; the checkpoint is damaged") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: what its header says about the {key} is damaged ({shorten(error)})") from None
    return values


def _train_config(path: Path, metadata: Mapping[str, str]) -> TrainConfig:
    values = _header(path, metadata, "config")
    try:
        return TrainConfig.from_dict(values)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path}: the settings in its header are damaged ({shorten(error)})") from None


def _train_state(path: Path, metadata: Mapping[str, str]) -> TrainState:
    values = _header(path, metadata, "state")
    plain = TrainState()
    for name, value in values.items():
        wanted = getattr(plain, name, None)
        known = name in {entry.name for entry in dataclasses.fields(TrainState)}
        kind = type(wanted) if isinstance(wanted, (list, int, str)) else (int, float, type(None))
        if not known or isinstance(value, bool) or not isinstance(value, kind):
            raise CheckpointError(
                f"{path}: the state of the run in its header is damaged ({shorten(name)} is {shorten(repr(value))})"
            )
    return TrainState(**values)


def _preprocessing(path: Path, record: NetworkRecord) -> Preprocessing:
    try:
        return Preprocessing.from_dict(record.preprocessing)
    except ValueError as error:
        raise CheckpointError(f"{path}: the preprocessing in its header is damaged ({shorten(error)})") from None


def _head(path: Path, description: object, tensors: Mapping[str, Tensor]) -> Any:
    """The margin head that a file describes, filled; None for an empty description. No size is believed before it is compared."""
    if not description:
        return None
    options = description.get("options") if isinstance(description, dict) else None
    name = description.get("name") if isinstance(description, dict) else None
    if not isinstance(options, Mapping) or not isinstance(name, str):
        raise CheckpointError(f"{path}: the description of the margin head is damaged")
    check_numbers(options, tensors, f"{path}, margin head {shorten(name)}")
    check_shapes(lambda: create_margin(name, **options), tensors, f"{path}, margin head {shorten(name)}")
    head = create_margin(name, **options)
    _load_module(path, head, tensors)
    return head


def _load_module(path: Path, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Strictly, and only numbers that can stand there: checked before anything is written."""
    target = module.state_dict()
    if tensors.keys() != target.keys():
        missing = [f"{key} is missing" for key in target if key not in tensors]
        extra = [f"{shorten(key)} is unexpected" for key in tensors if key not in target]
        raise CheckpointError(f"{path} does not fit this network: {', '.join((missing + extra)[:3])}")
    wrong = [key for key, value in tensors.items() if value.shape != target[key].shape]
    if wrong:
        got, wanted = tuple(tensors[wrong[0]].shape), tuple(target[wrong[0]].shape)
        raise CheckpointError(f"{path} does not fit this network: {wrong[0]} is {got}, needed is {wanted}")
    try:
        require_loadable(tensors, target)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; nothing was loaded") from None
    module.load_state_dict(dict(tensors), strict=True)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _is_weight(name: str) -> bool:
    return name.startswith(("model.", "head.", "joint."))
