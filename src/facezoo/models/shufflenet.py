"""ShuffleNet V2, 1807.11164, and ShuffleFaceNet (10.1109/ICCVW.2019.00333).

The face stem leaves the max-pool out: a 112×112 image ends in a 7×7 map. ShuffleFaceNet has PReLU for ReLU, a global depthwise
convolution for the mean and 1024 channels in front of it in all sizes; its authors embed in 128 dimensions (``embedding_dim=128``).
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec, stage

DEPTHS = (4, 8, 4)
STRIDES = (2, 2, 2)
# widths of the stages and of the last convolution: table 5 of the paper
WIDTHS = {
    "x0_5": (48, 96, 192, 1024),
    "x1_0": (116, 232, 464, 1024),
    "x1_5": (176, 352, 704, 1024),
    "x2_0": (244, 488, 976, 2048),
}


def _stages(widths: tuple[int, ...], act: str) -> tuple[StageSpec, ...]:
    return tuple(stage("shuffle", depth, width, {"act": act}) for depth, width in zip(DEPTHS, widths, strict=True))


for _size, (*_widths, _last) in WIDTHS.items():
    _factor = _size[1:].replace("_", ".")
    register_model(
        ModelSpec(
            name=f"shufflenet_v2_{_size}",
            family="shufflenet",
            stems={
                "face": StemSpec("conv_stem", 24, stride=2, stage_strides=STRIDES),
                "imagenet": StemSpec("conv_stem", 24, stride=4, stage_strides=STRIDES, options={"max_pool": True}),
            },
            stages=_stages(tuple(_widths), "relu"),
            head=HeadSpec("conv", {"width": _last}),
            init="mobilenet",
            paper="1807.11164",
            description=f"ShuffleNet V2 of width {_factor}",
        )
    )
    register_model(
        ModelSpec(
            name=f"shufflefacenet_{_size}",
            family="shufflenet",
            stems={"face": StemSpec("conv_stem", 24, stride=2, stage_strides=STRIDES, options={"act": "prelu"})},
            stages=_stages(tuple(_widths), "prelu"),
            head=HeadSpec("conv", {"width": 1024, "act": "prelu"}, global_pool="gdc"),
            init="mobilefacenet",
            paper="10.1109/ICCVW.2019.00333",
            description=f"ShuffleFaceNet of width {_factor}",
        )
    )
