"""ResNet, ResNet-D, and ResNet with attention.

Deep Residual Learning, 1512.03385; ResNet-D (three 3×3 convolutions as stem, pooled shortcuts), 1812.01187; squeeze-and-excitation,
1709.01507; CBAM, 1807.06521; ECA, 1910.03151.

The stride of a bottleneck is in its 3×3 convolution, as in current implementations (ResNet-B of 1812.01187). The ``*_v1``
networks have it in the first 1×1, as in the paper. The ``*c`` networks (``resnet50c``) have only ResNet-D's stem.
The squeeze has C/16 channels rounded to a multiple of 8, as in timm; the paper's C // 16 differs in the 18- and 34-layer nets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

STEMS = {
    "face": StemSpec("conv_stem", width=64, stride=1, stage_strides=(2, 2, 2, 2)),
    "imagenet": StemSpec(
        "conv_stem", width=64, stride=4, stage_strides=(1, 2, 2, 2), options={"kernel_size": 7, "max_pool": True}
    ),
}
DEEP_STEMS = {
    "face": StemSpec("deep_stem", width=64, stride=1, stage_strides=(2, 2, 2, 2)),
    "imagenet": StemSpec("deep_stem", width=64, stride=4, stage_strides=(1, 2, 2, 2), options={"max_pool": True}),
}
DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}
WIDTHS = {"basic": (64, 128, 256, 512), "bottleneck": (256, 512, 1024, 2048)}
ATTENTIONS: dict[str, tuple[Mapping[str, Any], str, str]] = {
    "se": ({"attention": "se"}, "1709.01507", "squeeze-and-excitation"),
    "eca": ({"attention": "eca"}, "1910.03151", "efficient channel attention"),
    "cbam": ({"attention": "cbam", "se_divisor": 1}, "1807.06521", "convolutional block attention"),
}


def _resnet(
    name: str, layers: int, options: Mapping[str, Any], paper: str, description: str, *, deep: bool = False
) -> ModelSpec:
    block, depths = DEPTHS[layers]
    options = {"shortcut": "pooled", **options} if deep else options
    return ModelSpec(
        name=name,
        family="resnet",
        stems=DEEP_STEMS if deep else STEMS,
        stages=tuple(stage(block, depth, width, options) for depth, width in zip(depths, WIDTHS[block], strict=True)),
        head=HeadSpec(),
        init="resnet",
        paper=paper,
        description=description,
    )


def _narrow(name: str, depth: int, widths: tuple[int, ...], description: str) -> ModelSpec:
    """``depth`` basic blocks in each stage; the first width is the stem's, too."""
    return replace(
        _resnet(name, 18, {}, "1512.03385", description),
        stems={kind: replace(stem, width=widths[0]) for kind, stem in STEMS.items()},
        stages=tuple(stage("basic", depth, width) for width in widths),
    )


for _layers in DEPTHS:
    register_model(_resnet(f"resnet{_layers}", _layers, {}, "1512.03385", f"ResNet of {_layers} layers"))
    register_model(_resnet(f"resnet{_layers}d", _layers, {}, "1812.01187", f"ResNet-D of {_layers} layers", deep=True))
    for _attention, (_options, _paper, _title) in ATTENTIONS.items():
        if _layers < 200:
            _text = f"ResNet of {_layers} layers with {_title}"
            register_model(_resnet(f"{_attention}_resnet{_layers}", _layers, _options, _paper, _text))

# Not in a paper: for small images and few identities on a CPU, and for the weights that the package brings along.
register_model(_narrow("resnet18_x0_5", 2, (32, 64, 128, 256), "ResNet of 18 layers with half the channels"))
register_model(_narrow("resnet10_tiny", 1, (16, 24, 48, 64), "ResNet of 10 layers with 16 to 64 channels"))

for _layers in (50, 101, 152):
    _text = f"ResNet of {_layers} layers with the stride in the first 1×1, as in the paper"
    register_model(_resnet(f"resnet{_layers}_v1", _layers, {"stride_first": True}, "1512.03385", _text))
    _text = f"ResNet-C of {_layers} layers: three 3×3 convolutions as the stem"
    register_model(_resnet(f"resnet{_layers}c", _layers, {"shortcut": "projection"}, "1812.01187", _text, deep=True))

for _layers in (50, 101, 200):
    _options, _paper, _title = ATTENTIONS["eca"]
    _text = f"ResNet-D of {_layers} layers with {_title}"
    register_model(_resnet(f"eca_resnet{_layers}d", _layers, _options, _paper, _text, deep=True))
