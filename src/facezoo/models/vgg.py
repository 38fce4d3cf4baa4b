"""VGG with batch norm, 1409.1556.

The published form has two hidden layers of 4096 units on a 7×7 grid of means. The face form omits the last max-pool, so that a
112×112 image ends in a 7×7 map, and computes the embedding from the mean of that map, without the hidden layers.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

WIDTHS = (64, 128, 256, 512, 512)
CONVS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
PUBLISHED_HEAD = HeadSpec("mlp", {"hidden_width": 4096, "hidden_depth": 2}, global_pool="avg7x7", drop_rate=0.5)
FIRST_CONV = {"bias": True}

for _layers, _convs in CONVS.items():
    register_model(
        ModelSpec(
            name=f"vgg{_layers}_bn",
            family="vgg",
            stems={
                "face": StemSpec("conv_stem", width=64, stride=1, stage_strides=(2, 2, 2, 2, 1), options=FIRST_CONV),
                "imagenet": StemSpec(
                    "conv_stem",
                    width=64,
                    stride=1,
                    stage_strides=(2, 2, 2, 2, 2),
                    options=FIRST_CONV,
                    head=PUBLISHED_HEAD,
                ),
            },
            stages=tuple(  # the first convolution is the stem
                stage("conv_pool", 1, width, {"convs": convs - (index == 0)})
                for index, (convs, width) in enumerate(zip(_convs, WIDTHS, strict=True))
            ),
            head=HeadSpec(),
            init="mobilenet",
            paper="1409.1556",
            description=f"VGG of {_layers} layers with batch norm",
        )
    )
