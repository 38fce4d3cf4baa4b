"""State dicts of torchvision: ResNet (ResNeXt, Wide ResNet), ConvNeXt, MobileNetV2, VGG with batch norm, DenseNet, RegNet-Y."""

from __future__ import annotations

import re
from itertools import accumulate

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

RESNET = {"conv1.": "stem.conv.conv.", "bn1.": "stem.conv.norm.", "fc.": "classifier."}
RESNET_BLOCK = {
    "conv1.": "conv1.conv.",
    "bn1.": "conv1.norm.",
    "conv2.": "conv2.conv.",
    "bn2.": "conv2.norm.",
    "conv3.": "conv3.conv.",
    "bn3.": "conv3.norm.",
    "se.spatial.conv.bn.": "attention.spatial.conv.norm.",  # timm's CBAM
    "se.": "attention.",  # timm's ResNets with attention have the same layout, plus the attention
    "downsample.0.": "shortcut.conv.",
    "downsample.1.": "shortcut.norm.",
}

CONVNEXT = {
    "features.0.0.": "stem.conv.",
    "features.0.1.": "stem.norm.",
    "classifier.0.": "head.pool_norm.",
    "classifier.2.": "classifier.",
}
CONVNEXT_BLOCK = {
    "block.0.": "depthwise.",
    "block.2.": "norm.",
    "block.3.": "pointwise1.",
    "block.5.": "pointwise2.",
    "layer_scale": "scale.gamma",
}

MOBILENET_V2 = {
    "features.0.0.": "stem.conv.conv.",
    "features.0.1.": "stem.conv.norm.",
    "features.18.0.": "head.conv.conv.",
    "features.18.1.": "head.conv.norm.",
    "classifier.1.": "classifier.",
}
MOBILENET_V2_DEPTHS = (1, 2, 3, 4, 3, 3, 1)
MOBILENET_V2_BLOCK = {
    "0.0.": "expand.conv.",
    "0.1.": "expand.norm.",
    "1.0.": "depthwise.conv.",
    "1.1.": "depthwise.norm.",
    "2.": "project.conv.",
    "3.": "project.norm.",
}
MOBILENET_V2_FIRST_BLOCK = {  # expansion 1: no expanding convolution, so all numbers are one lower
    "0.0.": "depthwise.conv.",
    "0.1.": "depthwise.norm.",
    "1.": "project.conv.",
    "2.": "project.norm.",
}

VGG = {
    "classifier.0.": "head.hidden.0.linear.",
    "classifier.3.": "head.hidden.2.linear.",
    "classifier.6.": "classifier.",
}

DENSENET = {
    "features.conv0.": "stem.conv.conv.",
    "features.norm0.": "stem.conv.norm.",
    "features.norm5.": "head.map_norm.",
    "classifier.": "classifier.",
}

REGNET = {"stem.0.": "stem.conv.conv.", "stem.1.": "stem.conv.norm.", "fc.": "classifier."}
REGNET_BLOCK = {
    "proj.0.": "shortcut.conv.",
    "proj.1.": "shortcut.norm.",
    "f.a.0.": "conv1.conv.",
    "f.a.1.": "conv1.norm.",
    "f.b.0.": "conv2.conv.",
    "f.b.1.": "conv2.norm.",
    "f.se.": "attention.",
    "f.c.0.": "conv3.conv.",
    "f.c.1.": "conv3.norm.",
}


def convert_resnet(state_dict: StateDict) -> dict[str, Tensor]:
    """ResNet: ``conv1, bn1, layer1.0.conv1 … fc``. Also timm's ResNets with attention, which only add ``layer1.0.se``."""
    return rename_keys(state_dict, _resnet_key)


def convert_convnext(state_dict: StateDict) -> dict[str, Tensor]:
    """ConvNeXt: ``features.0.0 … classifier.2``; the layer scale loses its two trailing axes."""
    renamed = rename_keys(state_dict, _convnext_key)
    return {
        key: tensor.flatten() if key.endswith(".scale.gamma") and tensor.dim() == 3 else tensor
        for key, tensor in renamed.items()
    }


