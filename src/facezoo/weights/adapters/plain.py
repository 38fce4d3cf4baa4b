"""State dicts of SphereFace, Light CNN, and facenet-pytorch's Inception-ResNet-v1."""

from __future__ import annotations

import re

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

LIGHTCNN9 = {
    "features.0.filter.": "stem.conv.conv.",
    "fc1.filter.": "head.embedding.",
    "fc2.": "classifier.",
}
LIGHTCNN9_STAGES = {"2": 0, "4": 1, "6": 2, "7": 3}
LIGHTCNN29 = {
    "conv1.filter.": "stem.conv.conv.",
    "group1.": "stages.1.transition.",
    "group2.": "stages.2.transition.",
    "group3.": "stages.3.transition.",
    "group4.": "stages.4.blocks.0.",
    "fc.filter.": "head.embedding.",
    "fc2.": "classifier.",
}
LIGHTCNN29_V2 = {**LIGHTCNN29, "fc.": "head.embedding."}
MFM_GROUP = {"conv_a.filter.": "conv1.conv.", "conv.filter.": "conv2.conv."}

FACENET = {
    "conv2d_1a.": "stem.conv1.",
    "conv2d_2a.": "stem.conv2.",
    "conv2d_2b.": "stem.conv3.",
    "conv2d_3b.": "stem.conv4.",
    "conv2d_4a.": "stem.conv5.",
    "conv2d_4b.": "stem.conv6.",
    "mixed_6a.": "stages.1.transition.",
    "mixed_7a.": "stages.2.transition.",
    "block8.": "stages.2.blocks.5.",
    "last_linear.": "head.embedding.",
    "last_bn.": "head.embedding_norm.",
    "logits.": "classifier.",
}


def convert_sphereface(state_dict: StateDict) -> dict[str, Tensor]:
    """``conv1_1, relu1_1, conv1_2 … conv4_3, fc5``: stage and layer; the first of a stage has the stride, the others form pairs.

    ``fc6``, the class centers, belongs to the margin head and is left out.
    """
    own = {key: tensor for key, tensor in state_dict.items() if not key.startswith("fc6.")}
    return rename_keys(own, _sphereface_key)


def convert_lightcnn9(state_dict: StateDict) -> dict[str, Tensor]:
    """Light CNN of 9 layers: ``features.0.filter, features.2.conv_a.filter … fc1, fc2``."""
    return rename_keys(state_dict, _lightcnn9_key)


def convert_lightcnn29(state_dict: StateDict) -> dict[str, Tensor]:
    """Light CNN of 29 layers: ``conv1.filter, block1.0.conv1.filter, group1.conv_a.filter … fc, fc2``."""
    return rename_keys(state_dict, lambda key: _lightcnn29_key(key, LIGHTCNN29))


def convert_lightcnn29_v2(state_dict: StateDict) -> dict[str, Tensor]:
    """The second version of Light CNN-29: ``fc`` is a linear layer, and ``fc2`` has no bias, so it gets a bias of 0."""
    converted = rename_keys(state_dict, lambda key: _lightcnn29_key(key, LIGHTCNN29_V2))
    weight = converted.get("classifier.weight")
    if weight is not None and "classifier.bias" not in converted:
        converted["classifier.bias"] = weight.new_zeros(weight.shape[0])
    return converted


def convert_facenet(state_dict: StateDict) -> dict[str, Tensor]:
    """Inception-ResNet-v1: ``conv2d_1a, repeat_1.0.branch0, mixed_6a … last_linear, last_bn, logits``."""
    return rename_keys(state_dict, _facenet_key)


def _sphereface_key(key: str) -> str:
    match = re.fullmatch(r"(conv|relu)([1-4])_(\d+)\.(weight|bias)", key)
    if match is None:
        return rename_prefix(key, {"fc5.": "head.embedding."})
    kind, stage, layer = {"conv": "conv", "relu": "act"}[match[1]], int(match[2]) - 1, int(match[3])
    if layer == 1:
        unit = "stem.conv" if stage == 0 else f"stages.{stage}.blocks.0.entry"
    else:
        unit = f"stages.{stage}.blocks.{layer // 2 - 1}.conv{layer % 2 + 1}"
    return f"{unit}.{kind}.{match[4]}"


def _lightcnn9_key(key: str) -> str:
    if (match := re.fullmatch(r"features\.([2467])\.(.+)", key)) is not None:
        return f"stages.{LIGHTCNN9_STAGES[match[1]]}.blocks.0.{rename_prefix(match[2], MFM_GROUP)}"
    return rename_prefix(key, LIGHTCNN9)


def _lightcnn29_key(key: str, table: dict[str, str]) -> str:
    if match := re.fullmatch(r"block([1-4])\.(\d+)\.(conv[12])\.filter\.(.+)", key):
        return f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{match[3]}.conv.{match[4]}"
    if key.startswith("group"):
        place, _, inside = key.partition(".")
        return table.get(f"{place}.", f"{place}.") + rename_prefix(inside, MFM_GROUP)
    return rename_prefix(key, table)


def _facenet_key(key: str) -> str:
    if match := re.fullmatch(r"repeat_([123])\.(\d+)\.(.+)", key):
        name = f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{match[3]}"
    else:
        name = rename_prefix(key, FACENET)
    name = re.sub(r"\.branch(\d)\.(\d)\.", r".branches.\1.\2.", name)
    name = re.sub(r"\.branch(\d)\.", r".branches.\1.0.", name)  # there, a branch with one convolution has no number
    return name.replace(".conv2d.", ".project.").replace(".bn.", ".norm.")
