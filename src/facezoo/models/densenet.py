"""DenseNet, 1608.06993: every layer gets the outputs of all earlier layers of its stage.

A stage is one block, preceded by its transition. The face stem is 3×3 with stride 1, then the max-pool as published.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec, stage

GROWTH = 32
LAYERS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


def _stages(layers: tuple[int, ...]) -> tuple[StageSpec, ...]:
    stages, width = [], 64
    for index, count in enumerate(layers):
        width = (width if index == 0 else width // 2) + count * GROWTH
        stages.append(stage("dense", 1, width, {"layers": count, "growth": GROWTH}))
    return tuple(stages)


for _size, _layers in LAYERS.items():
    register_model(
        ModelSpec(
            name=f"densenet{_size}",
            family="densenet",
            stems={
                form: StemSpec(
                    "conv_stem",
                    width=64,
                    stride=stride,
                    stage_strides=(1, 2, 2, 2),
                    options={"kernel_size": kernel, "max_pool": True},
                )
                for form, stride, kernel in (("face", 2, 3), ("imagenet", 4, 7))
            },
            stages=_stages(_layers),
            head=HeadSpec("norm", {"map_norm": "batch", "map_act": "relu"}),
            init="mobilefacenet",
            paper="1608.06993",
            description=f"DenseNet of {_size} layers",
        )
    )
