"""SphereFace's networks of 20 and 64 layers, 1704.08063: convolutions with PReLU, no norm; a linear layer over the flattened map.

Published for images of 112×96 pixels: ``img_size=(112, 96)``.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

DEPTHS = {20: (1, 2, 4, 1), 64: (3, 8, 16, 3)}
STEM = StemSpec("conv_stem", width=64, stride=2, stage_strides=(1, 2, 2, 2), options={"act": "prelu", "norm": "none"})

for _layers, _depths in DEPTHS.items():
    register_model(
        ModelSpec(
            name=f"sphereface{_layers}",
            family="sphereface",
            stems={"face": STEM},
            stages=tuple(
                stage("sphere", depth, width) for depth, width in zip(_depths, (64, 128, 256, 512), strict=True)
            ),
            head=HeadSpec("linear", {"bias": True, "norm": "none"}, global_pool="flatten"),
            init="sphereface",
            paper="1704.08063",
            description=f"SphereFace of {_layers} layers",
        )
    )
