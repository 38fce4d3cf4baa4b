"""facezoo's own files: a network's state dict, or a checkpoint of the trainer."""

from __future__ import annotations

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict

# Prefixes of the network in the trainer's checkpoints. The moving average comes first: it is what was evaluated.
PREFIXES = ("average.model.", "model.")


def convert_native(state_dict: StateDict) -> dict[str, Tensor]:
    """The network's own keys. In a trainer's checkpoint, the tensors of head, optimizer and others are left out."""
    for prefix in PREFIXES:
        inner = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        if inner:
            return inner
    return dict(state_dict)
