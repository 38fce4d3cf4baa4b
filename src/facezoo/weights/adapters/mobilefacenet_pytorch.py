"""State dicts of the paper's MobileFaceNet, from MobileFaceNet_Pytorch, InsightFace_Pytorch, FaceX-Zoo, and foamliu (ReLU6 for
PReLU).
"""

from __future__ import annotations

import re
from itertools import accumulate

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

UNIT = {"conv.": "conv.", "bn.": "norm.", "prelu.": "act."}
UNITS = {"conv1.": "stem.conv.", "dw_conv1.": "stages.0.blocks.0.", "conv2.": "head.conv.", "linear7.": "head.pool."}
EMBEDDING = {"linear1.conv.": "head.embedding.", "linear1.bn.": "head.embedding_norm."}
DEPTHS = (5, 7, 3)  # of stages 1 to 3: a strided bottleneck and its followers
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


def _stage_of(index: int) -> tuple[int, int] | None:
    """Stage and block of a bottleneck that is numbered across stages."""
    ends = list(accumulate(DEPTHS))
    stage = next((number for number, end in enumerate(ends) if index < end), None)
    return None if stage is None else (stage + 1, index - (ends[stage] - DEPTHS[stage]))


def _key(key: str) -> str:
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
        place = _stage_of(int(match[1]))
        if place is not None:
            return f"stages.{place[0]}.blocks.{place[1]}.{rename_prefix(match[2], BLOCK)}"
    for prefix, replacement in UNITS.items():
        if key.startswith(prefix):
            return replacement + rename_prefix(key.removeprefix(prefix), UNIT)
    return rename_prefix(key, EMBEDDING)


# --- InsightFace_Pytorch and FaceX-Zoo

UNIT_PARTS = {"conv.": "conv.", "bn.": "norm.", "prelu.": "act."}
INSIGHTFACE_PYTORCH = {
    "conv1.": "stem.conv.",
    "conv2_dw.": "stages.0.blocks.0.",
    "conv_6_sep.": "head.conv.",
    "conv_6_dw.": "head.pool.",
}
INSIGHTFACE_PYTORCH_STAGES = {"23": 1, "34": 2, "45": 3}  # the strided blocks, and the stages that begin with them
INSIGHTFACE_PYTORCH_BLOCK = {"conv.": "expand.", "conv_dw.": "depthwise.", "project.": "project."}


def convert_insightface_pytorch(state_dict: StateDict) -> dict[str, Tensor]:
    """``conv1, conv2_dw, conv_23, conv_3.model.0 … conv_6_sep, conv_6_dw, linear, bn``, with the paper's shapes."""
    return rename_keys(state_dict, _insightface_pytorch_key)


def _insightface_pytorch_key(key: str) -> str:
    strided = re.fullmatch(r"conv_(23|34|45)\.(.+)", key)
    following = re.fullmatch(r"conv_([345])\.model\.(\d+)\.(.+)", key)
    if strided or following:
        match = strided or following
        assert match is not None
        if strided:
            stage, block, inside = INSIGHTFACE_PYTORCH_STAGES[match[1]], 0, match[2]
        else:
            stage, block, inside = int(match[1]) - 2, int(match[2]) + 1, match[3]
        for source, target in INSIGHTFACE_PYTORCH_BLOCK.items():
            if inside.startswith(source):
                part = rename_prefix(inside.removeprefix(source), UNIT_PARTS)
                return f"stages.{stage}.blocks.{block}.{target}{part}"
        return key
    for source, target in INSIGHTFACE_PYTORCH.items():
        if key.startswith(source):
            return target + rename_prefix(key.removeprefix(source), UNIT_PARTS)
    return rename_prefix(key, {"linear.": "head.embedding.", "bn.": "head.embedding_norm."})


# --- foamliu

FOAMLIU = {
    "conv1.0.": "stem.conv.conv.",
    "conv1.1.": "stem.conv.norm.",
    "dw_conv.depthwise.": "stages.0.blocks.0.conv.",
    "dw_conv.bn1.": "stages.0.blocks.0.norm.",
    "dw_conv.pointwise.": "stages.0.blocks.1.conv.",
    "dw_conv.bn2.": "stages.0.blocks.1.norm.",
    "conv2.0.": "head.conv.conv.",
    "conv2.1.": "head.conv.norm.",
    "gdconv.depthwise.": "head.pool.conv.",
    "gdconv.bn.": "head.pool.norm.",
    "conv3.": "head.embedding.",
    "bn.": "head.embedding_norm.",
}
FOAMLIU_BLOCK = {
    "conv.0.0.": "expand.conv.",
    "conv.0.1.": "expand.norm.",
    "conv.1.0.": "depthwise.conv.",
    "conv.1.1.": "depthwise.norm.",
    "conv.2.": "project.conv.",
    "conv.3.": "project.norm.",
}


def convert_foamliu(state_dict: StateDict) -> dict[str, Tensor]:
    """``conv1, dw_conv, features.0 … features.14, conv2, gdconv, conv3, bn``; ``conv3``, 1×1, becomes the linear embedding."""
    renamed = rename_keys(state_dict, _foamliu_key)
    return {
        key: tensor.flatten(1) if key == "head.embedding.weight" and tensor.dim() == 4 else tensor
        for key, tensor in renamed.items()
    }


def _foamliu_key(key: str) -> str:
    if match := re.fullmatch(r"features\.(\d+)\.(.+)", key):
        place = _stage_of(int(match[1]))
        if place is not None:
            return f"stages.{place[0]}.blocks.{place[1]}.{rename_prefix(match[2], FOAMLIU_BLOCK)}"
    return rename_prefix(key, FOAMLIU)
