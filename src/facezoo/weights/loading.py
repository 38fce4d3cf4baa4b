"""Loading a checkpoint into a network: converted by an adapter, checked name by name and shape by shape, all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from facezoo.registry import unknown_name_message
from facezoo.weights.adapters import ADAPTERS, Adapter, find_adapter
from facezoo.weights.io import CheckpointError, clean_state_dict, read_checkpoint
from facezoo.weights.preprocessing import Preprocessing

# Parts that may stay as the model has them, by the prefix of their names.
REPLACEABLE = {"stem": "stem.", "embedding": "head.embedding", "classifier": "classifier."}
_SHOWN = 3


@dataclass(frozen=True)
class LoadReport:
    """What :func:`load_checkpoint` did.

    Attributes:
        source: library and layout of the checkpoint, such as ``"timm.resnet"``.
        loaded: number of tensors that the network took over.
        replaced: parts of the network that kept their own weights, as asked for.
        dropped: names in the checkpoint, in facezoo's form, that the network has no use for: replaced parts, and of a network
            built with ``features_only`` the head and the stages that it does not have.
        preprocessing: whether the checkpoint's preprocessing was taken over too (facezoo's own checkpoints carry it).
    """

    source: str
    loaded: int
    replaced: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    preprocessing: bool = False

    def __str__(self) -> str:
        text = f"loaded {self.loaded} tensors from a {self.source} checkpoint"
        if self.replaced:
            text += f"; {' and '.join(self.replaced)} kept the network's own weights"
        return text


def load_checkpoint(
    model: nn.Module,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    *,
    source: str = "auto",
    replace: Collection[str] = (),
) -> LoadReport:
    """Load the weights of a checkpoint into ``model``, strictly, or leave ``model`` untouched and say why.

    Read are facezoo's own files (state dicts and the trainer's checkpoints, of which the moving average is preferred) and those
    of torchvision, timm and the libraries of face recognition, for the layouts of :data:`facezoo.weights.ADAPTERS`. Every tensor of
    the checkpoint must have its place and every tensor of the network its value. Only the counters ``num_batches_tracked``, which
    old files lack, may be missing.

    Args:
        model: network built by :func:`facezoo.create_model`.
        checkpoint: file (safetensors or PyTorch; read with ``weights_only=True``), or a state dict; see
            :func:`facezoo.weights.read_state_dict` for what is unwrapped and stripped.
        source: library that wrote it, one of :data:`facezoo.weights.SOURCES` (``"torchvision"``, ``"insightface"``, …);
            ``"auto"`` recognises it by its keys.
        replace: parts whose weights in ``model`` are kept, whatever the checkpoint has for them: ``"classifier"`` (other
            classes), ``"stem"`` (other ``in_chans`` or another form), ``"embedding"`` (other width, or none in the checkpoint).

    Returns:
        What was loaded, replaced and dropped.

    Raises:
        CheckpointError: unreadable file, unknown layout, or anything that does not match; the message lists the first names.
        ValueError: unknown ``source`` or part, or ``model`` is on the meta device.
    """
    for part in _checked_parts(replace):
        if part not in REPLACEABLE:
            raise ValueError(unknown_name_message("part to replace", part, REPLACEABLE))
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError(
            "the model is on the meta device and has no weights to fill; call model.to_empty(device=...) first"
        )
    metadata: Mapping[str, str] = {}
    if isinstance(checkpoint, Mapping):
        name, tensors = "the state dict", clean_state_dict(checkpoint)
    else:
        name = str(Path(checkpoint))
        tensors, metadata = read_checkpoint(checkpoint)

    adapter = _adapter_for(name, tensors, source)
    try:
        converted = adapter.convert(tensors)
    except ValueError as error:
        raise CheckpointError(f"{name}, read as {adapter.name}: {error}") from None
    target = model.state_dict()
    chosen, replaced, dropped = _select(model, converted, target, replace)
    problem = _describe_problems(chosen, target)
    if problem:
        network = getattr(getattr(model, "spec", None), "name", type(model).__name__)
        raise CheckpointError(f"{name}, read as {adapter.name}, does not fit this {network}: {problem}")
    model.load_state_dict(chosen, strict=True)
    taken = "stem" not in replaced and _take_preprocessing(model, metadata)
    return LoadReport(adapter.name, len(converted) - len(dropped), replaced, dropped, taken)


def _checked_parts(replace: Collection[str]) -> Collection[str]:
    if isinstance(replace, str):
        raise ValueError(f"replace is a collection of parts, such as ({replace!r},); got the string {replace!r}")
    return replace


def _adapter_for(name: str, tensors: Mapping[str, Tensor], source: str) -> Adapter:
    adapter = find_adapter(tensors.keys(), source)
    if adapter is None:
        known = ", ".join(entry.name for entry in ADAPTERS if source in ("auto", entry.source))
        raise CheckpointError(
            f"{name}: its {len(tensors)} keys ({_some(tensors)}) are of no layout that facezoo knows"
            f"{'' if source == 'auto' else f' from source {source!r}'} (known: {known})"
        )
    return adapter


def _select(
    model: nn.Module, converted: Mapping[str, Tensor], target: Mapping[str, Tensor], replace: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """The tensors to load, the parts that were replaced, and the names of the checkpoint that go unused."""
    kept_prefixes = tuple(prefix for part, prefix in REPLACEABLE.items() if part in replace)
    absent_prefixes = _absent_from_feature_network(model)
    dropped = tuple(key for key in converted if key.startswith((*kept_prefixes, *absent_prefixes)))
    chosen = {key: tensor for key, tensor in converted.items() if key not in set(dropped)}
    for key, tensor in target.items():
        if key.startswith(kept_prefixes) or (key.endswith(".num_batches_tracked") and key not in chosen):
            chosen[key] = tensor
    replaced = tuple(
        part for part, prefix in REPLACEABLE.items() if part in replace and _touches(prefix, target, dropped)
    )
    return chosen, replaced, dropped


def _touches(prefix: str, target: Collection[str], dropped: Collection[str]) -> bool:
    return any(key.startswith(prefix) for key in (*target, *dropped))


def _absent_from_feature_network(model: nn.Module) -> tuple[str, ...]:
    """What a network built with ``features_only`` leaves out on purpose."""
    stages, spec = getattr(model, "stages", None), getattr(model, "spec", None)
    if hasattr(model, "head") or not isinstance(stages, nn.ModuleList) or spec is None:
        return ()
    return ("head.", "classifier.", *(f"stages.{index}." for index in range(len(stages), len(spec.stages))))


def _describe_problems(chosen: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str:
    """What keeps ``chosen`` from being loaded into ``target``; empty if nothing does."""
    missing = [key for key in target if key not in chosen]
    unexpected = [key for key in chosen if key not in target]
    mismatched = [key for key in chosen if key in target and chosen[key].shape != target[key].shape]
    if not (missing or unexpected or mismatched):
        return ""
    parts = {_part(key) for key in (*missing, *unexpected, *mismatched)}
    lines = []
    for part in sorted(part for part in parts if part):
        lines.append(f"{part}: {_shape(part, chosen)} in the checkpoint, {_shape(part, target)} in the network")
    if "" not in parts:
        asked = ", ".join(repr(part) for part in REPLACEABLE if part in parts) + ("," if len(parts) == 1 else "")
        return f"{'; '.join(lines)}. Pass replace=({asked}) to do without the checkpoint's and keep the network's own"
    described = [
        f"{len(keys)} {kind} ({_some(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if mismatched:
        shapes = {
            f"{key} {tuple(chosen[key].shape)} instead of {tuple(target[key].shape)}" for key in mismatched[:_SHOWN]
        }
        described.append(f"{len(mismatched)} of another shape ({_some(sorted(shapes), len(mismatched))})")
    return f"{', '.join(described)}. It is a checkpoint of another network, or of another form of it (stem, img_size)"


def _part(key: str) -> str:
    return next((part for part, prefix in REPLACEABLE.items() if key.startswith(prefix)), "")


def _shape(part: str, tensors: Mapping[str, Tensor]) -> str:
    """The shape of the part's first weight, which tells classes, widths and channels apart."""
    shapes = (tuple(t.shape) for key, t in tensors.items() if key.startswith(REPLACEABLE[part]) and t.dim())
    return str(next(shapes, "none"))


def _some(keys: Collection[str], total: int | None = None) -> str:
    total = len(keys) if total is None else total
    return ", ".join(list(keys)[:_SHOWN]) + (", …" if total > _SHOWN else "")


def _take_preprocessing(model: nn.Module, metadata: Mapping[str, str]) -> bool:
    """Take over the preprocessing that facezoo's trainer writes beside the weights."""
    if not isinstance(getattr(model, "preprocessing", None), Preprocessing):
        return False
    try:
        values = Preprocessing.from_dict(json.loads(metadata["network"])["preprocessing"])
    except (KeyError, ValueError, TypeError, AttributeError):
        return False
    model.preprocessing = values  # type: ignore[assignment]
    return True
