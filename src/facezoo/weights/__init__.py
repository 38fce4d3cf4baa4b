"""Weight files: reading, atomic writing, and adapters for the checkpoints of other libraries."""

from __future__ import annotations

from facezoo.weights.adapters import ADAPTERS, SOURCES, Adapter, find_adapter
from facezoo.weights.io import (
    CheckpointError,
    clean_state_dict,
    read_checkpoint,
    read_file,
    read_state_dict,
    save_file_atomic,
)
from facezoo.weights.loading import REPLACEABLE, LoadReport, load_checkpoint

__all__ = [
    "ADAPTERS",
    "REPLACEABLE",
    "SOURCES",
    "Adapter",
    "CheckpointError",
    "LoadReport",
    "clean_state_dict",
    "find_adapter",
    "load_checkpoint",
    "read_checkpoint",
    "read_file",
    "read_state_dict",
    "save_file_atomic",
]
