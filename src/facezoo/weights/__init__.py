"""Weight files: reading and writing, adapters for other libraries' checkpoints, published weights, and the Hub."""

from __future__ import annotations

from facezoo.preprocessing import Preprocessing
from facezoo.weights.adapters import ADAPTERS, SOURCES, Adapter, find_adapter
from facezoo.weights.config import MarginFile, PretrainedConfig
from facezoo.weights.errors import CheckpointError
from facezoo.weights.fetching import LicenseNotice, fetch_weights
from facezoo.weights.hub import HubError
from facezoo.weights.io import (
    clean_state_dict,
    read_checkpoint,
    read_file,
    read_state_dict,
    save_file_atomic,
)
from facezoo.weights.loading import REPLACEABLE, LoadReport, load_checkpoint
from facezoo.weights.pretrained import (
    PretrainedFiles,
    find_pretrained,
    is_pretrained_name,
    push_to_hub,
    save_pretrained,
    sha256_of,
)
from facezoo.weights.records import (
    WEIGHTS,
    ReportedFigure,
    WeightsRecord,
    get_weights,
    list_weights,
    register_weights,
)

__all__ = [
    "ADAPTERS",
    "REPLACEABLE",
    "SOURCES",
    "WEIGHTS",
    "Adapter",
    "CheckpointError",
    "HubError",
    "LicenseNotice",
    "LoadReport",
    "MarginFile",
    "Preprocessing",
    "PretrainedConfig",
    "PretrainedFiles",
    "ReportedFigure",
    "WeightsRecord",
    "clean_state_dict",
    "fetch_weights",
    "find_adapter",
    "find_pretrained",
    "get_weights",
    "is_pretrained_name",
    "list_weights",
    "load_checkpoint",
    "push_to_hub",
    "read_checkpoint",
    "read_file",
    "read_state_dict",
    "register_weights",
    "save_file_atomic",
    "save_pretrained",
    "sha256_of",
]
