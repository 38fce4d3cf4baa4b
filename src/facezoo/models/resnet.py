"""ResNet and SE-ResNet. Deep Residual Learning, 1512.03385; Squeeze-and-Excitation Networks, 1709.01507.

The stride of a bottleneck is in its 3×3 convolution, as in today's implementations (the first ones had it in the first 1×1).
The squeeze has C/16 channels rounded to a multiple of 8, as in timm; the paper's C // 16 differs in the 18- and 34-layer nets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec

STEMS = {
    "face": StemSpec("conv_stem", width=64, stride=1, stage_strides=(2, 2, 2, 2)),
    "imagenet": StemSpec(
        "conv_stem", width=64, stride=4, stage_strides=(1, 2, 2, 2), options={"kernel_size": 7, "max_pool": True}
    ),
}
DEPTHS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
WIDTHS = {"basic": (64, 128, 256, 512), "bottleneck": (256, 512, 1024, 2048)}


def _resnet(name: str, layers: int, options: Mapping[str, Any], paper: str, description: str) -> ModelSpec:
    block, depths = DEPTHS[layers]
    return ModelSpec(
        name=name,
        family="resnet",
        stems=STEMS,
        stages=tuple(
            StageSpec(block, depth, width, options) for depth, width in zip(depths, WIDTHS[block], strict=True)
        ),
        head=HeadSpec(),
        init="resnet",
        paper=paper,
        description=description,
    )


for _layers in DEPTHS:
    register_model(_resnet(f"resnet{_layers}", _layers, {}, "1512.03385", f"ResNet of {_layers} layers"))
    register_model(
        _resnet(
            f"se_resnet{_layers}",
            _layers,
            {"attention": "se"},
            "1709.01507",
            f"ResNet of {_layers} layers with squeeze-and-excitation",
        )
    )
