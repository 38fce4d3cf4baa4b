"""State dicts of insightface's arcface_torch: IResNet and MobileFaceNet (``mbf``)."""

from __future__ import annotations

import re

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

IRESNET = {
    "conv1.": "stem.conv.conv.",
    "bn1.": "stem.conv.norm.",
    "prelu.": "stem.conv.act.",
    "bn2.": "head.map_norm.",
    "fc.": "head.embedding.",
    "features.": "head.embedding_norm.",
}
IRESNET_BLOCK = {
    "bn1.": "norm.",
    "conv1.": "conv1.conv.",
    "bn2.": "conv1.norm.",
    "prelu.": "conv1.act.",
    "conv2.": "conv2.conv.",
    "bn3.": "conv2.norm.",
    "downsample.0.": "shortcut.conv.",
    "downsample.1.": "shortcut.norm.",
}

CONV_BLOCK = {"layers.0.": "conv.", "layers.1.": "norm.", "layers.2.": "act."}
DEPTHWISE = ("expand", "depthwise", "project")
MOBILEFACENET = {
    "features.layers.0.layers.0.": "head.pool.conv.",
    "features.layers.0.layers.1.": "head.pool.norm.",
    "features.layers.2.": "head.embedding.",
    "features.layers.3.": "head.embedding_norm.",
}


def convert_iresnet(state_dict: StateDict) -> dict[str, Tensor]:
    """IResNet: ``conv1, bn1, prelu, layer1.0.bn1 … bn2, fc, features``; the map is flattened in (C, H, W) order in both."""
    return rename_keys(state_dict, _iresnet_key)


def convert_mobilefacenet(state_dict: StateDict) -> dict[str, Tensor]:
    """MobileFaceNet: ``layers.0 … layers.7, conv_sep, features``.

    ``layers.0`` is the stem, ``layers.1`` the first stage (one convolution, in ``mbf_large`` a ``Residual``); then a strided block
    and a ``Residual`` of several make a stage.
    """
    return rename_keys(state_dict, _mobilefacenet_key)


def _iresnet_key(key: str) -> str:
    if match := re.fullmatch(r"layer([1-4])\.(\d+)\.(.+)", key):
        return f"stages.{int(match[1]) - 1}.blocks.{match[2]}.{rename_prefix(match[3], IRESNET_BLOCK)}"
    return rename_prefix(key, IRESNET)


def _mobilefacenet_key(key: str) -> str:
    if match := re.fullmatch(r"layers\.(1\.layers\.\d\.layers|[2-7])\.(.+)", key):
        index, inside = int(key.split(".")[1]), key.split(".", 2)[2]
        block = 0
        if index % 2:  # a Residual: all blocks after the stage's first, in the first stage all blocks
            number, _, inside = inside.removeprefix("layers.").partition(".")
            block = int(number) + (index > 1)
        if match := re.fullmatch(r"layers\.([0-2])\.(layers\..+)", inside):
            unit = f"{DEPTHWISE[int(match[1])]}.{rename_prefix(match[2], CONV_BLOCK)}"
            return f"stages.{index // 2}.blocks.{block}.{unit}"
        return key
    for prefix, replacement in {
        "layers.0.": "stem.conv.",
        "layers.1.": "stages.0.blocks.0.",
        "conv_sep.": "head.conv.",
    }.items():
        if key.startswith(prefix):
            return replacement + rename_prefix(key.removeprefix(prefix), CONV_BLOCK)
    return rename_prefix(key, MOBILEFACENET)
