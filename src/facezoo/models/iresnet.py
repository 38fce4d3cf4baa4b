"""IResNet: the improved residual networks of ArcFace (1801.07698), in the three layouts that checkpoints have.

``iresnet*`` is that of insightface's arcface_torch, ``ir_*`` that of CVLface and AdaFace (2204.00964), ``*_evolve`` that of
face.evoLVe. The last two differ from the first in the shortcut of a stage that keeps its width (no convolution), in the dropout
and in the last norm; face.evoLVe has no norm after a block's first convolution, CVLface has bottlenecks in the networks of 152 and
200 layers. ``se_iresnet*`` and ``ir_se_*`` add squeeze-and-excitation (1709.01507) of width C // 16.

Made for 112×112 faces only: the embedding is a linear layer over the flattened 7×7 map.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

DEPTHS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 14, 3),
    100: (3, 13, 30, 3),
    200: (6, 26, 60, 6),
}
BOTTLENECK_DEPTHS = {152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
WIDTHS = {"ir": (64, 128, 256, 512), "ir_bottleneck": (256, 512, 1024, 2048)}
STEM = StemSpec("conv_stem", width=64, stride=1, stage_strides=(2, 2, 2, 2), options={"act": "prelu"})
HEAD = HeadSpec("norm", {"map_norm": "batch", "bias": True, "norm": "batch_frozen_scale"}, global_pool="flatten")
CVLFACE_HEAD = HeadSpec(
    "norm",
    {"map_norm": "batch", "bias": True, "norm": "batch_without_affine"},
    global_pool="flatten",
    drop_rate=0.4,
)
EVOLVE_HEAD = HeadSpec("norm", {"map_norm": "batch", "bias": True}, global_pool="flatten", drop_rate=0.5)


def _register(
    name: str, block: str, depths: tuple[int, ...], options: Mapping[str, Any], head: HeadSpec, paper: str, text: str
) -> None:
    register_model(
        ModelSpec(
            name=name,
            family="iresnet",
            stems={"face": STEM},
            stages=tuple(
                stage(block, depth, width, options) for depth, width in zip(depths, WIDTHS[block], strict=True)
            ),
            head=head,
            init="iresnet",
            paper=paper,
            description=text,
        )
    )


_SE = {"attention": "se", "se_divisor": 1}
_SUBSAMPLE = {"shortcut": "subsample"}
_SUBSAMPLE_SE = {**_SUBSAMPLE, "attention": "se_without_bias", "se_divisor": 1}

for _layers, _depths in DEPTHS.items():
    _text = f"improved ResNet of {_layers} layers for 112×112 faces (insightface)"
    _register(f"iresnet{_layers}", "ir", _depths, {}, HEAD, "1801.07698", _text)
    _register(f"se_iresnet{_layers}", "ir", _depths, _SE, HEAD, "1801.07698", f"{_text} with squeeze-and-excitation")

for _prefix, _options in (("ir", _SUBSAMPLE), ("ir_se", _SUBSAMPLE_SE)):
    _suffix = " with squeeze-and-excitation" if _prefix == "ir_se" else ""
    for _layers, _depths in ((18, DEPTHS[18]), (34, DEPTHS[34]), (50, DEPTHS[50]), (101, DEPTHS[100])):
        _text = f"improved ResNet of {_layers} layers for 112×112 faces (CVLface, AdaFace){_suffix}"
        _register(f"{_prefix}_{_layers}", "ir", _depths, _options, CVLFACE_HEAD, "2204.00964", _text)
    for _layers, _depths in BOTTLENECK_DEPTHS.items():
        _text = f"improved ResNet of {_layers} layers, with bottlenecks, for 112×112 faces (CVLface, AdaFace){_suffix}"
        _register(f"{_prefix}_{_layers}", "ir_bottleneck", _depths, _options, CVLFACE_HEAD, "2204.00964", _text)
    for _layers, _depths in ((50, DEPTHS[50]), (101, DEPTHS[100]), (152, BOTTLENECK_DEPTHS[152])):
        _text = f"improved ResNet of {_layers} layers for 112×112 faces (face.evoLVe){_suffix}"
        _register(
            f"{_prefix}_{_layers}_evolve",
            "ir",
            _depths,
            {**_options, "inner_norm": False},
            EVOLVE_HEAD,
            "1801.07698",
            _text,
        )
