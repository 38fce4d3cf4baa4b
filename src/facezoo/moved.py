"""Public names that have moved: the old place still gives them, loaded on first use."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def forward(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """A module's ``__getattr__`` that fetches each of ``names`` from the module that holds it today.

    A name that equals the last part of its new module stands for that module itself.

    Args:
        module: the old place, ``__name__`` there.
        names: name -> module that holds it today.
    """

    def find(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = importlib.import_module(names[name])
        return home if names[name].endswith(f".{name}") else getattr(home, name)

    return find
