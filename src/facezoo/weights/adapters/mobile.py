"""State dicts of timm's and torchvision's mobile networks: MobileNetV3, EfficientNet, GhostNet, ShuffleNet V2."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

# --- timm: one table for blocks with an expanding convolution, one for those without, which have no ``conv_pwl``

TIMM = {
    "conv_stem.": "stem.conv.conv.",
    "bn1.": "stem.conv.norm.",
    "conv_head.": "head.conv.conv.",
    "bn2.": "head.conv.norm.",
    "classifier.": "classifier.",
}
TIMM_BLOCK = {
    "conv_pw.": "expand.conv.",
    "bn1.": "expand.norm.",
    "conv_dw.": "depthwise.conv.",
    "bn2.": "depthwise.norm.",
    "se.conv_reduce.": "squeeze.fc1.",
    "se.conv_expand.": "squeeze.fc2.",
    "conv_pwl.": "project.conv.",
    "bn3.": "project.norm.",
}
TIMM_SEPARABLE = {
    "conv_dw.": "depthwise.conv.",
    "bn1.": "depthwise.norm.",
    "se.conv_reduce.": "squeeze.fc1.",
    "se.conv_expand.": "squeeze.fc2.",
    "conv_pw.": "project.conv.",
    "bn2.": "project.norm.",
}
TIMM_V3_HEAD = {  # the last convolution before pooling is the last "block"; conv_head follows the pooling
    "conv.": "head.conv.conv.",
    "bn1.": "head.conv.norm.",
}


def convert_timm_efficientnet(state_dict: StateDict) -> dict[str, Tensor]:
    """EfficientNet: ``conv_stem, blocks.0.0.conv_dw … conv_head, classifier``."""
    expanded = _timm_expanded(state_dict)
    return rename_keys(state_dict, lambda key: _timm_block_key(key, expanded) or rename_prefix(key, TIMM))


def convert_timm_mobilenet_v3(state_dict: StateDict) -> dict[str, Tensor]:
    """MobileNetV3: like EfficientNet, but ``blocks.6.0.conv`` is the last convolution and ``conv_head`` follows the pooling."""
    expanded = _timm_expanded(state_dict)

    def rename(key: str) -> str:
        if match := re.fullmatch(r"blocks\.\d+\.0\.((?:conv|bn1)\..+)", key):
            number = key.split(".")[1]
            if f"blocks.{number}.0.conv.weight" in state_dict:
                return rename_prefix(match[1], TIMM_V3_HEAD)
        renamed = _timm_block_key(key, expanded)
        return renamed or rename_prefix(key, {**TIMM, "conv_head.": "head.hidden.linear."})

    return {
        key: tensor.flatten(1) if key == "head.hidden.linear.weight" else tensor
        for key, tensor in rename_keys(state_dict, rename).items()
    }


def _timm_expanded(state_dict: StateDict) -> set[str]:
    """The blocks with an expanding convolution, as ``stage.block``."""
    return {".".join(key.split(".")[1:3]) for key in state_dict if key.endswith(".conv_pwl.weight")}


def _timm_block_key(key: str, expanded: set[str]) -> str:
    match = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", key)
    if match is None:
        return ""
    table = TIMM_BLOCK if f"{match[1]}.{match[2]}" in expanded else TIMM_SEPARABLE
    return f"stages.{match[1]}.blocks.{match[2]}.{rename_prefix(match[3], table)}"


# --- timm's GhostNet: a stage there ends where a stride follows, or a run of equal kernels; here where the width changes

# timm's (stage, block) -> facezoo's
GHOST_BLOCKS = {
    ("0", "0"): (0, 0),
    ("1", "0"): (1, 0),
    ("2", "0"): (1, 1),
    ("3", "0"): (2, 0),
    ("4", "0"): (2, 1),
    ("5", "0"): (3, 0),
    **{("6", str(block)): (3, block + 1) for block in range(3)},
    **{("6", str(block)): (4, block - 3) for block in (3, 4)},
    ("7", "0"): (5, 0),
    **{("8", str(block)): (5, block + 1) for block in range(4)},
}
GHOST_BLOCK = {
    **{
        f"{source}.{half}_{kind}.{index}.": f"{target}.{half}.{part}."
        for source, target in (("ghost1", "expand"), ("ghost2", "project"))
        for half, kind in (("primary", "conv"), ("cheap", "operation"))
        for index, part in enumerate(("conv", "norm"))
    },
    "conv_dw.": "depthwise.conv.",
    "bn_dw.": "depthwise.norm.",
    "se.conv_reduce.": "attention.fc1.",
    "se.conv_expand.": "attention.fc2.",
    **{f"shortcut.{index}.": f"shortcut.{index // 2}.{('conv', 'norm')[index % 2]}." for index in range(4)},
}
GHOST = {
    "conv_stem.": "stem.conv.conv.",
    "bn1.": "stem.conv.norm.",
    "blocks.9.0.conv.": "head.conv.conv.",
    "blocks.9.0.bn1.": "head.conv.norm.",
    "conv_head.": "head.hidden.linear.",
    "classifier.": "classifier.",
}


def convert_timm_ghostnet(state_dict: StateDict) -> dict[str, Tensor]:
    """GhostNet: ``conv_stem, blocks.0.0.ghost1.primary_conv.0 … conv_head, classifier``."""

    def rename(key: str) -> str:
        match = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(.+)", key)
        if match and (match[1], match[2]) in GHOST_BLOCKS:
            stage, block = GHOST_BLOCKS[match[1], match[2]]
            return f"stages.{stage}.blocks.{block}.{rename_prefix(match[3], GHOST_BLOCK)}"
        return rename_prefix(key, GHOST)

    return {
        key: tensor.flatten(1) if key == "head.hidden.linear.weight" else tensor
        for key, tensor in rename_keys(state_dict, rename).items()
    }


# --- torchvision: the parts of a block are numbered, and the numbers move where a part is missing

TORCHVISION_V3_DEPTHS = {16: (1, 2, 3, 4, 2, 3), 12: (1, 2, 3, 2, 3)}  # by the number of the last convolution
TORCHVISION_V3_EPS = 1e-3
OUR_EPS = 1e-5


def convert_torchvision_efficientnet(state_dict: StateDict) -> dict[str, Tensor]:
    """EfficientNet: ``features.0.0, features.1.0.block.0.0 … features.8, classifier.1``."""
    rename_inside = _torchvision_inside(
        state_dict, r"features\.\d+\.\d+", lambda block: block.startswith("features.1.")
    )

    def rename(key: str) -> str:
        if match := re.fullmatch(r"(features\.([1-7])\.(\d+))\.block\.(.+)", key):
            return f"stages.{int(match[2]) - 1}.blocks.{match[3]}.{rename_inside(match[1], match[4])}"
        return rename_prefix(
            key,
            {
                **_conv_unit("features.0.", "stem.conv."),
                **_conv_unit("features.8.", "head.conv."),
                "classifier.1.": "classifier.",
            },
        )

    return rename_keys(state_dict, rename)


def convert_torchvision_mobilenet_v3(state_dict: StateDict) -> dict[str, Tensor]:
    """MobileNetV3: ``features.0.0, features.1.block.0.0 … classifier.0, classifier.3``, blocks numbered across stages.

    Its batch norms have eps 1e-3, facezoo's 1e-5. The difference is added to the running variances, which is exact.
    """
    last = next((number for number in TORCHVISION_V3_DEPTHS if f"features.{number}.0.weight" in state_dict), 16)
    starts = [0, *accumulate(TORCHVISION_V3_DEPTHS[last])]
    rename_inside = _torchvision_inside(state_dict, r"features\.\d+", lambda block: block == "features.1")

    def rename(key: str) -> str:
        match = re.fullmatch(r"(features\.(\d+))\.block\.(.+)", key)
        if match and 1 <= int(match[2]) < last:
            index = int(match[2]) - 1
            stage = next(s for s in range(len(starts) - 1) if starts[s] <= index < starts[s + 1])
            return f"stages.{stage}.blocks.{index - starts[stage]}.{rename_inside(match[1], match[3])}"
        return rename_prefix(
            key,
            {
                **_conv_unit("features.0.", "stem.conv."),
                **_conv_unit(f"features.{last}.", "head.conv."),
                "classifier.0.": "head.hidden.linear.",
                "classifier.3.": "classifier.",
            },
        )

    return {
        key: tensor + (TORCHVISION_V3_EPS - OUR_EPS) if key.endswith(".running_var") else tensor
        for key, tensor in rename_keys(state_dict, rename).items()
    }


def _conv_unit(source: str, target: str) -> dict[str, str]:
    return {f"{source}0.": f"{target}conv.", f"{source}1.": f"{target}norm."}


def _torchvision_inside(
    state_dict: StateDict, block_pattern: str, is_separable: Callable[[str], bool]
) -> Callable[[str, str], str]:
    """The function (block, key after ``block.``) -> facezoo's key inside the block."""
    squeezed = {
        match[1]
        for key in state_dict
        if (match := re.fullmatch(rf"({block_pattern})\.block\.\d\.fc1\.weight", key)) is not None
    }

    def rename(block: str, inside: str) -> str:
        parts = ["depthwise"] if is_separable(block) else ["expand", "depthwise"]
        parts += ["squeeze"] if block in squeezed else []
        parts += ["project"]
        number, _, rest = inside.partition(".")
        if not number.isdigit() or int(number) >= len(parts):
            return inside
        part = parts[int(number)]
        return f"{part}.{rest if part == 'squeeze' else rename_prefix(rest, _conv_unit('', ''))}"

    return rename


