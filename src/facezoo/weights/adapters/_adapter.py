"""The adapter record, and two helpers for writing adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from torch import Tensor

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class Adapter:
    """Converts the checkpoints of one library and network family.

    Attributes:
        source: the library, as :func:`facezoo.load_checkpoint` takes it.
        layout: the family of networks there.
        recognize: whether a set of keys is of this layout.
        convert: state dict with the source's keys and shapes -> state dict with facezoo's. It returns a new dictionary; tensors
            are the old ones, views of them, or new ones if values must be reordered or changed. An unknown key keeps its name, so
            that loading reports it.
    """

    source: str
    layout: str
    recognize: Callable[[Set[str]], bool]
    convert: Callable[[StateDict], dict[str, Tensor]]

    @property
    def name(self) -> str:
        """``source.layout``."""
        return f"{self.source}.{self.layout}"


def rename_prefix(key: str, table: Mapping[str, str]) -> str:
    """``key`` with its prefix replaced by the first matching entry of ``table``; unchanged if there is none."""
    for prefix, replacement in table.items():
        if key.startswith(prefix):
            return replacement + key.removeprefix(prefix)
    return key


def rename_keys(state_dict: StateDict, rename: Callable[[str], str]) -> dict[str, Tensor]:
    """A new dictionary with every key renamed.

    Raises:
        ValueError: two keys get the same name.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state_dict.items():
        name = rename(key)
        if name in renamed:
            raise ValueError(f"{key!r} and another key both become {name!r}")
        renamed[name] = tensor
    return renamed
