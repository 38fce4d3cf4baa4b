"""Find the arguments of ``create_model`` that match the shapes of a checkpoint, for error messages."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from facezoo.counting import without_storage

Shapes = dict[str, tuple[int, ...]]

_SHAPING = ("embedding_dim", "img_size", "stem", "in_chans")  # arguments that change shapes

# Common image sizes of face networks, (height, width), to try if a layer has weights per position.
SIZES = (
    (112, 112),
    (112, 96),
    (128, 128),
    (160, 160),
    (224, 224),
    (96, 96),
    (64, 64),
    (100, 100),
    (96, 112),
    (192, 192),
)

_OPTIONS = {"num_classes", "embedding_dim", "img_size", "stem", "in_chans"}  # those that the command line has


def fitting_arguments(model: nn.Module, converted: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of ``create_model``, besides its defaults, of the network like ``model`` whose shapes match the checkpoint.

    Args:
        model: a network of ``create_model``.
        converted: the checkpoint with facezoo's names.

    Returns:
        The arguments; None if nothing matches, if ``model`` itself does, or if it is not a complete facezoo network.
    """
    config, spec = getattr(model, "config", None), getattr(model, "spec", None)
    if not isinstance(config, dict) or spec is None:
        return None
    own = _without_name(config)
    wanted = _shapes(converted)
    sizes = list(dict.fromkeys((own["img_size"], *SIZES)))
    smallest, largest = (tuple(map(pick, zip(*sizes, strict=True))) for pick in (min, max))
    for form in _forms(own, spec, converted):
        of_size = functools.cache(functools.partial(_built, type(model), spec, form))
        if not _may_fit(wanted, of_size(smallest), of_size(largest)):
            continue
        for size in sizes:
            if of_size(size) == wanted:
                candidate, defaults = {**form, "img_size": size}, _defaults(type(model), spec)
                told = {key: value for key, value in candidate.items() if key not in defaults or value != defaults[key]}
                return None if candidate == own else told
    return None


def _without_name(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items() if key != "name"}


def _defaults(network: type[nn.Module], spec: Any) -> dict[str, Any]:
    """The arguments of the network that ``create_model`` builds from the name alone; empty if it builds none."""
    try:
        with without_storage():
            built: Any = network(spec)
    except Exception:  # it has no such stem, or is for images of another size
        return {}
    return _without_name(built.config)


def as_call(name: str, arguments: Mapping[str, Any]) -> str:
    """``create_model("name", key=value)``, and the same as command line options if there are such."""
    call = ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in arguments.items())])
    options = {"model": name, **arguments}.items()
    written = " ".join(f"--{key.replace('_', '-')} {_as_option(value)}" for key, value in options)
    told = f" (on the command line {written})" if arguments.keys() <= _OPTIONS else ""
    return f"create_model({call}){told}"


def described_call(model: nn.Module, metadata: Mapping[str, str]) -> str:
    """The network that the header of a run's checkpoint describes, as :func:`as_call`; "" without one, or if it is of this name."""
    own = getattr(model, "config", {})
    try:
        theirs = json.loads(metadata["network"])["model"]
        name = theirs["name"]
        changed = {key: theirs[key] for key in _SHAPING if key in theirs and theirs[key] != own.get(key)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return ""
    if not isinstance(name, str) or name == own.get("name"):
        return ""
    return as_call(name, {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()})


def _as_option(value: object) -> str:
    if value is None:
        return "0"
    sides = value if isinstance(value, tuple) else (value,)
    return "x".join(map(str, sides if len(set(sides)) > 1 else sides[:1]))


def _forms(own: dict[str, Any], spec: Any, converted: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Arguments to try, of all sizes: the network's own form first, then others, each with the checkpoint's widths."""
    widths = {
        **own,
        "embedding_dim": _embedding(spec, converted),
        "num_classes": _rows("classifier.weight", converted) or 0,
    }
    stem = next((value for key, value in converted.items() if key.startswith("stem.") and value.dim() == 4), None)
    channels = [own["in_chans"]] if stem is None else list(dict.fromkeys((int(stem.shape[1]), own["in_chans"])))
    for form in dict.fromkeys((own["stem"], *spec.stems)):
        for in_chans in channels:
            yield {**widths, "stem": form, "in_chans": in_chans}


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in tensors.items() if not key.endswith(".num_batches_tracked")}


def _built(network: type[nn.Module], spec: Any, form: dict[str, Any], size: tuple[int, int]) -> Shapes | None:
    """Names and shapes of this form for images of this size; None if there is no such network."""
    try:
        with without_storage():
            return _shapes(network(spec, **{**form, "img_size": size}).state_dict())
    except Exception:  # invalid size for this network
        return None


def _may_fit(wanted: Shapes, smallest: Shapes | None, largest: Shapes | None) -> bool:
    """Whether some size can match: what is the same for the smallest and the largest images is the same for all of them."""
    if smallest is None or largest is None:
        return True
    same = {key for key, shape in smallest.items() if largest.get(key) == shape}
    return wanted.keys() == smallest.keys() and all(wanted[key] == smallest[key] for key in same)


def _embedding(spec: Any, converted: Mapping[str, Tensor]) -> int | None:
    rows = _rows("head.embedding.weight", converted) or _rows("head.embedding.expand.weight", converted)
    if rows is None:
        return None
    return rows // 2 if spec.head.options.get("act") == "mfm" else rows


def _rows(key: str, tensors: Mapping[str, Tensor]) -> int | None:
    return int(tensors[key].shape[0]) if key in tensors and tensors[key].dim() else None
