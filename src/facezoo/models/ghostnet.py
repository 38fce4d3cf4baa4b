"""GhostNet, 1911.11907, and GhostFaceNet V1 (10.1109/ACCESS.2023.3266068).

GhostFaceNet replaces ReLU by PReLU, narrows the last bottleneck and ends in a global depthwise convolution. The authors write
``V1-w-s`` for width w and stride s of the first convolution: ``stem="face"`` is s = 1 (a 7×7 map at 112×112), ``stem="imagenet"``
s = 2 (4×4). Their Keras code uses the hard sigmoid 0.2·x + 0.5 in its squeezes; this one uses GhostNet's x / 6 + 0.5.
"""

from __future__ import annotations

from facezoo.layers import round_channels
from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec

# per stage: width, stride, then kernel, inner width and squeeze of every block: table 1 of GhostNet's paper
Blocks = tuple[tuple[int, int, bool], ...]
TABLE: tuple[tuple[int, int, Blocks], ...] = (
    (16, 1, ((3, 16, False),)),
    (24, 2, ((3, 48, False), (3, 72, False))),
    (40, 2, ((5, 72, True), (5, 120, True))),
    (80, 2, ((3, 240, False), (3, 200, False), (3, 184, False), (3, 184, False))),
    (112, 1, ((3, 480, True), (3, 672, True))),
    (160, 2, ((5, 672, True), (5, 960, False), (5, 960, True), (5, 960, False), (5, 960, True))),
)
STRIDES = tuple(stride for _, stride, _ in TABLE)
FACE_LAST: tuple[int, int, Blocks] = (
    160,
    2,
    ((5, 672, True), (5, 960, False), (5, 960, True), (5, 960, False), (5, 512, True)),
)


def _stages(table: tuple[tuple[int, int, Blocks], ...], factor: float, act: str) -> tuple[StageSpec, ...]:
    stages = []
    for width, _, blocks in table:
        specs = []
        for kernel, base, squeeze in blocks:
            inner = round_channels(base * factor, 4)
            squeeze_chans = round_channels(inner / 4, 4) if squeeze else 0
            options = {"inner_chans": inner, "kernel_size": kernel, "squeeze_chans": squeeze_chans, "act": act}
            specs.append(BlockSpec("ghost", 1, options))
        stages.append(StageSpec(round_channels(width * factor, 4), tuple(specs)))
    return tuple(stages)


def _stems(factor: float, act: str) -> dict[str, StemSpec]:
    width = round_channels(16 * factor, 4)
    return {
        "face": StemSpec("conv_stem", width, stride=1, stage_strides=STRIDES, options={"act": act}),
        "imagenet": StemSpec("conv_stem", width, stride=2, stage_strides=STRIDES, options={"act": act}),
    }


for _percent in (50, 100, 130):
    _factor = _percent / 100
    register_model(
        ModelSpec(
            name=f"ghostnet_{_percent:03}",
            family="ghostnet",
            stems=_stems(_factor, "relu"),
            stages=_stages(TABLE, _factor, "relu"),
            head=HeadSpec("conv", {"width": round_channels(960 * _factor, 4), "hidden_width": 1280}, drop_rate=0.2),
            init="mobilenet",
            paper="1911.11907",
            description=f"GhostNet of width {_factor}",
        )
    )
    register_model(
        ModelSpec(
            name=f"ghostfacenet_{_percent:03}",
            family="ghostnet",
            stems=_stems(_factor, "prelu"),
            stages=_stages((*TABLE[:-1], FACE_LAST), _factor, "prelu"),
            head=HeadSpec("conv", {"width": round_channels(512 * _factor, 4), "act": "prelu"}, global_pool="gdc"),
            init="mobilefacenet",
            paper="10.1109/ACCESS.2023.3266068",
            description=f"GhostFaceNet V1 of width {_factor}",
        )
    )
