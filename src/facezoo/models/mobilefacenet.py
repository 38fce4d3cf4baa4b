"""MobileFaceNet, 1804.07573, in the form of insightface's arcface_torch (``mbf``: twice the paper's widths).

Its second convolution has 64 groups on 128 channels (depthwise in the paper); the map ends in a global depthwise convolution.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec


def _stage(depth: int, width: int, inner: int, first_inner: int) -> StageSpec:
    """A strided block without shortcut of inner width ``first_inner``, then ``depth`` residual ones of inner width ``inner``."""
    return StageSpec(
        "inverted_residual",
        depth + 1,
        width,
        options={"inner_chans": inner, "act": "prelu"},
        first_options={"inner_chans": first_inner, "residual": False},
    )


register_model(
    ModelSpec(
        name="mobilefacenet",
        family="mobilefacenet",
        stems={
            "face": StemSpec("conv_stem", width=128, stride=2, stage_strides=(1, 2, 2, 2), options={"act": "prelu"})
        },
        stages=(
            StageSpec("conv", 1, 128, {"groups": 64, "act": "prelu"}),
            _stage(4, 128, inner=128, first_inner=128),
            _stage(6, 256, inner=256, first_inner=256),
            _stage(2, 256, inner=256, first_inner=512),
        ),
        head=HeadSpec(conv_width=512, conv_act="prelu", global_pool="gdc"),
        init="mobilefacenet",
        paper="1804.07573",
        description="MobileFaceNet, twice the paper's width (insightface mbf)",
    )
)