# --- torchvision's ShuffleNet V2

SHUFFLENET = {
    "conv1.0.": "stem.conv.conv.",
    "conv1.1.": "stem.conv.norm.",
    "conv5.0.": "head.conv.conv.",
    "conv5.1.": "head.conv.norm.",
    "fc.": "classifier.",
}
SHUFFLENET_BLOCK = {
    "branch1.0.": "shortcut.0.conv.",
    "branch1.1.": "shortcut.0.norm.",
    "branch1.2.": "shortcut.1.conv.",
    "branch1.3.": "shortcut.1.norm.",
    "branch2.0.": "expand.conv.",
    "branch2.1.": "expand.norm.",
    "branch2.3.": "depthwise.conv.",
    "branch2.4.": "depthwise.norm.",
    "branch2.5.": "project.conv.",
    "branch2.6.": "project.norm.",
}


def convert_torchvision_shufflenet_v2(state_dict: StateDict) -> dict[str, Tensor]:
    """ShuffleNet V2: ``conv1.0, stage2.0.branch1.0 … conv5.0, fc``."""

    def rename(key: str) -> str:
        if match := re.fullmatch(r"stage([234])\.(\d+)\.(.+)", key):
            return f"stages.{int(match[1]) - 2}.blocks.{match[2]}.{rename_prefix(match[3], SHUFFLENET_BLOCK)}"
        return rename_prefix(key, SHUFFLENET)

    return rename_keys(state_dict, rename)
