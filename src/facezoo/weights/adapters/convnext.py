"""State dicts of the ConvNeXt authors' own code (2201.03545; V2, 2301.00808)."""

from __future__ import annotations

import re

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

CONVNEXT = {
    "downsample_layers.0.0.": "stem.conv.",
    "downsample_layers.0.1.": "stem.norm.",
    "norm.": "head.pool_norm.",
    "head.": "classifier.",
}
BLOCK = {
    "dwconv.": "depthwise.",
    "norm.": "norm.",
    "pwconv1.": "pointwise1.",
    "grn.gamma": "response_norm.weight",
    "grn.beta": "response_norm.bias",
    "pwconv2.": "pointwise2.",
    "gamma": "scale.gamma",
}


def convert_convnext(state_dict: StateDict) -> dict[str, Tensor]:
    """ConvNeXt V1 and V2: ``downsample_layers.0.0, stages.0.0.dwconv … head``; V2's GRN loses its three leading axes."""
    renamed = rename_keys(state_dict, _key)
    return {key: tensor.flatten() if ".response_norm." in key else tensor for key, tensor in renamed.items()}


def _key(key: str) -> str:
    if match := re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", key):
        return f"stages.{match[1]}.blocks.{match[2]}.{rename_prefix(match[3], BLOCK)}"
    if match := re.fullmatch(r"downsample_layers\.([1-9])\.([01])\.(.+)", key):
        return f"stages.{match[1]}.transition.{('norm', 'conv')[int(match[2])]}.{match[3]}"
    return rename_prefix(key, CONVNEXT)
