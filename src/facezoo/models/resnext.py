"""ResNeXt and Wide ResNet: bottlenecks whose 3×3 convolution is grouped, or twice as wide.

Aggregated Residual Transformations, 1611.05431: ``32x4d`` is 32 groups of 4 channels in the first stage. Wide Residual Networks,
1605.07146, in torchvision's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facezoo.models.factory import register_model
from facezoo.models.resnet import DEPTHS, STEMS, WIDTHS
from facezoo.models.spec import HeadSpec, ModelSpec, stage


def _options(groups: int, group_width: int) -> dict[str, Any]:
    """``groups`` groups of ``group_width`` channels beside the first stage's 256 output channels; in proportion later."""
    return {"groups": groups, "expansion": WIDTHS["bottleneck"][0] // (groups * group_width)}


def _register(name: str, layers: int, options: Mapping[str, Any], paper: str, description: str) -> None:
    register_model(
        ModelSpec(
            name=name,
            family="resnext",
            stems=STEMS,
            stages=tuple(
                stage("bottleneck", depth, width, options)
                for depth, width in zip(DEPTHS[layers][1], WIDTHS["bottleneck"], strict=True)
            ),
            head=HeadSpec(),
            init="resnet",
            paper=paper,
            description=description,
        )
    )


for _layers, _groups, _width in ((50, 32, 4), (101, 32, 4), (101, 32, 8), (101, 64, 4)):
    _name, _text = f"resnext{_layers}_{_groups}x{_width}d", f"ResNeXt of {_layers} layers, {_groups} groups of {_width}"
    _register(_name, _layers, _options(_groups, _width), "1611.05431", _text)
    if _groups == 32:
        _se = {**_options(_groups, _width), "attention": "se"}
        _register(f"se_{_name}", _layers, _se, "1709.01507", f"{_text}, with squeeze-and-excitation")

for _layers in (50, 101):
    _wide = {"expansion": 2}
    _register(
        f"wide_resnet{_layers}_2", _layers, _wide, "1605.07146", f"ResNet of {_layers} layers, twice as wide inside"
    )
