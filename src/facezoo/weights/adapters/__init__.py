"""Adapters: one pure function ``dict -> dict`` per source and layout, and the table that recognizes a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set

from facezoo.registry import unknown_name_message
from facezoo.weights.adapters import (
    convnext,
    edgenext,
    insightface,
    irse,
    mixfacenet,
    mobile,
    mobilefacenet_pytorch,
    native,
    plain,
    timm,
    torchvision,
    transformers,
)
from facezoo.weights.adapters._adapter import Adapter

__all__ = ["ADAPTERS", "SOURCES", "Adapter", "find_adapter", "nested_names", "readings"]

# Names under which training programs store the network beside other modules; they may be nested.
AVERAGES = ("average.", "ema.", "model_ema.", "ema_model.")  # the moving average, which is what they evaluate
NESTS = (
    *AVERAGES, "module.", "model.", "backbone.", "net.", "network.", "encoder.", "teacher.", "student.", "feat_net.",
)  # fmt: skip
_DEEPEST = 4


def _has(*markers: str) -> Callable[[Set[str]], bool]:
    return lambda keys: keys >= set(markers)


def _is_native(keys: Set[str]) -> bool:
    return any(key.startswith("stem.") for key in keys)


def _is_edgenext(keys: Set[str]) -> bool:
    return "stem.0.weight" in keys and any(
        key.startswith("stages.") and key.endswith(".xca.temperature") for key in keys
    )


def _is_plain_resnet(keys: Set[str]) -> bool:
    """torchvision's ResNets have no attention; timm's have it in ``se``, whatever its kind."""
    return keys >= set(_RESNET) and not any(".se." in key for key in keys)


def _is_repvgg(keys: Set[str]) -> bool:
    """RepVGG with its branches, or merged to one convolution."""
    return keys >= {"stem.conv_kxk.conv.weight", "stem.conv_1x1.conv.weight"} or "stem.reparam_conv.weight" in keys


def _is_cvlface_vit(keys: Set[str]) -> bool:
    """insightface's ViT without a mask token, which exists only if tokens were masked in training."""
    return keys >= {"pos_embed", "blocks.0.attn.qkv.weight", "feature.3.weight"} and "mask_token" not in keys


_RESNET = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight", "layer1.0.bn2.weight")

