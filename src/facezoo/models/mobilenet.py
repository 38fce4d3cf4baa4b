"""MobileNetV2, 1801.04381."""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec

# expansion, width, depth, stride: table 2 of the paper
TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STRIDES = tuple(stride for _, _, _, stride in TABLE)

register_model(
    ModelSpec(
        name="mobilenet_v2",
        family="mobilenet",
        stems={
            "face": StemSpec("conv_stem", width=32, stride=1, stage_strides=STRIDES, options={"act": "relu6"}),
            "imagenet": StemSpec("conv_stem", width=32, stride=2, stage_strides=STRIDES, options={"act": "relu6"}),
        },
        stages=tuple(
            StageSpec("inverted_residual", depth, width, {"expansion": expansion})
            for expansion, width, depth, _ in TABLE
        ),
        head=HeadSpec(conv_width=1280, conv_act="relu6", drop_rate=0.2),
        init="mobilenet",
        paper="1801.04381",
        description="MobileNetV2 of width 1.0",
    )
)
