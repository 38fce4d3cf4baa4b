"""RegNet-Y, 2003.13678: widths and depths that follow a quantized line, in torchvision's sizes."""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

STEMS = {
    form: StemSpec("conv_stem", width=32, stride=stride, stage_strides=(2, 2, 2, 2))
    for form, stride in (("face", 1), ("imagenet", 2))
}
# width of a group, depths, widths
SIZES = {
    "400mf": (8, (1, 3, 6, 6), (48, 104, 208, 440)),
    "800mf": (16, (1, 3, 8, 2), (64, 144, 320, 784)),
    "1_6gf": (24, (2, 6, 17, 2), (48, 120, 336, 888)),
    "3_2gf": (24, (2, 5, 13, 1), (72, 216, 576, 1512)),
    "8gf": (56, (2, 4, 10, 1), (224, 448, 896, 2016)),
}

for _size, (_group_width, _depths, _widths) in SIZES.items():
    register_model(
        ModelSpec(
            name=f"regnet_y_{_size}",
            family="regnet",
            stems=STEMS,
            stages=tuple(
                stage("regnet_y", depth, width, {"group_width": _group_width})
                for depth, width in zip(_depths, _widths, strict=True)
            ),
            head=HeadSpec(),
            init="mobilenet",
            paper="2003.13678",
            description=f"RegNet-Y of {_size.replace('_', '.').replace('mf', ' MFLOP').replace('gf', ' GFLOP')}",
        )
    )
