"""Networks with the first blocks of each stage only."""

from __future__ import annotations

import dataclasses

from facezoo.models import ModelSpec, StageSpec


def first_blocks(spec: ModelSpec, count: int) -> ModelSpec:
    """``spec`` with at most ``count`` blocks per stage."""
    return dataclasses.replace(spec, stages=tuple(_cut(stage, count) for stage in spec.stages))


def _cut(stage: StageSpec, count: int) -> StageSpec:
    blocks = []
    for block in stage.blocks:
        depth = min(block.depth, count - sum(kept.depth for kept in blocks))
        if depth > 0:
            blocks.append(dataclasses.replace(block, depth=depth))
    return dataclasses.replace(stage, blocks=tuple(blocks))
