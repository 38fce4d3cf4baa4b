"""State dicts of the MixFaceNets authors' code (2107.13046)."""

from __future__ import annotations

import re

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

UNITS = {
    "exp_conv.": "expand.",
    "conv1.": "depthwise.",
    "se.conv1.": "attention.fc1.",
    "se.conv2.": "attention.fc2.",
    "conv2.": "project.",
}
PLAIN = {"conv.": "conv.", "bn.": "norm.", "activ.": "act."}
HEAD = {
    "feautre_layer.dw_conv.conv.": "head.pool.conv.",
    "feautre_layer.dw_conv.bn.": "head.pool.norm.",
    "feautre_layer.pw_conv.conv.": "head.embedding.",
    "features_norm.": "head.embedding_norm.",
}


def convert_mixfacenet(state_dict: StateDict) -> dict[str, Tensor]:
    """MixFaceNet: ``features.init_block, features.stage1.unit1 … tail, feautre_layer, features_norm``.

    The second half of the stem is the first stage here, and the second half of ``stage4`` (three or four units) is the last
    stage. The 1×1 convolution that computes the embedding becomes a linear layer.
    """
    last_units = {int(match[1]) for key in state_dict if (match := re.match(r"features\.stage4\.unit(\d+)\.", key))}
    half = max(last_units, default=0) // 2

    def rename(key: str) -> str:
        if key.startswith("features.init_block.conv1."):
            return "stem.conv." + rename_prefix(key.removeprefix("features.init_block.conv1."), PLAIN)
        if key.startswith("features.init_block.conv2."):
            return "stages.0.blocks.0." + _unit_key(key.removeprefix("features.init_block.conv2."))
        if key.startswith("tail."):
            return "head.conv." + rename_prefix(key.removeprefix("tail."), PLAIN)
        if match := re.fullmatch(r"features\.stage([1-4])\.unit(\d+)\.(.+)", key):
            stage, block = int(match[1]), int(match[2]) - 1
            if stage == 4 and block >= half:
                stage, block = 5, block - half
            return f"stages.{stage}.blocks.{block}.{_unit_key(match[3])}"
        return rename_prefix(key, HEAD)

    return {
        key: tensor.flatten(1) if key == "head.embedding.weight" else tensor
        for key, tensor in rename_keys(state_dict, rename).items()
    }


def _unit_key(key: str) -> str:
    """A key inside a unit. A convolution with one kernel size is ``conv``; with several it is ``conv.0``, ``conv.1`` …"""
    renamed = rename_prefix(key, UNITS)
    if match := re.fullmatch(r"(expand|depthwise|project)\.conv\.(?:(\d)\.)?weight", renamed):
        return f"{match[1]}.convs.{match[2] or 0}.weight"
    if match := re.fullmatch(r"(expand|depthwise|project)\.((?:bn|activ)\..+)", renamed):
        return f"{match[1]}.{rename_prefix(match[2], PLAIN)}"
    return renamed
