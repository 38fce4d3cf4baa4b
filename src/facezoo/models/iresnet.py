"""IResNet: the improved residual networks of ArcFace (1801.07698), in the layout of insightface's arcface_torch.

Made for 112×112 faces only: the embedding is a linear layer over the flattened 7×7 map.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
STEM = StemSpec("conv_stem", width=64, stride=1, stage_strides=(2, 2, 2, 2), options={"act": "prelu"})
HEAD = HeadSpec(map_norm="batch", global_pool="flatten", embedding_bias=True, embedding_norm="batch_frozen_scale")

for _layers, _depths in DEPTHS.items():
    register_model(
        ModelSpec(
            name=f"iresnet{_layers}",
            family="iresnet",
            stems={"face": STEM},
            stages=tuple(
                StageSpec("ir", depth, width) for depth, width in zip(_depths, (64, 128, 256, 512), strict=True)
            ),
            head=HEAD,
            init="iresnet",
            paper="1801.07698",
            description=f"improved ResNet of {_layers} layers for 112×112 faces (insightface)",
        )
    )
