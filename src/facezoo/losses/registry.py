"""The registry of losses and :func:`create_loss`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from facezoo.registry import Registry, unknown_name_message

# A loss is a class (or function) that takes named options and returns a module `criterion(embeddings, labels) -> scalar`.
_MARGIN = "it is a margin-softmax head: facezoo.create_margin({!r}, embedding_dim=..., num_classes=...)"
LOSSES: Registry[Any] = Registry(
    "loss",
    listed_by="facezoo.list_losses()",
    elsewhere={
        **{
            name: _MARGIN.format(name)
            for name in (
                "arcface",
                "cosface",
                "sphereface",
                "adaface",
                "magface",
                "curricularface",
                "normface",
                "linear",
            )
        },
        "softmax": "on embeddings " + _MARGIN.format("linear") + "; on logits: facezoo.create_loss('cross_entropy')",
        "am_softmax": _MARGIN.format("am_softmax"),
        "a_softmax": _MARGIN.format("sphereface"),
        "ce": "cross_entropy",
        "crossentropy": "cross_entropy",
        "triplet_margin": "triplet",
        "ntxent": "nt_xent",
        "infonce": "nt_xent",
        "info_nce": "nt_xent",
        "ms": "multi_similarity",
    },
)
register_loss = LOSSES.register


class Criterion(nn.Module):
    """The interface of a loss: a module whose call returns a scalar. Losses need not inherit from it."""

    if TYPE_CHECKING:  # torch types the call of a module as Any

        def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor: ...  # noqa: D102


def create_loss(name: str, **options: Any) -> Criterion:
    """Build a loss by name.

    ::

        criterion = create_loss("triplet", margin=0.2, mining="batch_hard")
        loss = criterion(embeddings, labels)

    Args:
        name: one of :func:`list_losses`.
        **options: the loss's own options; its class documents them. Anything else is an error.

    Returns:
        A module ``criterion(embeddings (N, D), labels (N,)) -> scalar``; ``"cross_entropy"`` takes logits ``(N, C)`` instead.

    Raises:
        UnknownNameError: an unknown loss.
        TypeError: an unknown option, or a required option is missing.
        ValueError: an option out of range.
    """
    build = LOSSES[name]
    parameters = inspect.signature(build).parameters
    for key, value in options.items():
        if key not in parameters:
            accepted = ", ".join(parameters) or "none"
            raise TypeError(
                f"loss {name!r}: {unknown_name_message('option', key, list(parameters))} (got {key}={value!r}). "
                f"It accepts {accepted}"
            )
    missing = [
        key for key, parameter in parameters.items() if parameter.default is parameter.empty and key not in options
    ]
    if missing:
        raise TypeError(f"loss {name!r} needs {', '.join(missing)}")
    criterion: Criterion = build(**options)
    return criterion


def list_losses(pattern: str = "*") -> list[str]:
    """Names of the losses that match a wildcard pattern, in natural order."""
    return LOSSES.list(pattern)
