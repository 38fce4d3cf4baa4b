"""MobileNetV2, 1801.04381, at several widths."""

from __future__ import annotations

from facezoo.layers import round_channels
from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

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
WIDTHS = {"_035": 0.35, "_050": 0.5, "_075": 0.75, "": 1.0, "_140": 1.4}  # as timm names them

for _suffix, _factor in WIDTHS.items():
    _stem_width = round_channels(32 * _factor)
    register_model(
        ModelSpec(
            name=f"mobilenet_v2{_suffix}",
            family="mobilenet",
            stems={
                "face": StemSpec("conv_stem", _stem_width, stride=1, stage_strides=STRIDES, options={"act": "relu6"}),
                "imagenet": StemSpec(
                    "conv_stem", _stem_width, stride=2, stage_strides=STRIDES, options={"act": "relu6"}
                ),
            },
            stages=tuple(
                stage("inverted_residual", depth, round_channels(width * _factor), {"expansion": expansion})
                for expansion, width, depth, _ in TABLE
            ),
            # the last convolution grows with the width but does not shrink: section 4.1 of the paper
            head=HeadSpec("conv", {"width": max(1280, round_channels(1280 * _factor)), "act": "relu6"}, drop_rate=0.2),
            init="mobilenet",
            paper="1801.04381",
            description=f"MobileNetV2 of width {_factor}",
        )
    )
