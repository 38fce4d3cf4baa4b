"""EfficientNet-B0 to B3, 1905.11946.

The face stem has stride 1 instead of 2: a 112×112 image ends in a 7×7 map. Squeezes have a quarter of the block's *input* width.
Paddings are symmetric, as in timm and torchvision; the paper's TensorFlow code pads strided convolutions at the lower right only.
"""

from __future__ import annotations

import math

from facezoo.layers import round_channels
from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec

# expansion, kernel, stride, width, depth: table 1 of the paper
TABLE = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
STRIDES = tuple(row[2] for row in TABLE)
# factor of the width, factor of the depth, dropout
SCALES = {"b0": (1.0, 1.0, 0.2), "b1": (1.0, 1.1, 0.2), "b2": (1.1, 1.2, 0.3), "b3": (1.2, 1.4, 0.3)}


def _efficientnet(name: str, width_factor: float, depth_factor: float, drop_rate: float) -> ModelSpec:
    stem_width = in_chans = round_channels(32 * width_factor)
    stages = []
    for expansion, kernel, _, base_width, base_depth in TABLE:
        width, depth = round_channels(base_width * width_factor), math.ceil(base_depth * depth_factor)
        options = {"expansion": expansion, "kernel_size": kernel, "squeeze_act": "silu", "act": "silu"}
        sources = (in_chans, *(width,) * (depth - 1))
        blocks = (BlockSpec("inverted_residual", 1, {**options, "squeeze_chans": source // 4}) for source in sources)
        stages.append(StageSpec(width, tuple(blocks)))
        in_chans = width
    return ModelSpec(
        name=f"efficientnet_{name}",
        family="efficientnet",
        stems={
            "face": StemSpec("conv_stem", stem_width, stride=1, stage_strides=STRIDES, options={"act": "silu"}),
            "imagenet": StemSpec("conv_stem", stem_width, stride=2, stage_strides=STRIDES, options={"act": "silu"}),
        },
        stages=tuple(stages),
        head=HeadSpec("conv", {"width": round_channels(1280 * width_factor), "act": "silu"}, drop_rate=drop_rate),
        init="mobilenet",
        paper="1905.11946",
        description=f"EfficientNet-{name.upper()}",
    )


for _name, _scales in SCALES.items():
    register_model(_efficientnet(_name, *_scales))
