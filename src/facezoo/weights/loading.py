"""Load a checkpoint into a network: convert it with an adapter, check all names and shapes, load all or nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facezoo.modes import unwrap
from facezoo.preprocessing import Preprocessing
from facezoo.registry import unknown_name_message
from facezoo.weights.adapters import ADAPTERS, Adapter, nested_names, readings
from facezoo.weights.errors import CheckpointError, shorten
from facezoo.weights.fitting import as_call, described_call, fitting_arguments
from facezoo.weights.foreign_files import ONNX, is_onnx_file
from facezoo.weights.io import read_unpacked
from facezoo.weights.mismatch import FIRST_SHORTCUT, REPLACEABLE, Mismatch, describe, some
from facezoo.weights.onnx import read_onnx
from facezoo.weights.resizing import resize_positions
from facezoo.weights.state_dict import Unpacked, require_loadable, unpack

__all__ = ["REPLACEABLE", "LoadReport", "load_checkpoint"]


@dataclass(frozen=True)
class LoadReport:
    """The result of :func:`load_checkpoint`.

    Attributes:
        source: library and layout of the checkpoint, such as ``"timm.resnet"``.
        loaded: number of tensors loaded into the network.
        replaced: parts of the network that kept their own weights, as requested.
        dropped: names in the checkpoint that were not used, in facezoo's form: replaced parts and, for a network built with
            ``features_only``, the head and missing stages. Tensors outside the network (such as the margin head in a file whose
            network has the prefix ``backbone.``) follow, with their own names.
        resized: interpolated tensors, such as ``"position embedding resized 12×12 → 14×14"``.
        preprocessing: whether the checkpoint's preprocessing was loaded too (facezoo's own checkpoints contain it).
        dequantized: number of linear layers that were 8-bit integers in the file (``quantize_dynamic``) and are float32 now; they
            compute with the rounded weights.
        entry: part of the checkpoint that was read, such as ``state_dict_ema`` or ``average.model``; empty for all of it.
    """

    source: str
    loaded: int
    replaced: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    preprocessing: bool = False
    resized: tuple[str, ...] = ()
    dequantized: int = 0
    entry: str = ""

    def __str__(self) -> str:
        text = f"loaded {self.loaded} tensors from a {self.source} checkpoint"
        if self.entry:
            text += f", its part {self.entry}"
        if self.dequantized:
            text += f"; {self.dequantized} linear layers of 8-bit integers became float32"
        if self.replaced:
            text += f"; {' and '.join(self.replaced)} kept the network's own weights"
        return "; ".join((text, *self.resized))


def load_checkpoint(
    model: nn.Module,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    *,
    source: str = "auto",
    replace: Collection[str] = (),
    img_size: int | Sequence[int] | None = None,
) -> LoadReport:
    """Load the weights of a checkpoint into ``model``, strictly. On an error ``model`` is not changed.

    It reads facezoo's own files (state dicts, and the trainer's checkpoints, with the moving average if there is one) and the
    layouts of :data:`facezoo.weights.ADAPTERS`. The tensors of checkpoint and network must match one to one; only the counters
    ``num_batches_tracked`` may be missing. A network with a prefix (``backbone.``) is found.

    The layers of an ONNX file are matched in execution order, and the outputs are compared with ONNX Runtime's.

    Position embeddings of a ViT and relative positions of Swin are interpolated if the network has another image size.

    Args:
        model: network built by :func:`facezoo.create_model`, also wrapped or compiled (see :func:`facezoo.modes.unwrap`).
        checkpoint: safetensors, ONNX or PyTorch file, or a state dict; see :func:`facezoo.weights.read_state_dict`.
        source: library that wrote it, one of :data:`facezoo.weights.SOURCES`; ``"auto"`` recognizes it by its keys.
        replace: parts that keep the weights of ``model``, whatever the checkpoint contains: ``"classifier"`` (other classes),
            ``"stem"`` (other ``in_chans`` or another form; with it the first shortcut, if only one side has it),
            ``"embedding"`` (other width, or missing in the checkpoint), ``"pool"`` and ``"hidden"`` (head layers with weights per
            position, for another image size).
        img_size: side, or height and width, of the checkpoint's images in pixels. It determines the grid of a ViT's positions.
            None: the size in the file, if facezoo's trainer wrote it, else the network's own grid, or a square one.

    Raises:
        CheckpointError: unreadable file, unknown layout, or a mismatch; the message lists the first names.
        ValueError: unknown ``source`` or part, an invalid ``img_size``, or ``model`` is on the meta device.
    """
    model = unwrap(model)
    _check_request(model, replace)
    if not isinstance(checkpoint, Mapping) and is_onnx_file(Path(checkpoint)):
        return _load_onnx(model, Path(checkpoint), source, replace)
    name, unpacked, metadata = _read(checkpoint)
    tensors = unpacked.tensors
    stored = _stored_preprocessing(metadata)
    size = _size(img_size, stored)

    problems: list[tuple[float, str, _Reading | None]] = []  # with the number of mismatched names
    for adapter, prefix in readings(tensors.keys(), source):
        try:
            reading = _Reading.of(model, tensors, adapter, prefix, replace, size)
        except CheckpointError as error:
            problems.append((math.inf, f"{name}, read as {adapter.name}: {error}", None))
            continue
        if not reading.problem:
            _fill(model, reading, f"{name}, read as {adapter.name}")
            taken = "stem" not in reading.replaced and stored is not None and _take_preprocessing(model, stored)
            count = len(reading.converted) - len(reading.dropped)
            dropped = (*reading.dropped, *(key for key in tensors if not key.startswith(prefix)))
            entry, counted = ".".join((*unpacked.entries, prefix)).rstrip("."), unpacked.dequantized
            return LoadReport(adapter.name, count, reading.replaced, dropped, taken, reading.resized, counted, entry)
        text = f"{name}, read as {adapter.name}, does not fit this {_name(model)}: {reading.problem}"
        problems.append((reading.wrong, text, reading))
    problem = _nearest(model, problems) or _of_no_layout(name, model, tensors, source)
    raise CheckpointError(problem + _of_the_header(model, metadata))


def _fill(model: nn.Module, reading: _Reading, name: str) -> None:
    try:
        require_loadable(reading.loaded, model.state_dict())
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}; nothing was loaded") from None
    model.load_state_dict(reading.chosen, strict=True)


def _nearest(model: nn.Module, problems: list[tuple[float, str, _Reading | None]]) -> str:
    """The error for the reading with the fewest mismatches, with the arguments of a network that would match."""
    _, problem, closest = min(problems, key=lambda entry: entry[0], default=(0, "", None))
    if closest is None or (arguments := fitting_arguments(model, closest.converted)) is None:
        return problem
    fits = f"All of it fits {as_call(_name(model), arguments)}"
    head, advice, rest = problem.partition(". Pass replace=")
    return f"{head}. {fits}. Or pass replace={rest}" if advice else f"{problem}. {fits}"


def _of_the_header(model: nn.Module, metadata: Mapping[str, str]) -> str:
    """The sentence about the network in the file's header, if that is another one."""
    described = described_call(model, metadata)
    return f". Its header describes {shorten(described, 400)}" if described else ""


