"""ConvNeXt, 2201.03545, and ConvNeXt V2, 2301.00808; the sizes below tiny are V2's (and timm's for V1).

The face stem has patches of 2×2 pixels instead of 4×4: a 112×112 image ends in a 7×7 map.

Three sizes are facezoo's own, for a budget of 30 M parameters including a 512-d embedding and a classifier of 8631 identities
(4.4 M); ConvNeXt-T exceeds it by 2.6 M. *tinier* is ConvNeXt-T with the widest stages, in multiples of 8, that fit.
*tinier_deep* has less width and the depth of ConvNeXt-S. *tiniest* has two thirds of ConvNeXt-T's width, which leaves room for
a larger embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StemSpec, stage

# depths, width of the first stage; it doubles from stage to stage
SIZES = {
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
}
COURSE_SIZES = {
    "tiniest": ((3, 3, 9, 3), 64),
    "tinier": ((3, 3, 9, 3), 88),
    "tinier_deep": ((3, 3, 27, 3), 64),
}
V2_OPTIONS: Mapping[str, Any] = {"layer_scale": None, "response_norm": True}


def _convnext(
    name: str, depths: tuple[int, ...], width: int, options: Mapping[str, Any], paper: str, description: str
) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="convnext",
        stems={
            "face": StemSpec("patch_stem", width=width, stride=2, stage_strides=(1, 2, 2, 2)),
            "imagenet": StemSpec("patch_stem", width=width, stride=4, stage_strides=(1, 2, 2, 2)),
        },
        stages=tuple(
            stage("convnext", depth, width * 2**index, options, transition=BlockSpec("patch_merge"))
            for index, depth in enumerate(depths)
        ),
        head=HeadSpec("pool_norm"),
        init="convnext",
        paper=paper,
        description=description,
    )


for _size, (_depths, _width) in SIZES.items():
    _title = _size.capitalize()
    register_model(_convnext(f"convnext_{_size}", _depths, _width, {}, "2201.03545", f"ConvNeXt-{_title}"))
    if _size != "small":  # V2 has no small
        register_model(
            _convnext(f"convnextv2_{_size}", _depths, _width, V2_OPTIONS, "2301.00808", f"ConvNeXt V2-{_title}")
        )
for _size, (_depths, _width) in COURSE_SIZES.items():
    register_model(
        _convnext(
            f"convnext_{_size}",
            _depths,
            _width,
            {},
            "2201.03545",
            f"ConvNeXt of depths {_depths} and width {_width}: under 30 M parameters with 8631 classes",
        )
    )
