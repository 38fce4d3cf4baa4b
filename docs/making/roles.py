"""Griffe's side of the API pages: roles become cross-references, and a setting shows its default instead of its declaration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent.parent))

from making.api import documented, with_links


class Readable(griffe.Extension):
    """What the docstrings are written for editors with, as a page wants it."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Roles of the docstring."""
        if obj.docstring is not None:
            obj.docstring.value = with_links(obj.docstring.value, obj.path)

    def on_attribute(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """``option(default, help, ...)`` of the training's settings."""
        call = attr.value
        if isinstance(call, griffe.ExprCall) and str(call.function) == "option" and len(call.arguments) > 1:
            attr.value = call.arguments[0]

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Defaults of the options that come from a typed dictionary, which has none itself."""
        from facezoo.models.network import DEFAULTS

        for path in documented():
            entry = pkg[path.removeprefix("facezoo.")]
            function = entry.members.get("__init__") if entry.is_class else entry
            if function is None or not getattr(function, "is_function", False):
                continue
            for parameter in function.parameters:
                if parameter.default == "..." and parameter.name in DEFAULTS:
                    parameter.default = repr(DEFAULTS[parameter.name])
