"""Griffe's side of the API pages: roles become cross-references, and a setting shows its default instead of its declaration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent.parent))

from making.api import with_links


class Readable(griffe.Extension):
    """What the docstrings are written for editors with, as a page wants it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Roles of the docstring."""
        if obj.docstring is not None:
            obj.docstring.value = with_links(obj.docstring.value, obj.path)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """``option(default, help, ...)`` of the training's settings, as the fields and as arguments."""
        for member in cls.members.values():
            if member.is_attribute:
                member.value = declared_default(member.value)
            elif member.is_function and member.name == "__init__":
                for parameter in member.parameters:
                    parameter.default = declared_default(parameter.default)

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Defaults of the options that come from a typed dictionary, which has none itself (``unpack_typeddict`` goes first)."""
        from facezoo.models.network import DEFAULTS

        for parameter in func.parameters:
            if parameter.default == "..." and parameter.name in DEFAULTS:
                parameter.default = repr(DEFAULTS[parameter.name])  # type: ignore[literal-required]


def declared_default(value: str | griffe.Expr | None) -> str | griffe.Expr | None:
    """The first argument of ``option(...)``; any other value is left as it is."""
    if isinstance(value, griffe.ExprCall) and str(value.function) == "option" and len(value.arguments) > 1:
        return value.arguments[0]
    return value
