"""One generic registry: register, get, list, describe.

Models, blocks, margins and losses each live in one :class:`Registry`. A registry imports nothing of facezoo, so a third-party
package can extend facezoo without touching it::

    from facezoo import register_block

    @register_block("my_block")
    class MyBlock(nn.Module): ...
"""

from __future__ import annotations

import difflib
import fnmatch
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
F = TypeVar("F")

_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]*")


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``resnet18 < resnet50 < resnet101``."""
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", text.lower()) if part
    )


def unknown_name_message(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> str:
    """The one wording of “no such name”, with the closest known names and ``hint``, where to find the full list."""
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    message = f"unknown {kind} {name!r}"
    if close:
        message += f"; did you mean {' or '.join(repr(match) for match in close)}?"
    elif known and len(known) <= 12:
        message += f"; known: {', '.join(known)}"
    if hint:
        message += f" ({hint})"
    return message


class UnknownNameError(KeyError, ValueError):
    """A name that the registry does not hold. It is a ``KeyError`` and a ``ValueError``; the message suggests close names."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0])


class DuplicateNameError(ValueError):
    """A name that the registry holds already."""


class Registry(Generic[T]):
    """A named collection of objects of one kind.

    Args:
        kind: what the entries are, in the singular (``"model"``); it appears in messages.
        listed_by: the public call that lists them; messages point to it.
    """

    def __init__(self, kind: str, *, listed_by: str) -> None:
        self.kind = kind
        self.listed_by = listed_by
        self._entries: dict[str, T] = {}

    @overload
    def register(self, name: str) -> Callable[[F], F]: ...
    @overload
    def register(self, name: str, entry: T) -> T: ...

    def register(self, name: str, entry: Any = None) -> Any:
        """Register ``entry`` under ``name``; without ``entry``, return a decorator that does.

        Raises:
            ValueError: the name is not lower case letters, digits, ``_``, ``-`` and ``.``.
            DuplicateNameError: the name is taken by another object. (Registering the same object again does nothing, so that
                a module may be reloaded.)
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"a {self.kind} name consists of lower-case letters, digits, '_', '-' and '.', and begins with a letter or digit; "
                f"got {name!r}"
            )
        if entry is None:

            def decorate(decorated: F) -> F:
                self.register(name, decorated)  # type: ignore[arg-type]
                return decorated

            return decorate
        if name in self._entries and self._entries[name] is not entry:
            raise DuplicateNameError(
                f"{self.kind} {name!r} is registered already ({_origin(self._entries[name])}); "
                f"choose another name, or unregister({name!r}) first"
            )
        self._entries[name] = entry
        return entry

    def unregister(self, name: str) -> T:
        """Remove and return the entry called ``name``. Raises :class:`UnknownNameError` if there is none."""
        entry = self[name]
        del self._entries[name]
        return entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise UnknownNameError(
                unknown_name_message(self.kind, str(name), self.list(), hint=f"{self.listed_by} lists all")
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self._entries)

    def list(self, pattern: str | Iterable[str] = "*", *, exclude: str | Iterable[str] = ()) -> list[str]:
        """Names that match any of the wildcards in ``pattern`` and none in ``exclude``, in natural order (18 before 101)."""
        wanted, unwanted = _as_tuple(pattern), _as_tuple(exclude)
        return sorted(
            (
                name
                for name in self._entries
                if any(fnmatch.fnmatchcase(name, item) for item in wanted)
                and not any(fnmatch.fnmatchcase(name, item) for item in unwanted)
            ),
            key=natural_key,
        )

    def describe(self, name: str) -> str:
        """One line about the entry: its ``description`` if it has one, else the first line of its docstring."""
        entry = self[name]
        description = getattr(entry, "description", None)
        if not isinstance(description, str):
            description = inspect.getdoc(entry) or ""
        return description.strip().split("\n", 1)[0]

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, {len(self)} entries)"


def _as_tuple(patterns: str | Iterable[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _origin(entry: object) -> str:
    module = getattr(entry, "__module__", None) or type(entry).__module__
    return f"{getattr(entry, '__qualname__', type(entry).__qualname__)} of {module}"
