"""The part of a run's checkpoint that is needed to use its network: tensor names and descriptions in the header.

The part that is needed to resume the training is in :mod:`facezoo.training.checkpoint`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facezoo.weights.errors import CheckpointError, shorten
from facezoo.weights.state_dict import require_loadable

FORMAT = "facezoo-training-1"


@dataclass(frozen=True)
class NetworkRecord:
    """The description of a network: the JSON part of a checkpoint that inference needs.

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


# State of the head that only training needs.
_TRAINING_ONLY = ("backward_optimizer", "class_sampler")


def is_training_only(name: str) -> bool:
    """Whether a tensor with this name is only needed for training."""
    return any(part in _TRAINING_ONLY for part in name.split("."))


def find_checkpoint(path: str | Path) -> Path:
    """``path`` itself, or the best (else the last) checkpoint of the run folder ``path``."""
    path = Path(path)
    if path.name == "last.json" and path.exists():
        path = path.parent
    if not path.is_dir():
        return path
    for name in ("best.safetensors", "last.safetensors"):
        if (path / name).exists():
            return path / name
    if (path / "last.json").exists():
        raise CheckpointError(
            f"{path} has its checkpoint in parts; make one file of it: facezoo train --out {path} --one-file"
        )
    raise CheckpointError(
        f"{path} holds neither best.safetensors nor last.safetensors; name a checkpoint or a run folder"
    )


def require_format(path: Path, metadata: Mapping[str, str]) -> None:
    """Raise :class:`CheckpointError` unless the header belongs to a checkpoint of ``facezoo train``."""
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of `facezoo train` (format {shorten(repr(metadata.get('format')))}, expected {FORMAT!r}); "
            "load other weights with facezoo.load_checkpoint(model, path), or train from them with init_checkpoint"
        )


def network_record(path: Path, metadata: Mapping[str, str]) -> NetworkRecord:
    """The description of the network in the header; :class:`CheckpointError` if it is damaged."""
    values = read_header(path, metadata, "network")
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


def read_header(path: Path, metadata: Mapping[str, str], key: str) -> dict[str, Any]:
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


def fill_module(path: Path, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load tensors into a module, strictly; names, shapes and values are checked before anything is written."""
    state = module.state_dict()
    # of what is spread over ranks, this rank's part
    target = {key: value.to_local() if hasattr(value, "to_local") else value for key, value in state.items()}
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
    module.load_state_dict({key: placed_like(value, state[key]) for key, value in tensors.items()}, strict=True)


def placed_like(value: Tensor, target: Tensor) -> Tensor:
    """``value``, this rank's part, as the DTensor that ``target`` is; itself where that is a plain tensor."""
    if not hasattr(target, "to_local"):
        return value
    from torch.distributed.tensor import DTensor

    mesh, places = target.device_mesh, target.placements  # type: ignore[attr-defined]
    value = value.to(target.device)
    return DTensor.from_local(value, mesh, places, run_check=False, shape=target.shape, stride=target.stride())


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def is_weight(name: str) -> bool:
    """Whether a tensor with this name is a weight of the network, its head or an additional loss."""
    return name.startswith(("model.", "head.", "joint.", "distill."))
