"""ConvNeXt. A ConvNet for the 2020s, 2201.03545.

The face stem has patches of 2×2 pixels instead of 4×4: a 112×112 image ends in a 7×7 map.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec

SIZES = {
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "large": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}

for _size, (_depths, _widths) in SIZES.items():
    register_model(
        ModelSpec(
            name=f"convnext_{_size}",
            family="convnext",
            stems={
                "face": StemSpec("patch_stem", width=_widths[0], stride=2, stage_strides=(1, 2, 2, 2)),
                "imagenet": StemSpec("patch_stem", width=_widths[0], stride=4, stage_strides=(1, 2, 2, 2)),
            },
            stages=tuple(
                StageSpec("convnext", depth, width, transition="patch_merge")
                for depth, width in zip(_depths, _widths, strict=True)
            ),
            head=HeadSpec(pool_norm="layer"),
            init="convnext",
            paper="2201.03545",
            description=f"ConvNeXt-{_size.capitalize()}",
        )
    )
