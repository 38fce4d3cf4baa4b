"""Networks of sandglass blocks for faces."""

from __future__ import annotations

import facezoo_example.blocks  # noqa: F401  (the specs name its block)
from facezoo.models import HeadSpec, ModelSpec, StemSpec, register_model, stage

# width of the stem; widths and depths of the stages
SIZES = {"pico": (8, (16, 24), (1, 2)), "small": (32, (64, 96, 144, 256), (2, 3, 4, 3))}

for _size, (_stem, _widths, _depths) in SIZES.items():
    register_model(
        ModelSpec(
            name=f"sandglassnet_{_size}",
            family="sandglassnet",
            stems={"face": StemSpec("conv_stem", _stem, stride=1, stage_strides=(2,) * len(_widths))},
            stages=tuple(
                stage("sandglass", depth, width, {"attention": "se" if width == _widths[-1] else "none"})
                for width, depth in zip(_widths, _depths, strict=True)
            ),
            head=HeadSpec(global_pool="gdc"),
            init="mobilefacenet",
            paper="2007.02269",
            description=f"sandglass blocks with squeeze-and-excitation in the last stage, {_size}",
        )
    )
