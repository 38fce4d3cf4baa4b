"""Names in files written before facezoo's second edition, and their current names. All readers use this table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Value = TypeVar("Value")

# JSON fields, and the last parts of tensor names of the metric losses.
FIELDS = {"licence": "license"}
STATE = {"centres": "centers"}


def current_fields(values: Mapping[str, Value]) -> dict[str, Value]:
    """``values`` with the current field names. If a field exists under both names, the current one is used."""
    return {FIELDS.get(name, name): value for name, value in values.items() if FIELDS.get(name) not in values}


def current_state(tensors: Mapping[str, Value]) -> dict[str, Value]:
    """``tensors`` of a training checkpoint with current names, including those of the optimizer state."""
    return {
        ".".join(STATE.get(part, part) for part in name.split(".")) if "joint." in name else name: value
        for name, value in tensors.items()
    }
