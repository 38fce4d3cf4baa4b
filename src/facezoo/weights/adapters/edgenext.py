"""State dicts of timm's EdgeNeXt and of the EdgeFace authors' wrapper around it."""

from __future__ import annotations

import re

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

EDGENEXT = {
    "stem.0.": "stem.conv.",
    "stem.1.": "stem.norm.",
    "head.norm.": "head.pool_norm.",
    "head.fc.": "classifier.",
}
STAGE = {"downsample.0.": "transition.norm.", "downsample.1.": "transition.conv."}
CONV_BLOCK = {
    "conv_dw.": "depthwise.",
    "norm.": "norm.",
    "mlp.fc1.": "pointwise1.",
    "mlp.fc2.": "pointwise2.",
    "gamma": "scale.gamma",
}
ATTENTION_BLOCK = {
    "convs.": "convs.",
    "pos_embd.token_projection.": "positions.projection.",
    "norm_xca.": "norm1.",
    "gamma_xca": "scale1.gamma",
    "xca.": "attention.",
    "norm.": "norm2.",
    "mlp.fc1.": "pointwise1.",
    "mlp.fc2.": "pointwise2.",
    "gamma": "scale2.gamma",
}
LOW_RANK = {"linear1.": "reduce.", "linear2.": "expand."}


def convert_edgenext(state_dict: StateDict) -> dict[str, Tensor]:
    """EdgeNeXt: ``stem.0, stages.0.blocks.0.conv_dw … head.fc``; the temperatures of the heads lose their two trailing axes."""
    attention = {key.removesuffix("xca.temperature") for key in state_dict if key.endswith("xca.temperature")}

    def rename(key: str) -> str:
        if match := re.fullmatch(r"(stages\.\d+\.blocks\.\d+\.)(.+)", key):
            return match[1] + rename_prefix(match[2], ATTENTION_BLOCK if match[1] in attention else CONV_BLOCK)
        if match := re.fullmatch(r"(stages\.\d+)\.(.+)", key):
            return f"{match[1]}.{rename_prefix(match[2], STAGE)}"
        return rename_prefix(key, EDGENEXT)

    return {
        key: tensor.flatten() if key.endswith(".temperature") else tensor
        for key, tensor in rename_keys(state_dict, rename).items()
    }


def convert_edgeface(state_dict: StateDict) -> dict[str, Tensor]:
    """EdgeFace: timm's EdgeNeXt after the prefix ``model.``. Its classifier is the embedding; ``linear1`` and ``linear2`` are
    one layer."""
    inner = rename_keys(state_dict, lambda key: key.removeprefix("model."))

    def rename(key: str) -> str:
        key = rename_prefix(key, {"classifier.": "head.embedding."})
        match = re.fullmatch(r"(.+\.)(linear[12]\..+)", key)
        return match[1] + rename_prefix(match[2], LOW_RANK) if match else key

    return rename_keys(convert_edgenext(inner), rename)
