"""MobileFaceNet, 1804.07573: the paper's form, those of insightface's arcface_torch, and with attention.

insightface's ``mbf`` (here ``mobilefacenet``) has twice the paper's widths and 64 groups on 128 channels in its second convolution
(depthwise in the paper); ``mbf_large`` has four times the widths, two bottlenecks in place of that convolution, and twice the
depth. Inner widths are the paper's in all of them. The map ends in a global depthwise convolution, one weight per position.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec, stage


def _stage(depth: int, width: int, first_inner: int, inner: int, options: Mapping[str, Any]) -> StageSpec:
    """A strided block without shortcut, with inner width ``first_inner``, then ``depth`` residual blocks with inner width
    ``inner``."""
    common = {"act": "prelu", **options}
    first = BlockSpec("inverted_residual", 1, {"inner_chans": first_inner, "residual": False, **common})
    return StageSpec(width, (first, BlockSpec("inverted_residual", depth, {"inner_chans": inner, **common})))


def _register(
    name: str, blocks: tuple[int, int, int, int], scale: int, description: str, options: Mapping[str, Any] | None = None
) -> None:
    narrow, wide = 64 * scale, 128 * scale
    options = options or {}
    register_model(
        ModelSpec(
            name=name,
            family="mobilefacenet",
            stems={
                "face": StemSpec(
                    "conv_stem", width=narrow, stride=2, stage_strides=(1, 2, 2, 2), options={"act": "prelu"}
                )
            },
            stages=(
                stage("conv", 1, narrow, {"groups": 64, "act": "prelu"})
                if blocks[0] == 1
                else stage("inverted_residual", blocks[0], narrow, {"inner_chans": 128, "act": "prelu", **options}),
                _stage(blocks[1], narrow, 128, 128, options),
                _stage(blocks[2], wide, 256, 256, options),
                _stage(blocks[3], wide, 512, 256, options),
            ),
            head=HeadSpec("conv", {"width": 512, "act": "prelu"}, global_pool="gdc"),
            init="mobilefacenet",
            paper="1804.07573",
            description=description,
        )
    )


BLOCKS = (1, 4, 6, 2)

_register("mobilefacenet_paper", BLOCKS, 1, "MobileFaceNet as in the paper")
_register("mobilefacenet", BLOCKS, 2, "MobileFaceNet, twice the paper's width (insightface mbf)")
_register(
    "mobilefacenet_large", (2, 8, 12, 4), 4, "MobileFaceNet, four times the paper's width (insightface mbf_large)"
)
_register(
    "se_mobilefacenet",
    BLOCKS,
    2,
    "MobileFaceNet, twice the paper's width, with squeeze-and-excitation",
    {"attention": "se"},
)
_register(
    "eca_mobilefacenet",
    BLOCKS,
    2,
    "MobileFaceNet, twice the paper's width, with efficient channel attention",
    {"attention": "eca"},
)
_register(
    "cbam_mobilefacenet",
    BLOCKS,
    2,
    "MobileFaceNet, twice the paper's width, with convolutional block attention",
    {"attention": "cbam", "se_divisor": 1},
)
