"""The registry of blocks, and the contract that its entries keep."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from facezoo.registry import Registry, unknown_name_message

# A block is a callable `(in_chans, out_chans, *, stride=1, dilation=1, drop_path=0.0, drop_block=0.0, **own named options)`
# that returns a module `(N, in_chans, H, W) -> (N, out_chans, ceil(H / stride), ceil(W / stride))`; in a stage of tokens,
# `(N, L, C) -> (N, L, C)`. A stem may also ask for `in_size`, the height and width of the image. A block may leave out the
# network-wide keywords that it has no use for: stride and dilation are passed only where they are not 1, the two drops only to
# blocks that know them.
BLOCKS: Registry[Any] = Registry("block", listed_by="facezoo.blocks.BLOCKS.list()")
register_block = BLOCKS.register


def block_accepts(name: str, argument: str) -> bool:
    """Whether the block registered as ``name`` has a keyword argument of that name."""
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
        drop_path: probability of dropping the residual branch, in [0, 1]; not passed to a block that does not know it, since it
            has no branch to drop.
        drop_block: fraction of activations that DropBlock drops, in [0, 1); not passed to a block that does not know it.
        in_size: height and width of the map that comes in; not passed to a block that does not know it.
        options: the block's own keyword arguments.

    Raises:
        UnknownNameError: no such block.
        ValueError: the block does not know an argument that is needed here.
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
    accepted = inspect.signature(build).parameters
    for key in arguments:
        if key not in accepted:
            own = [parameter for parameter in accepted if parameter not in ("in_chans", "out_chans")]
            raise ValueError(
                f"block {name!r}: {unknown_name_message('argument', key, own)} (got {key}={arguments[key]!r})"
            )
    return build(in_chans, out_chans, **arguments)
