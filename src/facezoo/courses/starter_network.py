"""The five-layer starter network of HW2P2 (CMU 11-785): convolutions with 64 to 1024 channels, mean pooling, linear layer.

The hand-out's first layer is 7×7 with stride 4 (``stem="imagenet"``). The face stem is 3×3 with stride 1, so that a 112×112 image
ends in a 7×7 map as in the other networks.
"""

from __future__ import annotations

from facezoo.models import HeadSpec, ModelSpec, StemSpec, register_model, stage

register_model(
    ModelSpec(
        name="hw2p2_cnn",
        family="hw2p2",
        stems={
            "face": StemSpec("conv_stem", width=64, stride=1, stage_strides=(2, 2, 2, 2)),
            "imagenet": StemSpec(
                "conv_stem", width=64, stride=4, stage_strides=(2, 2, 2, 2), options={"kernel_size": 7}
            ),
        },
        stages=tuple(stage("conv", 1, width) for width in (128, 256, 512, 1024)),
        head=HeadSpec(),
        init="mobilefacenet",
        paper="CMU 11-785, HW2P2",
        description="the course's starter network: five convolutions",
    )
)
