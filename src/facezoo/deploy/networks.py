"""Open a network by any name: run, checkpoint, Hub repository, folder, another library's weights, model name or ONNX file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facezoo.deploy.runtime import ExportedNetwork, describes_itself, input_shape
from facezoo.devices import resolve_device
from facezoo.margins import create_margin
from facezoo.models import Preprocessing, create_model, get_model_spec, is_model, list_models
from facezoo.models.init import drawing_only
from facezoo.models.pretrained import random_parts
from facezoo.models.rebuild import check_description, check_numbers, check_shapes
from facezoo.registry import unknown_name_message
from facezoo.renamed import current_state
from facezoo.weights import (
    CheckpointError,
    fetch_weights,
    find_pretrained,
    get_weights,
    is_pretrained_name,
    list_weights,
    read_file,
)
from facezoo.weights.config import CONFIG_FILE
from facezoo.weights.errors import shorten
from facezoo.weights.pretrained import MARGIN_FILE
from facezoo.weights.records import WEIGHTS
from facezoo.weights.run_format import (
    NetworkRecord,
    fill_module,
    find_checkpoint,
    is_training_only,
    is_weight,
    network_record,
    require_format,
    with_prefix,
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network in evaluation mode.

    Attributes:
        path: the checkpoint.
        model: images -> embeddings.
        head: margin head; ``head.logits(embeddings)`` classifies. None if the checkpoint has no head.
        preprocessing: preprocessing of its images.
        classes: class names in the order of the logits.
        metrics: figures of its last evaluation during training (fractions of 1, cosine for ``threshold``).
    """

    path: Path
    model: Any
    head: Any
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    metrics: dict[str, float]


def open_network(
    name: str | Path,
    *,
    model: str | None = None,
    pretrained: str | None = None,
    device: str | torch.device = "cpu",
    random: bool = False,
    arguments: Mapping[str, object] | None = None,
    images: Mapping[str, object] | None = None,
) -> TrainedNetwork:
    """Open the network called ``name``, in evaluation mode.

    Args:
        name: a run folder, a checkpoint of ``facezoo train``, ``"hf-hub:owner/name"``, ``"local-dir:path"``, a file of
            :func:`facezoo.export` (``.onnx``, ``.pt2``), another library's weight file (with ``model``), registered weights
            (``MODEL.TAG``), or a model (with ``pretrained`` or ``random``).
        model: the model that a weight file belongs to.
        pretrained: tag of the weights that are registered for the model ``name``.
        device: device of the network; ``"auto"`` is CUDA if available.
        random: whether a model without weights is allowed; its weights are then random.
        arguments: arguments of :func:`facezoo.create_model`, for files that do not describe their network.
        images: fields of :class:`~facezoo.models.Preprocessing`, likewise; a single ``mean`` or ``std`` is used for all channels.

    Raises:
        ValueError: the arguments contradict each other, or the name is neither a file nor a model.
        CheckpointError: the weights are missing or do not match.
    """
    given: dict[str, Any] = dict(arguments or {})
    path = Path(name)
    device = resolve_device(device)
    if model is not None and pretrained is not None:
        raise ValueError(f"--model is for a weight file, --pretrained for the name of a model; {name} cannot be both")
    if model is None and pretrained is None and is_registered(name):
        record = WEIGHTS[str(name)]
        name, pretrained = record.model, record.tag
    if pretrained is not None:
        network = create_model(str(name), pretrained=pretrained, **given)
        path = fetch_weights(get_weights(str(name), pretrained)).path
    elif model is not None:
        network = create_model(model, checkpoint_path=path, **given)
    elif is_pretrained_name(name) and given:
        network = create_model(str(name), **given)
    elif path.suffix.lower() == ".onnx" and path.exists() and not given and not describes_itself(path):
        return _open_foreign(path, images or {})
    elif is_pretrained_name(name) or path.exists():
        _refuse_description(str(name), [*given, *(images or {})])
        return _open_exported(path) if path.suffix.lower() in (".onnx", ".pt2") else load_trained(name, device)
    else:
        _require_weights(str(name), random)
        network = create_model(str(name), **given)
    if given and not random and (pretrained is not None or is_pretrained_name(name)):
        _refuse_random_parts(str(name), pretrained or False, given)
    network.preprocessing = _with_images(
        network.preprocessing, images or {}
    )  # so that it is saved and exported with the network
    return TrainedNetwork(path, network.to(device).eval(), None, network.preprocessing, (), {})


def option_names(words: Iterable[str]) -> str:
    """Names of arguments as those of command line options."""
    return ", ".join("--" + word.replace("_", "-") for word in words)


def _refuse_description(name: str, words: list[str]) -> None:
    """Raise if a network that describes itself is described by the caller."""
    if words:
        raise ValueError(
            f"{name} describes itself; {option_names(words)} goes with a weight file of another library (--model), or with the "
            "name of a model"
        )


def _refuse_random_parts(name: str, pretrained: bool | str, given: dict[str, Any]) -> None:
    """Raise if these arguments leave a part of the network without the weights that ``name`` stands for."""
    if parts := random_parts(name, pretrained, given):  # type: ignore[arg-type]
        raise ValueError(
            f"with {option_names(given)} the {' and '.join(parts)} of {name} would have random weights, since its own are others: "
            "leave them out, or train them first"
        )


def is_random(name: str | Path, model: str | None = None, pretrained: str | None = None) -> bool:
    """Whether these arguments of :func:`open_network` name a model without weights."""
    named = model is not None or pretrained is not None or is_pretrained_name(name) or Path(name).exists()
    return not named and not is_registered(name)


