"""Networks with weights: from a registered record, a repository on the Hub, or a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from facezoo.models.init import drawing_only
from facezoo.models.network import DEFAULTS, OF_THE_HEAD, NetworkOptions, preprocessing_for
from facezoo.models.rebuild import check_description
from facezoo.models.spec import ModelSpec
from facezoo.registry import unknown_name_message
from facezoo.weights import CheckpointError, fetch_weights, load_checkpoint
from facezoo.weights.mismatch import FIRST_SHORTCUT, REPLACEABLE
from facezoo.weights.pretrained import PretrainedFiles, find_pretrained, is_pretrained_name
from facezoo.weights.records import get_weights

M = TypeVar("M", bound=nn.Module)

# Arguments by the part of the network that gets random weights if the caller's value differs from the weights'.
_PARTS = {"stem": ("stem", "in_chans"), "embedding": ("embedding_dim",), "classifier": ("num_classes", "embedding_dim")}


def with_weights(
    find_spec: Callable[[str], ModelSpec],
    build: Callable[[ModelSpec, NetworkOptions], M],
    name: str,
    pretrained: bool | str,
    given: NetworkOptions,
    *,
    without_head: bool,
) -> M:
    """The network of ``create_model(name, pretrained=..., **given)``.

    The caller's arguments override those of the weights, which override the defaults.

    Args:
        find_spec: returns the spec of a registered name.
        build: builds the network.
        name: a registered name, ``"hf-hub:…"`` or ``"local-dir:…"``.
        pretrained: True, or the tag of registered weights.
        given: the caller's arguments.
        without_head: whether the network has no head, and accepts no arguments for one.
    """
    if not is_pretrained_name(name):
        find_spec(name)  # a misspelled model gets another error than one without weights
    found = _find(name, pretrained)
    tensors = found.tensors()
    if found.config is not None:  # a file's own description is checked; a record belongs to facezoo
        description = {"name": found.model, **_sizes(found), **found.model_args}
        check_description(find_spec, description, tensors, f"{found.origin}{_written_by(found)}")
    base = _arguments(found)
    if without_head:
        base = {key: value for key, value in base.items() if key not in OF_THE_HEAD}
    new = _parts_anew(base, given)
    with drawing_only([*(REPLACEABLE[part] for part in new), *([FIRST_SHORTCUT] if "stem" in new else [])]):
        model = build(find_spec(found.model), cast(NetworkOptions, {**base, **given}))
    _load(model, found, tensors, new)
    network = cast(Any, model)
    network.preprocessing = preprocessing_for(found.preprocessing, network.in_chans, network.preprocessing.img_size)
    return model


def random_parts(name: str, pretrained: bool | str, given: NetworkOptions) -> list[str]:
    """The parts of ``create_model(name, pretrained=..., **given)`` that get random weights, since the weights have others."""
    base = _arguments(_find(name, pretrained))
    whole = {**DEFAULTS, **base, **given}
    missing = {"classifier": not whole["num_classes"], "embedding": whole["embedding_dim"] is None}
    return [part for part in _parts_anew(base, given) if not missing.get(part)]


def _parts_anew(base: Mapping[str, Any], given: NetworkOptions) -> list[str]:
    defaults = {**DEFAULTS, **base}
    changed = {key for key, value in given.items() if value != defaults.get(key)}
    return [part for part, arguments in _PARTS.items() if changed & set(arguments)]


def _find(name: str, pretrained: bool | str) -> PretrainedFiles:
    if is_pretrained_name(name):
        if isinstance(pretrained, str):
            raise ValueError(
                f"tags are those of registered weights; {name} has none (leave out pretrained={pretrained!r})"
            )
        return find_pretrained(name)
    return fetch_weights(get_weights(name, pretrained if isinstance(pretrained, str) else None))


def _arguments(found: PretrainedFiles) -> dict[str, Any]:
    """The arguments of ``create_model`` that belong to the weights."""
    for key in found.model_args:
        if key not in DEFAULTS:
            message = unknown_name_message("argument", key, DEFAULTS)
            raise CheckpointError(f"{found.origin}: {message}{_written_by(found)}")
    return {**_sizes(found), **found.model_args}


def _sizes(found: PretrainedFiles) -> dict[str, Any]:
    return {"img_size": list(found.preprocessing.img_size), "in_chans": len(found.preprocessing.mean)}


def _load(model: Any, found: PretrainedFiles, tensors: Mapping[str, Tensor], parts: list[str]) -> None:
    try:
        size = found.preprocessing.img_size
        load_checkpoint(model, tensors, source=found.layout, replace=parts, img_size=size)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if found.origin in text else f"{found.origin}: {text}") from error


def _written_by(found: PretrainedFiles) -> str:
    return f" (it was written by facezoo {found.config.facezoo_version})" if found.config else ""
