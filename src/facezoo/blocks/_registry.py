"""The registry of blocks, and the interface of its entries."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_type_hints

from torch import nn

from facezoo.registry import Registry, UnknownNameError, unknown_name_message

# A block is a callable `(in_chans, out_chans, *, stride=1, dilation=1, drop_path=0.0, drop_block=0.0, **own named options)`
# that returns a module `(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))`; in a stage of tokens,
# `(N, L, C) -> (N, L, C)`. A stem may also have an argument `in_size`, the height and width of the image. A block need not accept
# all of these keywords: stride and dilation are passed only if they are not 1, the two drops only to blocks that have them.
BLOCKS: Registry[Any] = Registry("block", listed_by="facezoo.blocks.BLOCKS.list()")
register_block = BLOCKS.register
_GIVEN = ("in_chans", "out_chans")


@functools.cache
def _own_options(build: Callable[..., nn.Module], given: tuple[str, ...]) -> dict[str, Collection[str] | None]:
    """The keyword arguments of an entry, without those in ``given``, and the allowed words of each (None: any value)."""
    annotated = vars(build).get("__init__", build) if isinstance(build, type) else build
    try:
        hints = get_type_hints(annotated, include_extras=True)
    except (NameError, TypeError):  # types that exist only for type checkers, or a callable without annotations
        hints = {}
    words = {name: getattr(hint, "__metadata__", (None,))[0] for name, hint in hints.items()}
    return {name: words.get(name) for name in inspect.signature(build).parameters if name not in given}


def check_options(
    kind: str, name: str, build: Callable[..., nn.Module], options: Mapping[str, object], given: tuple[str, ...]
) -> None:
    """Check that an entry of a registry accepts all ``options`` and the words in them.

    The allowed words of an option come from its annotation: ``Annotated[str, ACTIVATIONS]`` allows the names in that registry.

    Args:
        kind: kind of the entry, for the message.
        name: its name.
        build: the entry.
        options: keyword arguments for it.
        given: arguments that every entry of that kind gets.

    Raises:
        ValueError: an unknown option.
        UnknownNameError: a word that the option does not allow.
    """
    own = _own_options(build, given)
    for key, value in options.items():
        if key not in own:
            raise ValueError(
                f"{kind} {name!r}: {unknown_name_message('argument', key, own)} (got {key}={value!r:.100})"
            )
        words = own[key]
        if words is not None and value not in words:
            raise UnknownNameError(f"{kind} {name!r}: {unknown_name_message(key, str(value)[:100], words)}")


def check_block(name: str, options: Mapping[str, object]) -> None:
    """Check that a block called ``name`` exists and accepts ``options``. Raises like :func:`create_block`."""
    check_options("block", name, BLOCKS[name], options, _GIVEN)


def block_accepts(name: str, argument: str) -> bool:
    """Whether the block registered as ``name`` has a keyword argument with this name."""
    return argument in inspect.signature(BLOCKS[name]).parameters


def create_block(
    name: str,
    in_chans: int,
    out_chans: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    drop_path: float = 0.0,
    drop_block: float = 0.0,
    in_size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build the block registered as ``name``.

    Args:
        name: name in the registry.
        in_chans: input channels.
        out_chans: output channels.
        stride: step of the block in cells.
        dilation: dilation of its spatial convolutions.
        drop_path: probability of dropping the residual branch, in [0, 1]; not passed to a block without this argument.
        drop_block: fraction of activations that DropBlock drops, in [0, 1); likewise.
        in_size: height and width of the input map; likewise.
        options: the block's own keyword arguments.

    Raises:
        UnknownNameError: an unknown block.
        ValueError: the block does not have an argument, or does not allow a word in it.
    """
    build = BLOCKS[name]
    arguments: dict[str, Any] = dict(options or {})
    arguments |= {key: value for key, value in (("stride", stride), ("dilation", dilation)) if value != 1}
    arguments |= {
        key: value
        for key, value in (("drop_path", drop_path), ("drop_block", drop_block))
        if value and block_accepts(name, key)
    }
    if in_size is not None and block_accepts(name, "in_size"):
        arguments["in_size"] = in_size
    check_options("block", name, build, arguments, _GIVEN)
    return build(in_chans, out_chans, **arguments)
