"""Initial weights of a run: weights of another training, and class centers by identity."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facezoo.models import create_model
from facezoo.training.config import TrainConfig
from facezoo.training.datasets import RunData, embed_training_images
from facezoo.weights import CheckpointError, get_weights, load_checkpoint, read_checkpoint, sha256_of
from facezoo.weights.pins import require_same
from facezoo.weights.run_format import FORMAT, find_checkpoint


def initialize(config: TrainConfig, model: Any, head: Any, data: RunData, device: torch.device) -> None:
    """Load the initial weights and class centers of a run; see ``init_checkpoint`` and ``init_head``.

    Class means are computed from the run's own training images, without augmentation for facezoo's datasets.
    """
    path = config.model.init_checkpoint
    if config.model.init_pretrained is not None:
        load_registered(config, model)
    elif path is not None:
        load_checkpoint(model, find_checkpoint(path))
    if config.model.init_head == "class_means":
        head.init_from_embeddings(*_training_embeddings(config, model, data, device))
    elif config.model.init_head == "checkpoint" and path is not None:
        saved, names = saved_head(find_checkpoint(path))
        known = matching_classes(path, names, data.classes)
        if len(known) < len(data.classes):  # for new identities; known ones are replaced below
            head.init_from_embeddings(*_training_embeddings(config, model, data, device))
        take_centers(path, head, saved, known, old=len(names), new=len(data.classes))


def load_registered(config: TrainConfig, model: Any) -> None:
    """Load the weights of ``init_pretrained``: downloaded, or from ``init_checkpoint``, the user's download of them.

    Parts of the network that the weights do not have, or have in another size (embedding, stem, classifier), stay random.

    Raises:
        CheckpointError: the file is not that of the record, or does not fit.
    """
    own = config.model
    record = get_weights(own.name, own.init_pretrained)
    if own.init_checkpoint is None:
        model.load_state_dict(create_model(**model.config, pretrained=record.tag).state_dict())
        return
    path = Path(own.init_checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; it should be the download of the weights {record.name}")
    require_same(record, sha256_of(path), str(path))
    load_checkpoint(model, path, source=record.layout, replace=() if model.num_classes else ("classifier",))


def saved_head(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The head's tensors of a training checkpoint, and the identities of its classes.

    Raises:
        CheckpointError: not a training checkpoint.
    """
    tensors, metadata = read_checkpoint(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of `facezoo train`, so it has no class centers; use init_head='none'"
        )
    averaged = {name: value for name, value in tensors.items() if name.startswith("average.head.")}
    prefix = "average.head." if averaged else "head."
    head = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    try:
        names = tuple(str(name) for name in json.loads(metadata["network"])["classes"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: its header names no identities; use init_head='class_means'") from None
    return head, names


def matching_classes(path: str, old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """New class -> old class of the same name. Raises CheckpointError if no name matches."""
    index = {name: number for number, name in enumerate(old)}
    known = {number: index[name] for number, name in enumerate(new) if name in index}
    if not known:
        raise CheckpointError(
            f"none of the {len(new)} identities ({new[0][:80]!r}, ...) is among the {len(old)} of {path} ({old[0][:80]!r}, ...), "
            "so it has no class centers for them; use init_head='class_means'"
        )
    return known


@torch.no_grad()
def take_centers(
    path: str, head: nn.Module, saved: Mapping[str, Tensor], known: Mapping[int, int], *, old: int, new: int
) -> None:
    """Copy the class centers of known identities, and the head's other tensors.

    Args:
        path: for messages.
        head: the head of this training, or this rank's part of it.
        saved: tensors of the old one, by their names in it.
        known: new class -> old class.
        old: classes of the old head.
        new: classes of this one, over all ranks.

    Raises:
        CheckpointError: another kind of head, or another dimension.
    """
    shard: Any = getattr(head, "shard", None)
    to, source = torch.tensor(list(known)), torch.tensor(list(known.values()))
    for name, parameter in head.named_parameters():
        per_class = name in head.sharded if shard is not None else tuple(parameter.shape[:1]) == (new,)  # type: ignore[operator]
        needed = (old, *parameter.shape[1:]) if per_class else tuple(parameter.shape)
        got = tuple(saved[name].shape) if name in saved else "nothing"
        if got != needed:
            raise CheckpointError(
                f"{path} has {got} for the head's {name}, this head needs {needed}; use init_head='none' or 'class_means'"
            )
        value = saved[name].to(parameter.device, parameter.dtype)
        if not per_class:
            parameter.copy_(value)
            continue
        whole, found = value.new_zeros(new, *value.shape[1:]), torch.zeros(new, dtype=torch.bool)
        whole[to], found[to] = value[source], True
        if shard is not None:
            whole, found = shard.own(whole), shard.own(found)
        parameter[found.to(parameter.device)] = whole[found.to(whole.device)]


def _training_embeddings(config: TrainConfig, model: Any, data: RunData, device: torch.device) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) of the run's training images, and their labels (N,)."""
    return embed_training_images(model, data, config, model.preprocessing, device), data.labels
