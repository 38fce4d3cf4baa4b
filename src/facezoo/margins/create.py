""":func:`create_margin`: a head by the name of its margin."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch

from facezoo.checks import is_whole, plain_number
from facezoo.margins.head import MarginHead
from facezoo.margins.margin import MARGINS
from facezoo.registry import unknown_name_message

# Options of every head.
_HEAD_OPTIONS = tuple(
    name
    for name, parameter in inspect.signature(MarginHead).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is not parameter.empty
)


def create_margin(name: str, *, embedding_dim: int, num_classes: int, **options: object) -> MarginHead:
    """Build a margin head by name.

    ::

        head = create_margin("arcface", embedding_dim=512, num_classes=8631, margin=0.5, scale=64.0)
        loss = head(embeddings, labels)

    Args:
        name: one of :func:`list_margins`.
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        **options: the margin's own options (:func:`describe_margin` lists them with their defaults) and those of every head:
            ``label_smoothing``, ``engine``, ``block_size``, ``warmup_steps``, ``warmup_scale``, ``interclass_filter``,
            ``process_group``, ``sample_rate``, ``optimizer_in_backward``, see :class:`MarginHead`. Anything else is an error.

    Returns:
        A :class:`MarginHead` in training mode.

    Raises:
        UnknownNameError: no such margin.
        TypeError: an option that this margin does not have.
        ValueError: an option out of its range.
    """
    margin = MARGINS[name]
    accepted = [*margin.defaults, *_HEAD_OPTIONS]
    for key, value in options.items():
        if key not in accepted:
            raise TypeError(
                f"margin {name!r}: {unknown_name_message('option', key, accepted)} (got {key}={value!r}). "
                f"It accepts {', '.join(accepted)}"
            )
    sizes = {"embedding_dim": plain_number(embedding_dim), "num_classes": plain_number(num_classes)}
    for key, size in sizes.items():
        if not is_whole(size):
            raise ValueError(f"{key} is a whole number of at least 1, got {size!r}")
    options = {key: plain_number(value) for key, value in options.items()}
    own = {key: value for key, value in options.items() if key in margin.defaults}
    others = cast("dict[str, Any]", {key: value for key, value in options.items() if key not in own})
    with torch.inference_mode(False):  # parameters created in that mode can never be trained
        return MarginHead(margin(**own), **cast("dict[str, Any]", sizes), **others)