def _read(checkpoint: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, Unpacked, Mapping[str, str]]:
    """The checkpoint's name in messages, its tensors, and the strings of its header."""
    if isinstance(checkpoint, Mapping):
        return "the state dict", unpack(checkpoint), {}
    return str(Path(checkpoint)), *read_unpacked(checkpoint)


def _load_onnx(model: nn.Module, path: Path, source: str, replace: Collection[str]) -> LoadReport:
    if source not in ("auto", ONNX):
        raise ValueError(f"{path} is an ONNX file; leave out source={source!r}")
    head = {key for key in model.state_dict() if key.startswith(REPLACEABLE["classifier"])}
    if (head and "classifier" not in replace) or set(replace) - {"classifier"}:
        raise CheckpointError(
            f"{path} is an ONNX file, which gives embeddings: build the network without num_classes, or pass "
            "replace=('classifier',) for its own weights there; nothing else can be replaced"
        )
    state, properties = read_onnx(model, path)
    require_loadable({key: value for key, value in state.items() if key not in head}, model.state_dict())
    model.load_state_dict(state, strict=True)
    stored = _stored_preprocessing(properties)
    taken = stored is not None and _take_preprocessing(model, stored)
    count = sum(key not in head and not key.endswith(".num_batches_tracked") for key in state)
    return LoadReport(ONNX, count, ("classifier",) if head else (), preprocessing=taken)


@dataclass(frozen=True)
class _Reading:
    """A checkpoint read by one adapter: the tensors to load, the number of mismatches, and the problem in words."""

    converted: Mapping[str, Tensor]
    chosen: Mapping[str, Tensor]
    replaced: tuple[str, ...]
    dropped: tuple[str, ...]
    resized: tuple[str, ...]
    wrong: int
    problem: str

    @property
    def loaded(self) -> dict[str, Tensor]:
        """The tensors of ``chosen`` that come from the checkpoint."""
        kept = tuple(REPLACEABLE[part] for part in self.replaced)
        return {key: value for key, value in self.chosen.items() if not key.startswith(kept)}

    @classmethod
    def of(
        cls,
        model: nn.Module,
        tensors: Mapping[str, Tensor],
        adapter: Adapter,
        prefix: str,
        replace: Collection[str],
        img_size: tuple[int, int] | None,
    ) -> _Reading:
        inner = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        try:
            converted = adapter.convert(inner)
        except Exception as error:  # two names become equal, or a tensor has an unexpected shape
            raise CheckpointError(shorten(error)) from None
        target = model.state_dict()
        chosen, replaced, dropped = _select(model, converted, target, replace)
        chosen, resized = resize_positions(model, chosen, target, None if "stem" in replaced else img_size)
        mismatch = Mismatch.between(chosen, target)
        problem = describe(mismatch, chosen, target, _own_names(tensors, converted)) if mismatch else ""
        return cls(converted, chosen, replaced, dropped, resized, len(mismatch), problem)


