"""Read lists of bytes from a pickle without unpickling: an interpreter for only the few opcodes that such a file needs."""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from facezoo.data.errors import DataError

_MARK = object()
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
_VALUES = (
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "BININT", "BININT1", "BININT2", "LONG1",
    "SHORT_BINUNICODE", "BINUNICODE",
)  # fmt: skip
_IGNORED = ("PROTO", "FRAME")
_CALLS = ("REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID")


def read_plain_pickle(content: bytes, place: str) -> Any:
    """Read lists and tuples of bytes, text, whole numbers and booleans from a pickle.

    An opcode that imports, calls or builds anything is an error.

    Args:
        content: the pickle.
        place: name of the pickle in messages.

    Raises:
        DataError: the pickle is damaged or contains another opcode; the message names what it tries to import.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                if len(stack) != 1 or stack[0] is _MARK:
                    raise DataError(f"{place} is a damaged pickle: {len(stack)} values are left at its end")
                return stack[0]
            _step(opcode.name, argument, stack, memo, place)
    except DataError:
        raise
    except Exception as error:  # pickletools raises ValueError, IndexError, UnicodeDecodeError, ... for damaged files
        raise DataError(f"{place} is a damaged pickle: {str(error)[:200] or type(error).__name__}") from None
    raise DataError(f"{place} is a cut pickle: it has no end")


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any], place: str) -> None:
    if name in _IGNORED:
        return
    if name in _VALUES:
        # Python 2 wrote bytes as strings, which pickletools reads as Latin-1
        stack.append(argument.encode("latin-1") if name in ("BINSTRING", "SHORT_BINSTRING") else argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in _BUILDERS:
        _BUILDERS[name](stack)
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        parts = argument.split(" ") if name == "GLOBAL" else [str(part) for part in stack[-2:]]
        raise DataError(
            f"{place} is refused: it tries to import {'.'.join(parts)[:200]!r}, which a list of images does not need"
        )
    elif name in _CALLS:
        raise DataError(f"{place} is refused: it tries to run something (opcode {name})")
    else:
        raise DataError(f"{place} is refused: opcode {name} does not occur in a list of images")


def _after_mark(stack: list[Any]) -> list[Any]:
    for place in range(len(stack) - 1, -1, -1):
        if stack[place] is _MARK:
            taken = stack[place + 1 :]
            del stack[place:]
            return taken
    raise ValueError("no mark on the stack")


def _appends(stack: list[Any]) -> None:
    values = _after_mark(stack)
    _list(stack[-1]).extend(values)


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    _list(stack[-1]).append(value)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("something is appended to what is not a list")
    return value


def _last(stack: list[Any], count: int) -> None:
    if len(stack) < count or any(value is _MARK for value in stack[-count:]):
        raise ValueError(f"fewer than {count} values on the stack")
    stack[-count:] = [tuple(stack[-count:])]


_BUILDERS: dict[str, Callable[[list[Any]], None]] = {
    "MARK": lambda stack: stack.append(_MARK),
    "EMPTY_LIST": lambda stack: stack.append([]),
    "EMPTY_TUPLE": lambda stack: stack.append(()),
    "LIST": lambda stack: stack.append(_after_mark(stack)),
    "TUPLE": lambda stack: stack.append(tuple(_after_mark(stack))),
    "TUPLE1": lambda stack: _last(stack, 1),
    "TUPLE2": lambda stack: _last(stack, 2),
    "TUPLE3": lambda stack: _last(stack, 3),
    "APPEND": _append,
    "APPENDS": _appends,
}
