"""MobileNetV3, 1905.02244: tables 1 and 2.

Squeezes have a quarter of the inner width, rounded to a multiple of 8, and a hard sigmoid as gate. The face stem has stride 1
instead of 2: a 112×112 image ends in a 7×7 map. The linear layer with 1280 (1024) units after the pooling is part of the network,
also with an embedding.
"""

from __future__ import annotations

from typing import Any

from facezoo.layers import round_channels
from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec

# per stage: width, stride, kernel, squeeze-and-excitation, activation, inner width of every block
LARGE = (
    (16, 1, 3, False, "relu", (16,)),
    (24, 2, 3, False, "relu", (64, 72)),
    (40, 2, 5, True, "relu", (72, 120, 120)),
    (80, 2, 3, False, "hardswish", (240, 200, 184, 184)),
    (112, 1, 3, True, "hardswish", (480, 672)),
    (160, 2, 5, True, "hardswish", (672, 960, 960)),
)
SMALL = (
    (16, 2, 3, True, "relu", (16,)),
    (24, 2, 3, False, "relu", (72, 88)),
    (40, 2, 5, True, "hardswish", (96, 240, 240)),
    (48, 1, 5, True, "hardswish", (120, 144)),
    (96, 2, 5, True, "hardswish", (288, 576, 576)),
)


def _block(in_chans: int, inner: int, kernel: int, squeeze: bool, act: str) -> dict[str, Any]:
    width: dict[str, Any] = {"expansion": 1} if inner == in_chans else {"inner_chans": inner}
    squeeze_chans = round_channels(inner / 4) if squeeze else 0
    return {**width, "kernel_size": kernel, "squeeze_chans": squeeze_chans, "squeeze_gate": "hardsigmoid", "act": act}


def _mobilenet_v3(size: str, table: tuple[Any, ...], conv_width: int, hidden_width: int) -> ModelSpec:
    stages, in_chans = [], 16
    for width, _, kernel, squeeze, act, inners in table:
        sources = (in_chans, *(width,) * (len(inners) - 1))
        blocks = tuple(
            BlockSpec("inverted_residual", 1, _block(source, inner, kernel, squeeze, act))
            for source, inner in zip(sources, inners, strict=True)
        )
        stages.append(StageSpec(width, blocks))
        in_chans = width
    strides = tuple(row[1] for row in table)
    return ModelSpec(
        name=f"mobilenet_v3_{size}",
        family="mobilenet_v3",
        stems={
            "face": StemSpec("conv_stem", 16, stride=1, stage_strides=strides, options={"act": "hardswish"}),
            "imagenet": StemSpec("conv_stem", 16, stride=2, stage_strides=strides, options={"act": "hardswish"}),
        },
        stages=tuple(stages),
        head=HeadSpec(
            "conv",
            {"width": conv_width, "act": "hardswish", "hidden_width": hidden_width, "hidden_act": "hardswish"},
            drop_rate=0.2,
        ),
        init="mobilenet",
        paper="1905.02244",
        description=f"MobileNetV3-{size.capitalize()}",
    )


register_model(_mobilenet_v3("large", LARGE, 960, 1280))
register_model(_mobilenet_v3("small", SMALL, 576, 1024))
