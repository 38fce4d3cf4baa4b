"""Read lists of bytes from a pickle without unpickling: an interpreter for only the few opcodes that such a file needs.

Three things that such a file may also have are written as calls: bytes in protocol 2 (``_codecs.encode``), and NumPy's numbers and
arrays. They are recognized by their names and arguments and made by hand. Nothing is imported, and nothing of the file is called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facezoo.data.errors import DataError

_MARK = object()
_CONSTANTS = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
_VALUES = (
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING", "BININT", "BININT1", "BININT2", "LONG1",
    "SHORT_BINUNICODE", "BINUNICODE",
)  # fmt: skip
_IGNORED = ("PROTO", "FRAME")
_CALLS = ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID", "BINPERSID")


def read_plain_pickle(content: bytes, place: str) -> Any:
    """Read lists and tuples of bytes, text, whole numbers and booleans from a pickle; NumPy's numbers and arrays of one dimension
    become numbers and lists.

    An opcode that imports, calls or builds anything else is an error.

    Args:
        content: the pickle.
        place: name of the pickle in messages.

    Raises:
        DataError: the pickle is damaged or contains another opcode; the message names what it tries to import.
    """
    machine = _Machine(place, left=2 * len(content))
    stack = machine.stack
    try:
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name == "STOP":
                if len(stack) != 1 or stack[0] is _MARK:
                    raise DataError(f"{place} is a damaged pickle: {len(stack)} values are left at its end")
                return stack[0]
            machine.step(opcode.name, argument)
    except DataError:
        raise
    except _UnknownForm as error:
        raise DataError(f"{place} is refused: it holds {error}, which is not read") from None
    except Exception as error:  # pickletools raises ValueError, IndexError, UnicodeDecodeError, ... for damaged files
        raise DataError(f"{place} is a damaged pickle: {str(error)[:200] or type(error).__name__}") from None
    raise DataError(f"{place} is a cut pickle: it has no end")


@dataclass
class _Machine:
    """The state of the interpreter.

    Attributes:
        place: name of the pickle in messages.
        left: bytes that calls may still make. A name for a value costs two bytes, so a small file could make any number of them.
        stack: the values so far.
        memo: values by number.
    """

    place: str
    left: int
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        stack, memo = self.stack, self.memo
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
        elif name == "GLOBAL":
            stack.append(self._imported(argument.split(" ")))
        elif name == "STACK_GLOBAL":
            stack.append(self._imported(list(_pair(stack))))
        elif name == "REDUCE":
            function, arguments = _pair(stack)
            if not isinstance(function, _Imported):
                raise self._run(name)
            stack.append(self._paid(_FUNCTIONS[function.name](arguments)))
        elif name == "BUILD":
            value, state = _pair(stack)
            if not isinstance(value, (_Kind, _Array)):
                raise self._run(name)
            value.build(state)
            stack.append(self._paid(value))
        elif name in _CALLS:
            raise self._run(name)
        else:
            raise DataError(f"{self.place} is refused: opcode {name} does not occur in a list of images")

    def _run(self, name: str) -> DataError:
        return DataError(f"{self.place} is refused: it tries to run something (opcode {name})")

    def _imported(self, parts: list[str]) -> _Imported:
        name = ".".join(parts)
        if name not in _FUNCTIONS:
            raise DataError(
                f"{self.place} is refused: it tries to import {name[:200]!r}, which a list of images does not need"
            )
        return _Imported(name)

    def _paid(self, made: Any) -> Any:
        """``made``, the result of a call, after its size was taken from what calls may make."""
        self.left -= len(made) if isinstance(made, (bytes, list)) else 0
        if self.left < 0:
            raise DataError(f"{self.place} is refused: its calls make more than twice its own size")
        return made


# ------------------------------------------------------------------ calls, made by hand


class _UnknownForm(ValueError):
    """A call of a known name with other arguments than expected; the message says of what."""


@dataclass(frozen=True)
class _Imported:
    """A name that the file imports, one of :data:`_FUNCTIONS`."""

    name: str


_CODES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")
_ORDERS = ("<", ">", "|")


@dataclass
class _Kind:
    """NumPy's type of numbers: its code, and the order of bytes, which the pickle gives afterwards."""

    code: str
    order: str = ""

    def build(self, state: Any) -> None:
        """Take the order of bytes."""
        match state:
            case (3, (str() | bytes()) as order, None, None, None, -1, -1, 0) if (
                not self.order and _text(order) in _ORDERS
            ):
                self.order = _text(order)
            case _:
                raise _UnknownForm("a type of NumPy in an unknown form")

    def values(self, content: Any, count: int) -> list[int]:
        """``count`` numbers."""
        kind = np.dtype(self.order + self.code)
        if not self.order or not isinstance(content, bytes) or len(content) != count * kind.itemsize:
            raise _UnknownForm("numbers of NumPy in an unknown form")
        return np.frombuffer(content, kind).tolist()


class _Array(list[int]):
    """An array of NumPy, as a list; the pickle gives its numbers afterwards."""

    def build(self, state: Any) -> None:
        """Take the numbers."""
        match state:
            case (1, (int(count),), _Kind() as kind, 0, content) if not self:
                self.extend(kind.values(content, count))
            case _:
                raise _UnknownForm("an array of NumPy in an unknown form")


def _text(value: str | bytes) -> str:
    """Text; Python 2 wrote it as bytes."""
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _encode(arguments: Any) -> bytes:
    match arguments:
        case (str(text), "latin1"):
            return text.encode("latin-1")
    raise _UnknownForm("bytes in an unknown form")


def _kind(arguments: Any) -> _Kind:
    match arguments:
        case ((str() | bytes()) as code, 0, 1) if _text(code) in _CODES:
            return _Kind(_text(code))
        case ((str() | bytes()) as code, *_):
            raise _UnknownForm(f"numbers of NumPy's type {_text(code)[:20]!r}")
    raise _UnknownForm("a type of NumPy in an unknown form")


def _array(arguments: Any) -> _Array:
    if arguments == (_Imported("numpy.ndarray"), (0,), b"b"):
        return _Array()
    raise _UnknownForm("an array of NumPy in an unknown form")


def _number(arguments: Any) -> int:
    match arguments:
        case (_Kind() as kind, content):
            return kind.values(content, 1)[0]
    raise _UnknownForm("a number of NumPy in an unknown form")


def _not_called(arguments: Any) -> Any:
    raise _UnknownForm("an array of NumPy in an unknown form")


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "_codecs.encode": _encode,
    "numpy.dtype": _kind,
    "numpy.ndarray": _not_called,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _number for core in ("core", "_core")},
}


# ------------------------------------------------------------------ lists and tuples


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
    if type(value) is not list:
        raise ValueError("something is appended to what is not a list")
    return value


def _last(stack: list[Any], count: int) -> None:
    if len(stack) < count or any(value is _MARK for value in stack[-count:]):
        raise ValueError(f"fewer than {count} values on the stack")
    stack[-count:] = [tuple(stack[-count:])]


def _pair(stack: list[Any]) -> tuple[Any, Any]:
    """Take the last two values."""
    _last(stack, 2)
    first, second = stack.pop()
    return first, second


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
