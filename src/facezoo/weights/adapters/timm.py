"""State dicts of timm: ResNet, also with attention, ResNet-D, ResNeXt, ConvNeXt, MobileNetV2, RepVGG."""

from __future__ import annotations

import re

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix
from facezoo.weights.adapters.torchvision import convert_resnet

__all__ = ["convert_convnext", "convert_mobilenet_v2", "convert_repvgg", "convert_resnet", "convert_resnet_d"]

CONVNEXT = {
    "stem.0.": "stem.conv.",
    "stem.1.": "stem.norm.",
    "head.norm.": "head.pool_norm.",
    "head.fc.": "classifier.",
}
CONVNEXT_STAGE = {"downsample.0.": "transition.norm.", "downsample.1.": "transition.conv."}
CONVNEXT_BLOCK = {
    "conv_dw.": "depthwise.",
    "norm.": "norm.",
    "mlp.fc1.": "pointwise1.",
    "mlp.grn.": "response_norm.",
    "mlp.fc2.": "pointwise2.",
    "gamma": "scale.gamma",
}

REPVGG_BLOCK = {
    "conv_kxk.conv.": "conv3.conv.",
    "conv_kxk.bn.": "conv3.norm.",
    "conv_1x1.conv.": "conv1.conv.",
    "conv_1x1.bn.": "conv1.norm.",
    "reparam_conv.": "merged.",
}

RESNET_D_STEM = {
    "conv1.0.": "stem.conv1.conv.",
    "conv1.1.": "stem.conv1.norm.",
    "conv1.3.": "stem.conv2.conv.",
    "conv1.4.": "stem.conv2.norm.",
    "conv1.6.": "stem.conv3.conv.",
    "bn1.": "stem.conv3.norm.",
}
RESNET_D_SHORTCUT = {"downsample.1.": "shortcut.project.conv.", "downsample.2.": "shortcut.project.norm."}

MOBILENET_V2 = {
    "conv_stem.": "stem.conv.conv.",
    "bn1.": "stem.conv.norm.",
    "conv_head.": "head.conv.conv.",
    "bn2.": "head.conv.norm.",
    "classifier.": "classifier.",
}
MOBILENET_V2_BLOCK = {
    "conv_pw.": "expand.conv.",
    "bn1.": "expand.norm.",
    "conv_dw.": "depthwise.conv.",
    "bn2.": "depthwise.norm.",
    "conv_pwl.": "project.conv.",
    "bn3.": "project.norm.",
}
MOBILENET_V2_FIRST_BLOCK = {  # in timm, expansion 1 is a depthwise separable convolution
    "conv_dw.": "depthwise.conv.",
    "bn1.": "depthwise.norm.",
    "conv_pw.": "project.conv.",
    "bn2.": "project.norm.",
}


def convert_convnext(state_dict: StateDict) -> dict[str, Tensor]:
    """ConvNeXt V1 and V2: ``stem.0, stages.0.blocks.0.conv_dw … head.fc``; small sizes use 1×1 convolutions as linear layers."""
    renamed = rename_keys(state_dict, _convnext_key)
    return {
        key: tensor.flatten(1) if ".pointwise" in key and key.endswith(".weight") else tensor
        for key, tensor in renamed.items()
    }


def convert_face_convnext(state_dict: StateDict) -> dict[str, Tensor]:
    """timm-face's ConvNeXt: as in timm, but the classifier is the embedding."""
    return rename_keys(convert_convnext(state_dict), lambda key: rename_prefix(key, {"classifier.": "head.embedding."}))


def convert_mobilenet_v2(state_dict: StateDict) -> dict[str, Tensor]:
    """MobileNetV2: ``conv_stem, blocks.0.0.conv_dw … classifier``."""
    return rename_keys(state_dict, _mobilenet_v2_key)


def convert_resnet_d(state_dict: StateDict) -> dict[str, Tensor]:
    """ResNet-C and -D: three convolutions ``conv1.0, conv1.3, conv1.6`` in the stem, otherwise like ResNet.

    In D ``downsample.0`` is the pooling, in C the convolution.
    """
    pooled = not any(key.endswith(".downsample.0.weight") for key in state_dict)
    return convert_resnet(rename_keys(state_dict, lambda key: _resnet_d_key(key, pooled)))


def convert_repvgg(state_dict: StateDict) -> dict[str, Tensor]:
    """RepVGG: ``stem.conv_kxk.conv, stages.0.0.conv_1x1.conv, stages.0.1.identity … head.fc``; merged, ``reparam_conv``."""
    return rename_keys(state_dict, _repvgg_key)


def _repvgg_key(key: str) -> str:
    if match := re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", key):
        return f"stages.{match[1]}.blocks.{match[2]}.{rename_prefix(match[3], REPVGG_BLOCK)}"
    if key.startswith("stem."):
        return "stem." + rename_prefix(key.removeprefix("stem."), REPVGG_BLOCK)
    return rename_prefix(key, {"head.fc.": "classifier."})


def _resnet_d_key(key: str, pooled: bool) -> str:
    if pooled and (match := re.fullmatch(r"layer([1-4])\.(\d+)\.(downsample\..+)", key)):
        return f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{rename_prefix(match[3], RESNET_D_SHORTCUT)}"
    return rename_prefix(key, RESNET_D_STEM)


def _convnext_key(key: str) -> str:
    if match := re.fullmatch(r"(stages\.\d+\.blocks\.\d+)\.(.+)", key):
        return f"{match[1]}.{rename_prefix(match[2], CONVNEXT_BLOCK)}"
    if match := re.fullmatch(r"(stages\.\d+)\.(.+)", key):
        return f"{match[1]}.{rename_prefix(match[2], CONVNEXT_STAGE)}"
    return rename_prefix(key, CONVNEXT)


def _mobilenet_v2_key(key: str) -> str:
    if match := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", key):
        table = MOBILENET_V2_FIRST_BLOCK if match[1] == match[2] == "0" else MOBILENET_V2_BLOCK
        return f"stages.{match[1]}.blocks.{match[2]}.{rename_prefix(match[3], table)}"
    return rename_prefix(key, MOBILENET_V2)
