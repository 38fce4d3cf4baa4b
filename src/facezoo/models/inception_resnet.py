"""Inception-ResNet-v1 (1602.07261) in the form of FaceNet, as facenet-pytorch has it.

``stem="imagenet"`` is the published form, in which most convolutions are not padded, for images of 160×160 pixels. The face form
pads all convolutions and has one stride less, with the same weights: a 112×112 image ends in a 7×7 map.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec, stage

LAST_BRANCHES = (((192, 1),), ((192, 1), (192, (1, 3)), (192, (3, 1))))

register_model(
    ModelSpec(
        name="inception_resnet_v1",
        family="inception_resnet",
        stems={
            "face": StemSpec("inception_stem", width=256, stride=4, stage_strides=(1, 2, 2)),
            "imagenet": StemSpec(
                "inception_stem",
                width=256,
                stride=8,
                stage_strides=(1, 2, 2),
                options={"padded": False},
                transition_options={"padded": False},
            ),
        },
        stages=(
            stage(
                "inception_residual",
                5,
                256,
                {"branches": (((32, 1),), ((32, 1), (32, 3)), ((32, 1), (32, 3), (32, 3))), "scale": 0.17},
            ),
            stage(
                "inception_residual",
                10,
                896,
                {"branches": (((128, 1),), ((128, 1), (128, (1, 7)), (128, (7, 1)))), "scale": 0.1},
                transition=BlockSpec(
                    "inception_reduction", options={"branches": (((384, 3),), ((192, 1), (192, 3), (256, 3)))}
                ),
            ),
            StageSpec(
                1792,
                (
                    BlockSpec("inception_residual", 5, {"branches": LAST_BRANCHES, "scale": 0.2}),
                    BlockSpec("inception_residual", 1, {"branches": LAST_BRANCHES, "scale": 1.0, "act": "none"}),
                ),
                transition=BlockSpec(
                    "inception_reduction",
                    options={"branches": (((256, 1), (384, 3)), ((256, 1), (256, 3)), ((256, 1), (256, 3), (256, 3)))},
                ),
            ),
        ),
        head=HeadSpec("linear", {"norm_eps": 1e-3}, drop_rate=0.6),
        init="mobilefacenet",
        paper="1503.03832",
        description="Inception-ResNet-v1 of FaceNet (facenet-pytorch)",
    )
)
