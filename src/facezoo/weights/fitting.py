"""Find the arguments of ``create_model`` that match the shapes of a checkpoint, for error messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from facezoo.weights.undrawn import without_storage

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


def fitting_arguments(model: nn.Module, converted: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The arguments of ``create_model`` that must change so that all shapes match the checkpoint.

    Args:
        model: a network of ``create_model``.
        converted: the checkpoint with facezoo's names.

    Returns:
        The arguments; None if nothing matches, or ``model`` is not a complete facezoo network.
    """
    config, spec = getattr(model, "config", None), getattr(model, "spec", None)
    if not isinstance(config, dict) or spec is None:
        return None
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items() if key != "name"}
    wanted = {key: tuple(value.shape) for key, value in converted.items() if not key.endswith(".num_batches_tracked")}
    for candidate in _candidates(own, spec, converted):
        try:
            with without_storage():
                built = type(model)(spec, **candidate).state_dict()
        except Exception:  # invalid size for this network
            continue
        if wanted == {
            key: tuple(value.shape) for key, value in built.items() if not key.endswith(".num_batches_tracked")
        }:
            return {key: value for key, value in candidate.items() if value != own.get(key)}
    return None


def as_call(name: str, arguments: Mapping[str, Any]) -> str:
    """``create_model("name", key=value)``, and the same as command line options."""
    call = ", ".join([f'"{name}"', *(f"{key}={value!r}" for key, value in arguments.items())])
    options = " ".join(f"--{key.replace('_', '-')} {_as_option(value)}" for key, value in arguments.items())
    return f"create_model({call}) (on the command line {options})"


def _as_option(value: object) -> str:
    if value is None:
        return "0"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _candidates(own: dict[str, Any], spec: Any, converted: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
    """Arguments to try: the network's own form first, then others, each with the checkpoint's widths."""
    widths = {
        **own,
        "embedding_dim": _embedding(spec, converted),
        "num_classes": _rows("classifier.weight", converted) or 0,
    }
    stem = next((value for key, value in converted.items() if key.startswith("stem.") and value.dim() == 4), None)
    channels = [own["in_chans"]] if stem is None else list(dict.fromkeys((int(stem.shape[1]), own["in_chans"])))
    for form in dict.fromkeys((own["stem"], *spec.stems)):
        for in_chans in channels:
            for size in dict.fromkeys((own["img_size"], *SIZES)):
                yield {**widths, "stem": form, "in_chans": in_chans, "img_size": size}


def _embedding(spec: Any, converted: Mapping[str, Tensor]) -> int | None:
    rows = _rows("head.embedding.weight", converted) or _rows("head.embedding.expand.weight", converted)
    if rows is None:
        return None
    return rows // 2 if spec.head.options.get("act") == "mfm" else rows


def _rows(key: str, tensors: Mapping[str, Tensor]) -> int | None:
    return int(tensors[key].shape[0]) if key in tensors and tensors[key].dim() else None