# The first adapter that recognizes the keys is used; a plain ResNet has the same keys in torchvision and timm.
ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        "insightface",
        "iresnet",
        _has("conv1.weight", "prelu.weight", "layer1.0.prelu.weight", "features.weight"),
        insightface.convert_iresnet,
    ),
    Adapter(
        "insightface",
        "mobilefacenet",
        _has("layers.0.layers.0.weight", "conv_sep.layers.0.weight", "features.layers.2.weight"),
        insightface.convert_mobilefacenet,
    ),
    Adapter(
        "mixfacenet",
        "mixfacenet",
        _has("features.init_block.conv1.conv.weight", "tail.conv.weight", "feautre_layer.dw_conv.conv.weight"),
        mixfacenet.convert_mixfacenet,
    ),
    Adapter(
        "mobilefacenet_pytorch",
        "mobilefacenet",
        _has("conv1.prelu.weight", "dw_conv1.conv.weight", "blocks.0.conv.6.weight", "linear7.conv.weight"),
        mobilefacenet_pytorch.convert_mobilefacenet,
    ),
    Adapter(
        "insightface_pytorch",
        "mobilefacenet",
        _has("conv1.prelu.weight", "conv2_dw.conv.weight", "conv_23.conv_dw.conv.weight", "conv_6_dw.conv.weight"),
        mobilefacenet_pytorch.convert_insightface_pytorch,
    ),
    Adapter(
        "foamliu",
        "mobilefacenet",
        _has("conv1.0.weight", "dw_conv.depthwise.weight", "features.0.conv.0.0.weight", "gdconv.depthwise.weight"),
        mobilefacenet_pytorch.convert_foamliu,
    ),
    Adapter("cvlface", "ir", irse.is_cvlface, irse.convert_ir),
    Adapter("face_evolve", "ir", irse.is_evolve, irse.convert_ir),
    Adapter("torchvision", "resnet", _is_plain_resnet, torchvision.convert_resnet),
    Adapter("timm", "resnet", _has(*_RESNET), timm.convert_resnet),
    Adapter(
        "timm", "resnet_d", _has("conv1.0.weight", "conv1.6.weight", "layer1.0.conv1.weight"), timm.convert_resnet_d
    ),
    Adapter(
        "torchvision", "convnext", _has("features.0.0.weight", "features.1.0.layer_scale"), torchvision.convert_convnext
    ),
    Adapter(
        "insightface",
        "vit",
        _has("pos_embed", "mask_token", "blocks.0.attn.qkv.weight", "feature.3.weight"),
        transformers.convert_insightface_vit,
    ),
    Adapter(
        "timm",
        "vit",
        _has("cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        transformers.convert_timm_vit,
    ),
    Adapter("cvlface", "vit", _is_cvlface_vit, transformers.convert_insightface_vit),
    Adapter(
        "timm_face",
        "vit",
        _has("pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.bias", "head.weight"),
        transformers.convert_timm_face_vit,
    ),
    Adapter(
        "torchvision",
        "swin",
        _has("features.0.0.weight", "features.1.0.attn.relative_position_bias_table"),
        transformers.convert_torchvision_swin,
    ),
    Adapter(
        "timm",
        "swin",
        _has("patch_embed.proj.weight", "layers.0.blocks.0.attn.relative_position_bias_table"),
        transformers.convert_timm_swin,
    ),
    Adapter("timm", "edgenext", _is_edgenext, edgenext.convert_edgenext),
    Adapter(
        "edgeface",
        "edgeface",
        _has("model.stem.0.weight", "model.stages.0.blocks.0.conv_dw.weight"),
        edgenext.convert_edgeface,
    ),
    Adapter("timm", "convnext", _has("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"), timm.convert_convnext),
    Adapter(
        "timm_face",
        "convnext",
        _has("stem.0.weight", "stages.0.blocks.0.conv_dw.weight", "head.fc.weight"),
        timm.convert_face_convnext,
    ),
    Adapter(
        "convnext",
        "convnext",
        _has("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
        convnext.convert_convnext,
    ),
    Adapter(
        "torchvision",
        "mobilenet_v2",
        _has("features.0.0.weight", "features.1.conv.1.weight", "features.2.conv.3.weight"),
        torchvision.convert_mobilenet_v2,
    ),
    Adapter(
        "torchvision",
        "mobilenet_v3",
        _has("features.0.0.weight", "features.1.block.0.0.weight", "classifier.3.weight"),
        mobile.convert_torchvision_mobilenet_v3,
    ),
    Adapter(
        "torchvision",
        "shufflenet_v2",
        _has("conv1.0.weight", "stage2.0.branch1.0.weight", "stage2.0.branch2.6.weight"),
        mobile.convert_torchvision_shufflenet_v2,
    ),
    Adapter(
        "timm",
        "ghostnet",
        _has("conv_stem.weight", "blocks.0.0.ghost1.primary_conv.0.weight", "blocks.9.0.conv.weight"),
        mobile.convert_timm_ghostnet,
    ),
    Adapter(
        "torchvision",
        "efficientnet",
        _has("features.0.0.weight", "features.1.0.block.1.fc1.weight", "features.8.0.weight"),
        mobile.convert_torchvision_efficientnet,
    ),
    Adapter(
        "timm",
        "mobilenet_v3",
        _has("conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pwl.weight", "conv_head.bias"),
        mobile.convert_timm_mobilenet_v3,
    ),
    Adapter(
        "timm",
        "efficientnet",
        _has("conv_stem.weight", "blocks.0.0.se.conv_reduce.weight", "blocks.1.0.conv_pwl.weight"),
        mobile.convert_timm_efficientnet,
    ),
    Adapter(
        "timm",
        "mobilenet_v2",
        _has("conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pwl.weight"),
        timm.convert_mobilenet_v2,
    ),
    Adapter(
        "torchvision",
        "vgg_bn",
        _has("features.0.weight", "features.1.running_mean", "classifier.0.weight", "classifier.6.weight"),
        torchvision.convert_vgg_bn,
    ),
    Adapter(
        "torchvision", "densenet", _has("features.conv0.weight", "features.norm5.weight"), torchvision.convert_densenet
    ),
    Adapter(
        "torchvision",
        "regnet_y",
        _has(
            "stem.0.weight", "trunk_output.block1.block1-0.f.se.fc1.weight", "trunk_output.block4.block4-0.f.c.0.weight"
        ),
        torchvision.convert_regnet_y,
    ),
    Adapter("timm", "repvgg", _is_repvgg, timm.convert_repvgg),
    Adapter(
        "sphereface", "sphereface", _has("conv1_1.weight", "relu1_1.weight", "fc5.weight"), plain.convert_sphereface
    ),
    Adapter(
        "lightcnn",
        "lightcnn9",
        _has("features.0.filter.weight", "features.7.conv.filter.weight", "fc1.filter.weight"),
        plain.convert_lightcnn9,
    ),
    Adapter(
        "lightcnn",
        "lightcnn29",
        _has("conv1.filter.weight", "group4.conv.filter.weight", "fc.filter.weight"),
        plain.convert_lightcnn29,
    ),
    Adapter(
        "lightcnn",
        "lightcnn29_v2",
        _has("conv1.filter.weight", "group4.conv.filter.weight", "fc.weight"),
        plain.convert_lightcnn29_v2,
    ),
    Adapter(
        "facenet_pytorch",
        "inception_resnet_v1",
        _has("conv2d_1a.conv.weight", "mixed_7a.branch0.0.conv.weight", "last_linear.weight"),
        plain.convert_facenet,
    ),
    Adapter("facezoo", "native", _is_native, native.convert_native),
)
SOURCES: tuple[str, ...] = ("auto", *dict.fromkeys(adapter.source for adapter in ADAPTERS))


def find_adapter(keys: Set[str], source: str = "auto") -> Adapter | None:
    """The adapter for a state dict with these ``keys``; None if no layout of ``source`` has such keys.

    Args:
        keys: keys of the state dict.
        source: a library of :data:`SOURCES`, or ``"auto"`` for any.

    Raises:
        ValueError: unknown source.
    """
    return next(_adapters(keys, source), None)


def readings(keys: Set[str], source: str = "auto") -> Iterator[tuple[Adapter, str]]:
    """All ways to read a state dict with these ``keys``, as pairs of adapter and prefix, in the order of :func:`nested_names`.

    There may be several: after the prefix ``model.``, timm's EdgeNeXt and an EdgeFace have the same names.

    Args:
        keys: keys of the state dict.
        source: a library of :data:`SOURCES`, or ``"auto"`` for any.

    Raises:
        ValueError: unknown source.
    """
    for prefix in nested_names(keys):
        for adapter in _adapters({key.removeprefix(prefix) for key in keys if key.startswith(prefix)}, source):
            yield adapter, prefix


def nested_names(keys: Set[str]) -> Iterator[str]:
    """The prefixes (chains of :data:`NESTS`) that occur in ``keys``: those of a moving average first, and short ones first."""
    found = level = [""]
    for _ in range(_DEEPEST):
        chains = (prefix + nest for prefix in level for nest in NESTS)
        level = [chain for chain in chains if any(key.startswith(chain) for key in keys)]
        found = found + level
    yield from sorted(found, key=lambda chain: not any(f"{name}." in AVERAGES for name in chain.split(".")))


def _adapters(keys: Set[str], source: str) -> Iterator[Adapter]:
    if source not in SOURCES:
        raise ValueError(unknown_name_message("source of checkpoints", source, SOURCES))
    for adapter in ADAPTERS:
        if source in ("auto", adapter.source) and adapter.recognize(keys):
            yield adapter
