"""State dicts of Vision Transformers (timm, insightface) and Swin Transformers (timm, torchvision)."""

from __future__ import annotations

import re

from torch import Tensor

from facezoo.weights.adapters._adapter import StateDict, rename_keys, rename_prefix

BLOCK = {
    "norm1.": "norm1.",
    "attn.qkv.": "attention.qkv.",
    "attn.proj.": "attention.proj.",
    "attn.relative_position_bias_table": "attention.bias_table",
    "norm2.": "norm2.",
    "mlp.fc1.": "pointwise1.",
    "mlp.fc2.": "pointwise2.",
}

# --- Vision Transformers

VIT = {
    "patch_embed.proj.": "stem.conv.",
    "pos_embed": "stem.positions",
    "cls_token": "stages.0.tokens.class_token",
    "norm.": "head.map_norm.",
    "head.": "classifier.",
}
INSIGHTFACE = {
    **VIT,
    "feature.0.": "head.hidden.linear.",
    "feature.1.": "head.hidden.norm.",
    "feature.2.": "head.embedding.",
    "feature.3.": "head.embedding_norm.",
}
INSIGHTFACE_EPS = 2e-5  # of the two batch norms
OUR_EPS = 1e-5


def convert_timm_vit(state_dict: StateDict) -> dict[str, Tensor]:
    """ViT with a class token: ``cls_token, pos_embed, patch_embed.proj, blocks.0.norm1 … norm, head``.

    The first position is the class token's own.
    """
    return _with_positions(rename_keys(state_dict, lambda key: _vit_key(key, VIT)))


def _with_positions(converted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Class token and its position as vectors, the other positions row by row."""
    if "stages.0.tokens.class_token" in converted:
        converted["stages.0.tokens.class_token"] = converted["stages.0.tokens.class_token"].flatten()
        positions = converted.get("stem.positions")
        if positions is not None:
            converted["stages.0.tokens.class_position"] = positions[0, 0]
            converted["stem.positions"] = positions[0, 1:]
    elif "stem.positions" in converted:
        converted["stem.positions"] = converted["stem.positions"][0]
    return converted


def convert_timm_face_vit(state_dict: StateDict) -> dict[str, Tensor]:
    """timm-face's ViT: as in timm, but the classifier is the embedding. Without a class token, ``fc_norm`` follows the mean
    over tokens."""
    table = {**VIT, "fc_norm.": "head.pool_norm.", "head.": "head.embedding."}
    converted = rename_keys(state_dict, lambda key: _vit_key(key, table))
    return _with_positions(converted)


def convert_insightface_vit(state_dict: StateDict) -> dict[str, Tensor]:
    """arcface_torch's ViT: ``mask_token, pos_embed, patch_embed.proj, blocks.0.norm1 … norm, feature``.

    ``feature.0`` takes the input ordered by token, facezoo's by channel, so its columns are reordered. Its batch norms have eps
    2e-5, facezoo's 1e-5; the difference is added to the running variances, which is exact. ``mask_token``, which is only used
    for masking tokens in training, is left out.
    """
    kept = {key: tensor for key, tensor in state_dict.items() if key != "mask_token"}
    converted = rename_keys(kept, lambda key: _vit_key(key, INSIGHTFACE))
    for key, tensor in converted.items():
        if key == "stem.positions":
            converted[key] = tensor[0]
        elif key == "head.hidden.linear.weight":
            width = tensor.shape[0]
            converted[key] = tensor.unflatten(1, (-1, width)).transpose(1, 2).flatten(1)
        elif key.startswith("head.") and key.endswith(".running_var"):
            converted[key] = tensor + (INSIGHTFACE_EPS - OUR_EPS)
    return converted


def _vit_key(key: str, table: dict[str, str]) -> str:
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", key):
        return f"stages.0.blocks.{match[1]}.{rename_prefix(match[2], BLOCK)}"
    return rename_prefix(key, table)


# --- Swin Transformers

TIMM_SWIN = {
    "patch_embed.proj.": "stem.conv.",
    "patch_embed.norm.": "stem.norm.",
    "norm.": "head.map_norm.",
    "head.fc.": "classifier.",
}
TORCHVISION_SWIN = {
    "features.0.0.": "stem.conv.",
    "features.0.2.": "stem.norm.",
    "norm.": "head.map_norm.",
    "head.": "classifier.",
}
MERGE = {"norm.": "norm.", "reduction.": "reduce."}
DERIVED = ("relative_position_index", "attn_mask")  # tables that facezoo computes from the window size


def convert_timm_swin(state_dict: StateDict) -> dict[str, Tensor]:
    """Swin: ``patch_embed.proj, layers.0.blocks.0.norm1 … layers.1.downsample … norm, head.fc``."""

    def rename(key: str) -> str:
        if match := re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", key):
            return f"stages.{match[1]}.blocks.{match[2]}.{rename_prefix(match[3], BLOCK)}"
        if match := re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", key):
            return f"stages.{match[1]}.transition.{rename_prefix(match[2], MERGE)}"
        return rename_prefix(key, TIMM_SWIN)

    return rename_keys(_without_derived(state_dict), rename)


def convert_torchvision_swin(state_dict: StateDict) -> dict[str, Tensor]:
    """Swin: ``features.0.0, features.1.0.norm1 … features.2.reduction … norm, head``; the tables of positions are left out."""
    table = {**BLOCK, "mlp.0.": "pointwise1.", "mlp.3.": "pointwise2."}

    def rename(key: str) -> str:
        if match := re.fullmatch(r"features\.([1357])\.(\d+)\.(.+)", key):
            return f"stages.{int(match[1]) // 2}.blocks.{match[2]}.{rename_prefix(match[3], table)}"
        if match := re.fullmatch(r"features\.([246])\.(.+)", key):
            return f"stages.{int(match[1]) // 2}.transition.{rename_prefix(match[2], MERGE)}"
        return rename_prefix(key, TORCHVISION_SWIN)

    return rename_keys(_without_derived(state_dict), rename)


def _without_derived(state_dict: StateDict) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state_dict.items() if not key.endswith(DERIVED)}
