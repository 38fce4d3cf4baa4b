"""Networks that come with their weights: a registered record, a repository on the Hub, or a folder."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar, cast

from torch import Tensor

from facezoo.models.init import drawing_only
from facezoo.models.rebuild import check_description
from facezoo.models.spec import ModelSpec
from facezoo.registry import unknown_name_message
from facezoo.weights import CheckpointError, load_checkpoint
from facezoo.weights.mismatch import REPLACEABLE
from facezoo.weights.pretrained import PretrainedFiles, fetch_weights, find_pretrained, is_pretrained_name
from facezoo.weights.records import get_weights

F = TypeVar("F", bound=Callable[..., Any])

# Arguments that say what to build from the weights, and are none of the network.
_NOT_OF_THE_NETWORK = ("name", "pretrained", "checkpoint_path", "features_only", "out_indices")
_OF_THE_HEAD = ("num_classes", "embedding_dim", "global_pool", "drop_rate")
# Arguments by the part of the network that starts anew where the caller's differ from those of the weights.
_PARTS = {"stem": ("stem", "in_chans"), "embedding": ("embedding_dim",), "classifier": ("num_classes", "embedding_dim")}


def with_pretrained(build: F) -> F:
    """Let ``build``, which is ``create_model``, take ``pretrained`` and the names ``"hf-hub:…"`` and ``"local-dir:…"``.

    Which arguments were given, be it with the value of their default, is seen here and nowhere else: the others are the weights'.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def create(*args: Any, **kwargs: Any) -> Any:
        try:
            given = dict(signature.bind(*args, **kwargs).arguments)
        except TypeError:
            return build(*args, **kwargs)  # says it in its own name
        name, pretrained = given.pop("name"), given.pop("pretrained", False)
        if pretrained in (False, None) and not is_pretrained_name(name):
            return build(*args, **kwargs)
        if given.pop("checkpoint_path", None) is not None:
            raise ValueError("the weights come from checkpoint_path, or from pretrained or a repository; not from both")
        found = _find(name, pretrained, build)
        tensors = found.tensors()
        if found.config is not None:  # what a file says about itself; a record is the program's own
            description = {"name": found.model, **_sizes(found), **found.model_args}
            check_description(_spec, description, tensors, f"{found.origin}{_written_by(found)}")
        base = _arguments(found, signature.parameters)
        if given.get("features_only"):
            base = {key: value for key, value in base.items() if key not in _OF_THE_HEAD}
        defaults = {key: parameter.default for key, parameter in signature.parameters.items()}
        changed = {key for key, value in given.items() if value != base.get(key, defaults[key])}
        new = [part for part, arguments in _PARTS.items() if changed & set(arguments)]
        with drawing_only([REPLACEABLE[part] for part in new]):
            model = build(found.model, **{**base, **given})
        _load(model, found, tensors, new)
        if "in_chans" not in changed:
            size = model.preprocessing.img_size
            model.preprocessing = dataclasses.replace(found.preprocessing, img_size=size)
        return model

    return cast(F, create)


def _find(name: str, pretrained: bool | str, build: Callable[..., Any]) -> PretrainedFiles:
    if is_pretrained_name(name):
        if isinstance(pretrained, str):
            raise ValueError(
                f"tags are those of registered weights; {name} has none (leave out pretrained={pretrained!r})"
            )
        return find_pretrained(name)
    from facezoo.models.factory import get_model_spec

    get_model_spec(name)  # a misspelt model is told from one without weights
    return fetch_weights(get_weights(name, pretrained if isinstance(pretrained, str) else None))


def _arguments(found: PretrainedFiles, parameters: Collection[str]) -> dict[str, Any]:
    """The arguments of ``create_model`` that the weights were made with."""
    known = [key for key in parameters if key not in _NOT_OF_THE_NETWORK]
    for key in found.model_args:
        if key not in known:
            raise CheckpointError(f"{found.origin}: {unknown_name_message('argument', key, known)}{_written_by(found)}")
    return {**_sizes(found), **found.model_args}


def _sizes(found: PretrainedFiles) -> dict[str, Any]:
    return {"img_size": list(found.preprocessing.img_size), "in_chans": len(found.preprocessing.mean)}


def _spec(name: str) -> ModelSpec:
    from facezoo.models.factory import get_model_spec

    return get_model_spec(name)


def _load(model: Any, found: PretrainedFiles, tensors: Mapping[str, Tensor], parts: list[str]) -> None:
    try:
        size = found.preprocessing.img_size
        load_checkpoint(model, tensors, source=found.layout, replace=parts, img_size=size)
    except CheckpointError as error:
        text = str(error)
        raise CheckpointError(text if found.origin in text else f"{found.origin}: {text}") from error


def _written_by(found: PretrainedFiles) -> str:
    return f" (it was written by facezoo {found.config.facezoo_version})" if found.config else ""
