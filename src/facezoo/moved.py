"""What has moved since the first edition: old names still work, loaded on first use; an old module says the new one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping

# Modules of the first edition, and where their contents are today.
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
    """The last entry of ``sys.meta_path``: it is asked for modules that nobody has found, and speaks up for those that moved."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Raise ``ModuleNotFoundError`` with the new place of a module of :data:`MODULES`; say nothing of any other."""
        old = next((old for old in MODULES if f"{name}.".startswith(f"{old}.")), None)
        if old is not None:
            raise ModuleNotFoundError(f"{name} has moved; its contents are in {MODULES[old]}", name=name)


def point_out_moves() -> None:
    """Let the import system say where modules of the first edition went."""
    if OldModules not in sys.meta_path:
        sys.meta_path.append(OldModules)


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
