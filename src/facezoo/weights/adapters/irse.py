"""State dicts of ``input_layer, body, output_layer``: the IR and IR-SE networks of CVLface and AdaFace, and of face.evoLVe."""

from __future__ import annotations

import re
from collections.abc import Set

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_prefix

__all__ = ["convert_ir", "is_cvlface", "is_evolve"]

# Prefixes of the network's names: in AdaFace's training checkpoints, in CVLface's saved models, and none.
PREFIXES = ("model.net.", "model.", "net.", "")

OUTSIDE = {
    "input_layer.0.": "stem.conv.conv.",
    "input_layer.1.": "stem.conv.norm.",
    "input_layer.2.": "stem.conv.act.",
    "output_layer.0.": "head.map_norm.",
    "output_layer.3.": "head.embedding.",
    "output_layer.4.": "head.embedding_norm.",
}
SHORTCUT = {"shortcut_layer.0.": "shortcut.conv.", "shortcut_layer.1.": "shortcut.norm."}
BASIC = {
    "res_layer.0.": "norm.",
    "res_layer.1.": "conv1.conv.",
    "res_layer.2.": "conv1.norm.",
    "res_layer.3.": "conv1.act.",
    "res_layer.4.": "conv2.conv.",
    "res_layer.5.": "conv2.norm.",
    "res_layer.se_block.": "attention.",
}
BOTTLENECK = {
    **BASIC,
    "res_layer.6.": "conv2.act.",
    "res_layer.7.": "conv3.conv.",
    "res_layer.8.": "conv3.norm.",
}
EVOLVE = {  # no norm after the first convolution
    "res_layer.0.": "norm.",
    "res_layer.1.": "conv1.conv.",
    "res_layer.2.": "conv1.act.",
    "res_layer.3.": "conv2.conv.",
    "res_layer.4.": "conv2.norm.",
    "res_layer.5.": "attention.",
}


def is_cvlface(keys: Set[str]) -> bool:
    """Whether these are keys of CVLface or AdaFace: a norm of the branch is its third layer."""
    prefix = _prefix(keys)
    return prefix is not None and f"{prefix}body.0.res_layer.2.running_mean" in keys


def is_evolve(keys: Set[str]) -> bool:
    """Whether these are keys of face.evoLVe: the third layer of the branch is its activation."""
    prefix = _prefix(keys)
    return prefix is not None and f"{prefix}body.0.res_layer.4.running_mean" in keys and not is_cvlface(keys)


def convert_ir(state_dict: StateDict) -> dict[str, Tensor]:
    """``input_layer.0, body.0.res_layer.0 … output_layer.4``; a stage begins wherever a block's shortcut has weights.

    In a training checkpoint, tensors outside the network (the margin head) are left out.
    """
    prefix = _prefix(state_dict.keys())
    own = {key.removeprefix(prefix or ""): tensor for key, tensor in state_dict.items() if key.startswith(prefix or "")}
    table = {**SHORTCUT, **_branch(own.keys())}
    starts = sorted(
        {0} | {int(match[1]) for key in own if (match := re.match(r"body\.(\d+)\.shortcut_layer\.0\.", key))}
    )
    converted = {}
    for key, tensor in own.items():
        if match := re.fullmatch(r"body\.(\d+)\.(.+)", key):
            index = int(match[1])
            stage = sum(start <= index for start in starts) - 1
            name = f"stages.{stage}.blocks.{index - starts[stage]}.{rename_prefix(match[2], table)}"
        else:
            name = rename_prefix(key, OUTSIDE)
        converted[name] = tensor
    return converted


def _prefix(keys: Set[str]) -> str | None:
    """The prefix of the network's names; None if the keys have another layout."""
    markers = ("input_layer.0.weight", "body.0.res_layer.0.weight", "output_layer.3.weight")
    return next((prefix for prefix in PREFIXES if keys >= {prefix + marker for marker in markers}), None)


def _branch(keys: Set[str]) -> dict[str, str]:
    if "body.0.res_layer.8.running_mean" in keys:
        return BOTTLENECK
    return BASIC if "body.0.res_layer.2.running_mean" in keys else EVOLVE
