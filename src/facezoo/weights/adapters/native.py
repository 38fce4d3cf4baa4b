"""facezoo's own files: a network's state dict. A checkpoint of the trainer has it behind a prefix."""

from __future__ import annotations

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict


def convert_native(state_dict: StateDict) -> dict[str, Tensor]:
    """The network's own keys."""
    return dict(state_dict)