def convert_mobilenet_v2(state_dict: StateDict) -> dict[str, Tensor]:
    """MobileNetV2: ``features.0.0 … classifier.1``, its blocks numbered 1 to 17 through all stages."""
    return rename_keys(state_dict, _mobilenet_v2_key)


def convert_vgg_bn(state_dict: StateDict) -> dict[str, Tensor]:
    """VGG with batch norm: ``features.0, features.1, features.3 … classifier.6``; gaps in the numbers are max-pooling layers."""
    indices = sorted({int(match[1]) for key in state_dict if (match := re.match(r"features\.(\d+)\.", key))})
    units: dict[int, str] = {}  # the number of a convolution or norm -> its name
    stage = position = 0
    for place, index in enumerate(indices):
        if place % 2 == 0:  # a convolution; then come its norm, a ReLU without weights, and sometimes a max-pool
            if place and index - indices[place - 1] == 3:
                stage, position = stage + 1, 0
            name = "stem.conv" if place == 0 else f"stages.{stage}.blocks.0.convs.{position - (stage == 0)}"
            position += 1
        units[index] = f"{name}.{('conv', 'norm')[place % 2]}."
    table = {f"features.{index}.": name for index, name in units.items()} | VGG
    return rename_keys(state_dict, lambda key: rename_prefix(key, table))


def convert_densenet(state_dict: StateDict) -> dict[str, Tensor]:
    """DenseNet: ``features.conv0, features.denseblock1.denselayer1.norm1 … classifier``; also with the old names, ``norm.1``."""
    return rename_keys(state_dict, _densenet_key)


def convert_regnet_y(state_dict: StateDict) -> dict[str, Tensor]:
    """RegNet-Y: ``stem.0, trunk_output.block1.block1-0.proj.0, trunk_output.block1.block1-0.f.a.0 … fc``."""
    return rename_keys(state_dict, _regnet_key)


def _regnet_key(key: str) -> str:
    if match := re.fullmatch(r"trunk_output\.block([1-4])\.block\1-(\d+)\.(.+)", key):
        return f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{rename_prefix(match[3], REGNET_BLOCK)}"
    return rename_prefix(key, REGNET)


def _densenet_key(key: str) -> str:
    if match := re.fullmatch(r"features\.denseblock([1-4])\.denselayer(\d+)\.(norm|conv)\.?([12])\.(.+)", key):
        stage, layer = int(match[1]) - 1, int(match[2]) - 1
        return f"stages.{stage}.blocks.0.layers.{layer}.{match[3]}{match[4]}.{match[5]}"
    if match := re.fullmatch(r"features\.transition([1-3])\.(norm|conv)\.(.+)", key):
        return f"stages.{match[1]}.blocks.0.transition.{match[2]}.{match[3]}"
    return rename_prefix(key, DENSENET)


def _resnet_key(key: str) -> str:
    if match := re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", key):
        return f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{rename_prefix(match[3], RESNET_BLOCK)}"
    return rename_prefix(key, RESNET)


def _convnext_key(key: str) -> str:
    if match := re.fullmatch(
        r"features\.([1-7])\.([01])\.((?:weight|bias))", key
    ):  # norm and convolution between stages
        return f"stages.{int(match[1]) // 2}.transition.{('norm', 'conv')[int(match[2])]}.{match[3]}"
    if match := re.fullmatch(r"features\.([1357])\.(\d+)\.(.+)", key):
        return f"stages.{int(match[1]) // 2}.blocks.{match[2]}.{rename_prefix(match[3], CONVNEXT_BLOCK)}"
    return rename_prefix(key, CONVNEXT)


def _mobilenet_v2_key(key: str) -> str:
    if match := re.fullmatch(r"features\.(\d+)\.conv\.(.+)", key):
        index = int(match[1]) - 1
        starts = [0, *accumulate(MOBILENET_V2_DEPTHS)]
        stage = next((s for s in range(7) if starts[s] <= index < starts[s + 1]), None)
        if stage is not None:
            table = MOBILENET_V2_FIRST_BLOCK if index == 0 else MOBILENET_V2_BLOCK
            return f"stages.{stage}.blocks.{index - starts[stage]}.{rename_prefix(match[2], table)}"
    return rename_prefix(key, MOBILENET_V2)
