"""EdgeNeXt, 2206.10589, and EdgeFace, 2307.01838.

EdgeNeXt's face stem has patches of 2×2 pixels instead of 4×4: a 112×112 image ends in a 7×7 map. EdgeFace has EdgeNeXt's original
patches of 4×4 (its only stem here, so that published weights match): a 112×112 image ends in a 3×3 map. Its linear layers,
including the embedding's, have a reduced rank, the γ of the paper.
"""

from __future__ import annotations

from typing import Any

from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec

# depths, widths, heads: table 1 of EdgeNeXt's paper
SIZES = {
    "xx_small": ((2, 2, 6, 2), (24, 48, 88, 168), 4),
    "x_small": ((3, 3, 9, 3), (32, 64, 100, 192), 4),
    "small": ((3, 3, 9, 3), (48, 96, 160, 304), 8),
    "base": ((3, 3, 9, 3), (80, 160, 288, 584), 8),
}
KERNELS = (3, 5, 7, 9)
SCALES = (None, 2, 3, 4)  # groups of channels in the attention block that ends a stage; the first stage has none
EDGEFACE = {"xxs": ("xx_small", None), "xs": ("x_small", 0.6), "s": ("small", 0.5), "base": ("base", None)}


def _stages(size: str, rank_ratio: float | None) -> tuple[StageSpec, ...]:
    depths, widths, heads = SIZES[size]
    rank: dict[str, Any] = {} if rank_ratio is None else {"rank_ratio": rank_ratio}
    stages = []
    for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        options = {"kernel_size": KERNELS[index], **rank}
        blocks: tuple[BlockSpec, ...] = (BlockSpec("convnext", depth, options),)
        if SCALES[index] is not None:
            last = {"scales": SCALES[index], "heads": heads, "positions": index == 1, **rank}
            blocks = (
                BlockSpec("convnext", depth - 1, options),
                BlockSpec("split_transpose_attention", 1, last),
            )
        stages.append(StageSpec(width, blocks, transition=BlockSpec("patch_merge")))
    return tuple(stages)


def _stem(size: str, stride: int) -> StemSpec:
    return StemSpec("patch_stem", width=SIZES[size][1][0], stride=stride, stage_strides=(1, 2, 2, 2))


for _size in SIZES:
    register_model(
        ModelSpec(
            name=f"edgenext_{_size}",
            family="edgenext",
            stems={"face": _stem(_size, 2), "imagenet": _stem(_size, 4)},
            stages=_stages(_size, None),
            head=HeadSpec("pool_norm"),
            init="convnext",
            paper="2206.10589",
            description=f"EdgeNeXt, {_size.replace('_', '-')}",
        )
    )
for _name, (_size, _rank_ratio) in EDGEFACE.items():
    register_model(
        ModelSpec(
            name=f"edgeface_{_name}",
            family="edgenext",
            stems={"face": _stem(_size, 4)},
            stages=_stages(_size, _rank_ratio),
            head=HeadSpec("pool_norm", {"bias": True, "norm": "none", "rank_ratio": _rank_ratio}),
            init="convnext",
            paper="2307.01838",
            description=f"EdgeFace-{_name.upper()}" + (f", γ = {_rank_ratio}" if _rank_ratio else ""),
        )
    )
