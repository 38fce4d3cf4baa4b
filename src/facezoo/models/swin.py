"""Swin Transformer, 2103.14030.

The face stem has patches of 2×2 pixels instead of 4×4: a 112×112 image ends in a 7×7 map, and 7×7 windows
divide all four maps. Other sizes work too: maps are padded to complete windows.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec

# depths, width of the first stage (it doubles from stage to stage; a head has 32 channels)
SIZES = {"tiny": ((2, 2, 6, 2), 96), "small": ((2, 2, 18, 2), 96), "base": ((2, 2, 18, 2), 128)}

for _size, (_depths, _width) in SIZES.items():
    register_model(
        ModelSpec(
            name=f"swin_{_size}",
            family="swin",
            stems={
                form: StemSpec("patch_stem", _width, stride, stage_strides=(1, 2, 2, 2), options={"norm_eps": 1e-5})
                for form, stride in (("face", 2), ("imagenet", 4))
            },
            stages=tuple(
                StageSpec(
                    _width * 2**index,
                    tuple(
                        BlockSpec("swin", 1, {"heads": _width * 2**index // 32, "shifted": block % 2 == 1})
                        for block in range(depth)
                    ),
                    transition=BlockSpec("swin_merge"),
                )
                for index, depth in enumerate(_depths)
            ),
            head=HeadSpec("norm", {"map_norm": "layer", "map_norm_eps": 1e-5}),
            init="transformer",
            paper="2103.14030",
            description=f"Swin-{_size[0].upper()}, windows of 7×7",
        )
    )
