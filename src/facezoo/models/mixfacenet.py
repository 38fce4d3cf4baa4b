"""MixFaceNets, 2107.13046, and their shuffled form, in the layout of the authors' code.

MixFaceNet-XS is S at half the width. The first block of 3×3 depthwise and 1×1 convolutions, part of the stem in the authors'
code, is a separate stage here.
"""

from __future__ import annotations

from facezoo.layers import round_channels
from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec, stage

# per stage: width, stride, then of every block: expansion, groups of the expansion, depthwise kernels, groups of the projection,
# ratio of the squeeze
Blocks = tuple[tuple[int, int, int, int, int], ...]
SMALL: tuple[tuple[int, int, Blocks], ...] = (
    (24, 1, ((6, 2, 1, 2, 0), (3, 2, 1, 2, 0))),
    (40, 2, ((6, 1, 3, 1, 2), (6, 2, 2, 2, 2), (6, 2, 2, 2, 2), (6, 2, 2, 2, 2))),
    (80, 2, ((6, 1, 3, 2, 4), (6, 1, 2, 2, 4), (6, 1, 2, 2, 4))),
    (120, 1, ((6, 2, 3, 2, 2), (3, 2, 4, 2, 2), (3, 2, 4, 2, 2))),
    (200, 2, ((6, 1, 5, 1, 2), (6, 1, 4, 2, 2), (6, 1, 4, 2, 2))),
)
MEDIUM: tuple[tuple[int, int, Blocks], ...] = (
    (32, 1, ((6, 2, 3, 2, 0), (3, 2, 1, 2, 0))),
    (40, 2, ((6, 1, 4, 1, 2), (6, 2, 2, 2, 2), (6, 2, 2, 2, 2), (6, 2, 2, 2, 2))),
    (80, 2, ((6, 1, 3, 1, 4), (6, 2, 4, 2, 4), (6, 2, 4, 2, 4), (6, 2, 4, 2, 4))),
    (120, 1, ((6, 1, 1, 1, 2), (3, 2, 4, 2, 2), (3, 2, 4, 2, 2), (3, 2, 4, 2, 2))),
    (200, 2, ((6, 1, 4, 1, 2), (6, 1, 4, 2, 2), (6, 1, 4, 2, 2), (6, 1, 4, 2, 2))),
)
# table, width of the stem, factor of all widths, channels of the global depthwise convolution
SIZES = {"xs": (SMALL, 16, 0.5, 512), "s": (SMALL, 16, 1.0, 1024), "m": (MEDIUM, 24, 1.0, 1024)}


def _block(row: tuple[int, int, int, int, int], shuffle: bool, act: str) -> BlockSpec:
    names = ("expansion", "expand_groups", "kernels", "project_groups", "squeeze_ratio")
    return BlockSpec("mix", 1, {"shuffle": shuffle, "act": act, **dict(zip(names, row, strict=True))})


def _mixfacenet(size: str, *, shuffle: bool) -> ModelSpec:
    table, stem_base, factor, last = SIZES[size]
    stem_width = round_channels(stem_base * factor)
    first = stage("mix", 1, stem_width, {"expansion": 1, "shuffle": shuffle, "act": "prelu"})
    stages = tuple(
        StageSpec(
            round_channels(width * factor),
            tuple(_block(row, shuffle, "prelu" if index == 0 else "silu") for row in blocks),
        )
        for index, (width, _, blocks) in enumerate(table)
    )
    strides = (1, *(stride for _, stride, _ in table))
    return ModelSpec(
        name=f"{'shuffle_' if shuffle else ''}mixfacenet_{size}",
        family="mixfacenet",
        stems={"face": StemSpec("conv_stem", stem_width, stride=2, stage_strides=strides, options={"act": "prelu"})},
        stages=(first, *stages),
        head=HeadSpec("conv", {"width": last, "act": "prelu", "norm": "batch_frozen_scale"}, global_pool="gdc"),
        init="mobilefacenet",
        paper="2107.13046",
        description=f"{'Shuffle' if shuffle else ''}MixFaceNet-{size.upper()}",
    )


for _size in SIZES:
    register_model(_mixfacenet(_size, shuffle=False))
    register_model(_mixfacenet(_size, shuffle=True))