def is_registered(name: str | Path) -> bool:
    """Whether ``name`` is ``MODEL.TAG`` of registered weights, and no file."""
    return "." in str(name) and not Path(name).exists() and str(name) in WEIGHTS


def _require_weights(name: str, random: bool) -> None:
    """Raise if the name is neither a file nor a model, or if it is a model without weights and ``random`` is False."""
    if not is_model(name):
        raise ValueError(f"there is no file {name}; {unknown_name_message('model', name, list_models())}")
    if not random:
        tags = ", ".join(record.tag for record in list_weights(name)) or "none is registered"
        raise ValueError(
            f"{name} is a model without weights: name a checkpoint, or choose registered ones with --pretrained TAG ({tags})"
        )


def _open_exported(path: Path) -> TrainedNetwork:
    network = ExportedNetwork(path)
    if network.metadata.get("output", "embedding") != "embedding":
        raise ValueError(
            f"{path} was exported with output={network.metadata['output']!r}; here its embeddings are needed"
        )
    return TrainedNetwork(path, network, None, network.preprocessing, (), {})


def _open_foreign(path: Path, images: Mapping[str, object]) -> TrainedNetwork:
    """Open an ONNX file of another program. The caller gives the preprocessing; the image size is read from the file."""
    if not {"mean", "std"} <= images.keys():
        raise ValueError(
            f"{path} says nothing about its preprocessing, so it was not written by facezoo.export; say --mean and --std "
            "(on [0, 1], such as 0.5 and 0.5), and --channel-order and --crop where they differ from rgb and the whole image"
        )
    channels, *size = input_shape(path)
    own = Preprocessing((size[0], size[1]), (0.5,) * channels, (0.5,) * channels)
    network = ExportedNetwork(path, preprocessing=_with_images(own, images))
    return TrainedNetwork(path, network, None, network.preprocessing, (), {})


def _with_images(own: Preprocessing, given: Mapping[str, Any]) -> Preprocessing:
    """``own`` with the given fields replaced."""
    values, channels = dict(given), len(own.mean)
    for name in {"mean", "std"} & values.keys():
        if len(values[name]) == 1:
            values[name] = values[name] * channels
        if len(values[name]) != channels:
            raise ValueError(f"--{name} has {len(values[name])} values for {channels} channels")
    return dataclasses.replace(own, **values)


def load_trained(path: str | Path, device: str | torch.device = "cpu") -> TrainedNetwork:
    """Rebuild a network from its checkpoint alone.

    Args:
        path: a checkpoint, a run folder (then its ``best.safetensors``, or ``last.safetensors`` if there is no best yet),
            a folder of ``save_pretrained`` or ``facezoo convert``, ``"hf-hub:owner/name"`` or ``"local-dir:path"``.
        device: device of the network.

    Returns:
        The network in evaluation mode, with the averaged weights if the run has an average.

    Raises:
        CheckpointError: the file does not exist, is not a training checkpoint, or does not match its own description.
    """
    if is_pretrained_name(path):
        return _load_pretrained(str(path), device)
    if _is_saved_folder(Path(path)):
        return _load_pretrained(f"local-dir:{path}", device)
    path = find_checkpoint(path)
    tensors, metadata = read_file(path)
    tensors = current_state(tensors)
    require_format(path, metadata)
    record = network_record(path, metadata)
    averaged = with_prefix(tensors, "average.")
    weights = averaged or {
        name: value for name, value in tensors.items() if is_weight(name) and not is_training_only(name)
    }
    network_weights = with_prefix(weights, "model.")
    arguments = check_description(get_model_spec, record.model, network_weights, str(path))
    preprocessing = _preprocessing(path, record)
    with drawing_only(()):
        model = create_model(**arguments)
    fill_module(path, model, network_weights)
    head = _head(path, record.head, with_prefix(weights, "head."))
    if head is not None:
        head = head.to(device).eval()
    model.preprocessing = preprocessing  # so that save_pretrained writes it too
    return TrainedNetwork(path, model.to(device).eval(), head, preprocessing, record.classes, record.metrics)


def _is_saved_folder(path: Path) -> bool:
    """Whether ``path`` is what ``save_pretrained`` or ``facezoo convert`` has written, and no run folder."""
    run = any((path / name).exists() for name in ("best.safetensors", "last.safetensors"))
    return path.is_dir() and not run and (path / CONFIG_FILE).is_file()


def _load_pretrained(name: str, device: str | torch.device) -> TrainedNetwork:
    """Load a network written by ``save_pretrained`` or ``push_to_hub``, with its margin head."""
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


def _preprocessing(path: Path, record: NetworkRecord) -> Preprocessing:
    try:
        return Preprocessing.from_dict(record.preprocessing)
    except ValueError as error:
        raise CheckpointError(f"{path}: the preprocessing in its header is damaged ({shorten(error)})") from None


def _head(path: Path, description: object, tensors: Mapping[str, Tensor]) -> Any:
    """The margin head that a file describes, with its weights; None for an empty description. Sizes are checked before
    allocation."""
    if not description:
        return None
    options = description.get("options") if isinstance(description, dict) else None
    name = description.get("name") if isinstance(description, dict) else None
    if not isinstance(options, Mapping) or not isinstance(name, str):
        raise CheckpointError(f"{path}: the description of the margin head is damaged")
    check_numbers(options, tensors, f"{path}, margin head {shorten(name)}")
    check_shapes(lambda: create_margin(name, **options), tensors, f"{path}, margin head {shorten(name)}")
    head = create_margin(name, **options)
    fill_module(path, head, tensors)
    return head
