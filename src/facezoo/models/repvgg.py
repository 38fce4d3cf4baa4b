"""RepVGG, 2101.03697: three branches in training, which ``reparameterise()`` of every block merges into one 3×3 convolution."""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

A, B = (2, 4, 14, 1), (4, 6, 16, 1)
# depths, width of the stem, widths
SIZES = {
    "a0": (A, 48, (48, 96, 192, 1280)),
    "a1": (A, 64, (64, 128, 256, 1280)),
    "a2": (A, 64, (96, 192, 384, 1408)),
    "b0": (B, 64, (64, 128, 256, 1280)),
    "b1": (B, 64, (128, 256, 512, 2048)),
}

for _size, (_depths, _stem_width, _widths) in SIZES.items():
    register_model(
        ModelSpec(
            name=f"repvgg_{_size}",
            family="repvgg",
            stems={
                form: StemSpec("repvgg", width=_stem_width, stride=stride, stage_strides=(2, 2, 2, 2))
                for form, stride in (("face", 1), ("imagenet", 2))
            },
            stages=tuple(stage("repvgg", depth, width) for depth, width in zip(_depths, _widths, strict=True)),
            head=HeadSpec(),
            init="mobilefacenet",
            paper="2101.03697",
            description=f"RepVGG-{_size.upper()}",
        )
    )
