"""A generic registry: register, get, list, describe.

Models, blocks, margins and losses each live in one :class:`Registry`. A registry imports nothing of facezoo, so a third-party
package can extend facezoo without touching it::

    from facezoo import register_block

    @register_block("my_block")
    class MyBlock(nn.Module): ...

An installed package that names its module in the entry-point group ``facezoo.plugins`` is imported when a look-up first needs it.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")
F = TypeVar("F")

_NAME = re.compile(r"[a-z0-9][a-z0-9_.\-]*")


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key with ``resnet18 < resnet50 < resnet101``."""
    return tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", text.lower()) if part
    )


_SHOWN = 200  # largest number of characters of an unknown name in a message


def unknown_name_message(kind: str, name: str, known: Iterable[str], *, hint: str = "") -> str:
    """The message for an unknown name, with the closest known names and ``hint``, which says where to find the full list."""
    known = list(known)
    close = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
    message = f"unknown {kind} {name[:_SHOWN]!r}"
    if close:
        message += f"; did you mean {' or '.join(repr(match) for match in close)}?"
    elif known and len(known) <= 12:
        message += f"; known: {', '.join(known)}"
    if hint:
        message += f" ({hint})"
    return message


class UnknownNameError(KeyError, ValueError):
    """A name is not in the registry. It is a ``KeyError`` and a ``ValueError``; the message suggests close names."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0])


class DuplicateNameError(ValueError):
    """A name is already in the registry."""


class PluginWarning(UserWarning):
    """A third-party package could not be loaded."""


class Plugins:
    """The modules that installed packages name in an entry-point group. Importing a module registers its entries.

    Args:
        group: name of the group.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self._lock = threading.RLock()
        self._asked = False

    def load(self) -> None:
        """Import all of them, on the first call only. A module that fails is skipped with a :class:`PluginWarning`."""
        with self._lock:
            if self._asked:  # a plugin may look up names while it is imported
                return
            self._asked = True
            from importlib import metadata

            for entry in sorted(metadata.entry_points(group=self.group), key=lambda entry: entry.name):
                try:
                    if ":" in entry.value:
                        raise ValueError(f"an entry of {self.group} is a module, without ':' and what follows it")
                    importlib.import_module(entry.value)
                except Exception as error:
                    package = f" of {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
                    warnings.warn(
                        f"the plugin {entry.name!r}{package} (module {entry.value}) could not be loaded, so names may be "
                        f"missing: {type(error).__name__}: {error}",
                        PluginWarning,
                        stacklevel=2,
                    )


_plugins = Plugins("facezoo.plugins")


class Registry(Generic[T]):
    """A named collection of objects of one kind. Plugins are loaded before it lists names or reports an unknown one.

    Args:
        kind: kind of the entries, in the singular (``"model"``), for messages.
        listed_by: the public function that lists them, for messages.
        elsewhere: names that other libraries use, with the name here (``{"softmax": "linear"}``) or a sentence that says where to
            look. They are not entries; the error gives the right name.
        also_in: facezoo's own modules that also register entries but are imported later than this registry. They are loaded
            together with the plugins.
    """

    def __init__(
        self,
        kind: str,
        *,
        listed_by: str,
        elsewhere: Mapping[str, str] = MappingProxyType({}),
        also_in: tuple[str, ...] = (),
    ) -> None:
        self.kind = kind
        self.listed_by = listed_by
        self.elsewhere = elsewhere
        self.also_in = also_in
        self._entries: dict[str, T] = {}

    @overload
    def register(self, name: str) -> Callable[[F], F]: ...
    @overload
    def register(self, name: str, entry: T) -> T: ...

    def register(self, name: str, entry: Any = None) -> Any:
        """Register ``entry`` under ``name``; without ``entry``, return a decorator that does.

        Raises:
            ValueError: the name is not lower case letters, digits, ``_``, ``-`` and ``.``.
            DuplicateNameError: the name belongs to another object. (Registering the same object again does nothing, so that a
                module can be reloaded.)
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
        if name in self:
            return self._entries[name]
        listed = f"{self.listed_by} lists all"
        there = self.elsewhere.get(str(name).lower())
        if there is None:
            raise UnknownNameError(unknown_name_message(self.kind, str(name), self.list(), hint=listed))
        advice = f"here it is called {there!r}" if there in self._entries else there
        raise UnknownNameError(f"unknown {self.kind} {str(name)!r}; {advice} ({listed})")

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if name not in self._entries:
            self._load()
        return name in self._entries

    def _load(self) -> None:
        for module in self.also_in:
            importlib.import_module(module)
        _plugins.load()

    def __iter__(self) -> Iterator[str]:
        return iter(self.list())

    def __len__(self) -> int:
        self._load()
        return len(self._entries)

    def list(self, pattern: str | Iterable[str] = "*", *, exclude: str | Iterable[str] = ()) -> list[str]:
        """Names that match a wildcard in ``pattern`` and none in ``exclude``, in natural order (18 before 101)."""
        self._load()
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
        return f"Registry({self.kind!r}, {len(self._entries)} entries)"


def _as_tuple(patterns: str | Iterable[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _origin(entry: object) -> str:
    module = getattr(entry, "__module__", None) or type(entry).__module__
    return f"{getattr(entry, '__qualname__', type(entry).__qualname__)} of {module}"
