"""Rebuild networks from descriptions in files: only registered names and known arguments, with sizes checked before
allocation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from facezoo.checks import is_whole
from facezoo.counting import without_storage
from facezoo.models.network import DEFAULTS, FaceNetwork
from facezoo.models.spec import ModelSpec
from facezoo.registry import unknown_name_message
from facezoo.weights.errors import CheckpointError, shorten

# Arguments allowed in a file: those of FaceNetwork.config, no others of create_model.
ARGUMENTS = tuple(DEFAULTS)
_LARGEST_IMAGE = 16384  # pixels of a side
_LARGEST_NUMBER = 10**7  # largest number in a description; warm-up steps are the largest legitimate ones


def check_description(
    find: Callable[[str], ModelSpec], description: object, tensors: Mapping[str, Tensor], where: str
) -> dict[str, Any]:
    """The arguments of ``create_model`` in a file's ``description``, after checking that they match its ``tensors``.

    The network is built on the meta device and its names and shapes are compared with the tensors, so a small file that claims
    huge tensors allocates no memory.

    Args:
        find: returns the spec of a name; raises ``ValueError`` for a name that is not registered.
        description: the file's description: a dictionary with ``name`` and some of :data:`ARGUMENTS`.
        tensors: the weights in the file, by facezoo's names.
        where: the file, for messages.

    Raises:
        CheckpointError: not a description, a forbidden argument, or an argument that does not match the weights.
    """
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        raise CheckpointError(f"{where}: the description of its network has no name")
    name, arguments = description["name"], {key: value for key, value in description.items() if key != "name"}
    unknown = [key for key in arguments if key not in ARGUMENTS]
    if unknown:
        message = unknown_name_message("argument", shorten(unknown[0], 60), ARGUMENTS)
        raise CheckpointError(f"{where}: {message}; a file may contain only the name and these arguments")
    try:
        spec = find(name)
    except ValueError as error:
        raise CheckpointError(
            f"{where} is of a network that this facezoo does not have: {shorten(error)}. Import the package that registers it "
            "first; if it is facezoo's own, upgrade"
        ) from None
    check_numbers(arguments, tensors, where)
    check_shapes(lambda: FaceNetwork(spec, **arguments), tensors, where)
    return {"name": name, **arguments}


def check_numbers(options: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise :class:`CheckpointError` if a width, a count or a size is larger than ``tensors`` allow.

    This check comes first, since even on the meta device a network with a billion channels would fill the memory.
    """
    widest = max((side for tensor in tensors.values() for side in tensor.shape), default=0)
    for key in ("num_classes", "embedding_dim", "in_chans"):
        value = options.get(key)
        if value is not None and (not is_whole(value, 0) or value > widest):
            raise CheckpointError(
                f"{where}: its description says {key} {shorten(repr(value))}, but no tensor in it has more than {widest} rows"
            )
    for key, value in options.items():
        sides = value if isinstance(value, (list, tuple)) else [value]
        if key == "img_size" and not all(isinstance(side, int) and 0 < side <= _LARGEST_IMAGE for side in sides):
            raise CheckpointError(
                f"{where}: its description says img_size {shorten(repr(value))}, which is not a size in pixels"
            )
        if any(isinstance(side, int) and abs(side) > _LARGEST_NUMBER for side in sides):
            raise CheckpointError(
                f"{where}: its description says {shorten(key)} {shorten(repr(value))}, which is too large"
            )


def check_shapes(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise :class:`CheckpointError` unless the result of ``build`` (on the meta device) has the names and shapes of
    ``tensors``."""
    try:
        with without_storage():
            target = build().state_dict()
    except Exception as error:  # the file may contain numbers of any size and type
        raise CheckpointError(f"{where}: its description makes no network: {shorten(error)}") from None
    for key, value in target.items():
        got = tuple(tensors[key].shape) if key in tensors else None
        if got is None and key.endswith(".num_batches_tracked"):
            continue
        if got != tuple(value.shape):
            raise CheckpointError(
                f"{where} does not fit its own description: {key} {'is missing' if got is None else f'is {got}'}, "
                f"described as {tuple(value.shape)}"
            )
