"""State dicts of the MobileFaceNet in the paper's form, as MobileFaceNet_Pytorch writes them."""

from __future__ import annotations

import re
from itertools import accumulate

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

UNIT = {"conv.": "conv.", "bn.": "norm.", "prelu.": "act."}
UNITS = {"conv1.": "stem.conv.", "dw_conv1.": "stages.0.blocks.0.", "conv2.": "head.conv.", "linear7.": "head.pool."}
EMBEDDING = {"linear1.conv.": "head.embedding.", "linear1.bn.": "head.embedding_norm."}
DEPTHS = (5, 7, 3)  # of stages 1 to 3: a strided bottleneck and those that follow it
BLOCK = {
    "conv.0.": "expand.conv.",
    "conv.1.": "expand.norm.",
    "conv.2.": "expand.act.",
    "conv.3.": "depthwise.conv.",
    "conv.4.": "depthwise.norm.",
    "conv.5.": "depthwise.act.",
    "conv.6.": "project.conv.",
    "conv.7.": "project.norm.",
}


def convert_mobilefacenet(state_dict: StateDict) -> dict[str, Tensor]:
    """``conv1, dw_conv1, blocks.0 … blocks.14, conv2, linear7, linear1``; the last 1×1 convolution becomes the linear embedding."""
    renamed = rename_keys(state_dict, _key)
    return {
        key: tensor.flatten(1) if key == "head.embedding.weight" and tensor.dim() == 4 else tensor
        for key, tensor in renamed.items()
    }


def _key(key: str) -> str:
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
        index = int(match[1])
        ends = list(accumulate(DEPTHS))
        stage = next((number for number, end in enumerate(ends) if index < end), None)
        if stage is not None:
            first = ends[stage] - DEPTHS[stage]
            return f"stages.{stage + 1}.blocks.{index - first}.{rename_prefix(match[2], BLOCK)}"
    for prefix, replacement in UNITS.items():
        if key.startswith(prefix):
            return replacement + rename_prefix(key.removeprefix(prefix), UNIT)
    return rename_prefix(key, EMBEDDING)