def _check_request(model: nn.Module, replace: Collection[str]) -> None:
    if isinstance(replace, str):
        raise ValueError(f"replace is a collection of parts, such as ({replace!r},); got the string {replace!r}")
    for part in replace:
        if part not in REPLACEABLE:
            raise ValueError(unknown_name_message("part to replace", part, REPLACEABLE))
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError(
            "the model is on the meta device and has no weights to fill; call model.to_empty(device=...) first"
        )


def _name(model: nn.Module) -> str:
    return str(getattr(getattr(model, "spec", None), "name", type(model).__name__))


def _size(img_size: int | Sequence[int] | None, stored: Preprocessing | None) -> tuple[int, int] | None:
    if img_size is None:
        return stored.img_size if stored is not None else None
    size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise ValueError(f"img_size is the side of the images, or their height and width, in pixels, got {img_size!r}")
    return size[0], size[1]


def _own_names(tensors: Mapping[str, Tensor], converted: Mapping[str, Tensor]) -> dict[str, str]:
    """facezoo's name -> the checkpoint's name, where they differ and the tensor still shares the checkpoint's memory."""
    names = {_memory(tensor): key for key, tensor in tensors.items()}
    origins = {key: names.get(_memory(tensor), key) for key, tensor in converted.items() if _memory(tensor)}
    return {key: origin for key, origin in origins.items() if key != origin}


def _memory(tensor: Tensor) -> int:
    """Address of its storage; 0 for a tensor without one (empty, sparse, on the meta device)."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided else 0


def _of_no_layout(name: str, model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> str:
    """The message for an unknown layout: the known layouts, and the closest one if it is near."""
    adapters = [entry for entry in ADAPTERS if source in ("auto", entry.source)]
    known = ", ".join(entry.name for entry in adapters)
    message = (
        f"{name}: its {len(tensors)} keys ({some(tensors)}) are of no layout that facezoo knows"
        f"{'' if source == 'auto' else f' from source {source!r}'} (known: {known})"
    )
    target = model.state_dict()
    closest, found, problem = "", 0, ""
    for prefix in nested_names(tensors.keys()):
        for adapter in adapters:
            try:
                reading = _Reading.of(model, tensors, adapter, prefix, (), None)
            except CheckpointError:
                continue
            count = len(reading.converted.keys() & target.keys())
            if count > found:
                closest, found, problem = adapter.name, count, reading.problem
    if 2 * found < len(target):
        return message
    return f"{message}. The closest is {closest}, with {found} of the {len(target)} names of this {_name(model)}: {problem}"


def _select(
    model: nn.Module, converted: Mapping[str, Tensor], target: Mapping[str, Tensor], replace: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """The tensors to load, the replaced parts, and the unused names of the checkpoint."""
    kept_prefixes = tuple(prefix for part, prefix in REPLACEABLE.items() if part in replace)
    if "stem" in replace and _touches(FIRST_SHORTCUT, target, ()) != _touches(FIRST_SHORTCUT, converted, ()):
        kept_prefixes = (*kept_prefixes, FIRST_SHORTCUT)
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
    """Names that a network built with ``features_only`` leaves out on purpose."""
    stages, spec = getattr(model, "stages", None), getattr(model, "spec", None)
    if hasattr(model, "head") or not isinstance(stages, nn.ModuleList) or spec is None:
        return ()
    return ("head.", "classifier.", *(f"stages.{index}." for index in range(len(stages), len(spec.stages))))


def _stored_preprocessing(metadata: Mapping[str, str]) -> Preprocessing | None:
    """The preprocessing that facezoo's trainer (``network``) or :func:`facezoo.export` writes beside the weights."""
    own = "facezoo.preprocessing"
    try:
        return Preprocessing.from_dict(
            json.loads(metadata[own]) if own in metadata else json.loads(metadata["network"])["preprocessing"]
        )
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _take_preprocessing(model: nn.Module, stored: Preprocessing) -> bool:
    """Load the checkpoint's preprocessing, except for the image size if the network has a fixed size."""
    own: object = getattr(model, "preprocessing", None)
    if not isinstance(own, Preprocessing):
        return False
    fixed = hasattr(getattr(model, "stem", None), "grid") or getattr(getattr(model, "head", None), "fixed_map", False)
    values = dataclasses.replace(stored, img_size=own.img_size) if fixed else stored
    model.preprocessing = values  # type: ignore[assignment]
    if isinstance(config := getattr(model, "config", None), dict):
        config["img_size"] = list(values.img_size)  # as it is saved and rebuilt
    return True
