"""Names in files that facezoo wrote before its second edition, and what they are called today. Readers go through this table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

# Fields of JSON, and the last parts of names of tensors of the metric losses.
FIELDS = {"licence": "license"}
STATE = {"centres": "centers"}


def current_fields(values: Mapping[str, Value]) -> dict[str, Value]:
    """``values`` with today's names of the fields. A field that is there under both names keeps today's value."""
    return {FIELDS.get(name, name): value for name, value in values.items() if FIELDS.get(name) not in values}


def current_state(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """``tensors`` of a training checkpoint with today's names, those of the optimizer's state too."""
    return {
        ".".join(STATE.get(part, part) for part in name.split(".")) if "joint." in name else name: value
        for name, value in tensors.items()
    }
