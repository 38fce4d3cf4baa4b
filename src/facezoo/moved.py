"""Names that moved since the first edition: old names still work, loaded on first use; an old module raises an error with the
new one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

# Modules of the first edition, and the current place of their contents.
MODULES = {
    "facezoo.data.synthetic": "facezoo.synthetic",
    "facezoo.evaluation.submission": "facezoo.courses",
    "facezoo.margins.catalogue": "facezoo.margins",
    "facezoo.margins.centres": "facezoo.margins",
    "facezoo.margins.sub_centres": "facezoo.margins",
    "facezoo.models.head": "facezoo.blocks.heads",
    "facezoo.models.hw2p2": "facezoo.courses.starter_network",
    "facezoo.ops.normalisation": "facezoo.ops.normalization",
    "facezoo.training.demo": "facezoo.cli.demo",
    "facezoo.training.embedding_files": "facezoo.cli.embedding_files",
    "facezoo.training.logs": "facezoo.training.loggers",
    "facezoo.weights.preprocessing": "facezoo.preprocessing",
}


class OldModules:
    """The last entry of ``sys.meta_path``, called for modules that no other finder has found; it handles those that moved."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Raise ``ModuleNotFoundError`` with the new place of a module in :data:`MODULES`; return None for others."""
        old = next((old for old in MODULES if f"{name}.".startswith(f"{old}.")), None)
        if old is not None:
            raise ModuleNotFoundError(f"{name} has moved; its contents are in {MODULES[old]}", name=name)


def point_out_moves() -> None:
    """Install the finder, so that importing a moved module raises an error with its new place."""
    if OldModules not in sys.meta_path:
        sys.meta_path.append(OldModules)


def forward(module: str, names: Mapping[str, str]) -> Callable[[str], object]:
    """A module's ``__getattr__`` that gets each of ``names`` from its current module.

    A name that equals the last part of its new module stands for that module.

    Args:
        module: the old place, ``__name__`` there.
        names: name -> current module.
    """

    def find(name: str) -> object:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home = importlib.import_module(names[name])
        return home if names[name].endswith(f".{name}") else getattr(home, name)

    return find
