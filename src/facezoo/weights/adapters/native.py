"""facezoo's own files: a network's state dict, or a checkpoint of the trainer."""

from __future__ import annotations

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict

# Where the trainer puts the network: the moving average, which is what it evaluated, goes before the weights themselves.
PREFIXES = ("average.model.", "model.")


def convert_native(state_dict: StateDict) -> dict[str, Tensor]:
    """The network's own keys. Of a trainer's checkpoint, the head's, optimizer's and other tensors are left out."""
    for prefix in PREFIXES:
        inner = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items() if key.startswith(prefix)}
        if inner:
            return inner
    return dict(state_dict)
