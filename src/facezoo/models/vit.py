"""Vision Transformer, 2010.11929: insightface's form for 112×112 faces, and the form with 16×16 patches and a class token.

``vit_t``, ``vit_s``, ``vit_b`` and ``vit_l`` are arcface_torch's: patches of 9×9 pixels (four pixels at the right and the bottom go
unused), so a 112×112 image becomes a 12×12 map; no class token, no bias for queries, keys and values, ReLU6; the embedding is
computed from all tokens. Masking of tokens in training, which arcface_torch does for some networks, is not implemented.

``vit_tiny_patch16`` and the other ``*_patch16`` networks have the paper's class token, which is the only input of the head, in
both forms (a 112×112 image has 7×7 patches). A ViT has weights per position: ``img_size`` at construction sets its image size.
"""

from __future__ import annotations

from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StemSpec, stage

# width, depth, heads
FACE_SIZES = {"t": (256, 12, 8), "s": (512, 12, 8), "b": (512, 24, 8), "l": (768, 24, 8)}
SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}

for _size, (_width, _depth, _heads) in FACE_SIZES.items():
    register_model(
        ModelSpec(
            name=f"vit_{_size}",
            family="vit",
            stems={"face": StemSpec("token_stem", _width, stride=9, stage_strides=(1,))},
            stages=(
                stage(
                    "transformer",
                    _depth,
                    _width,
                    {"heads": _heads, "qkv_bias": False, "act": "relu6", "norm_eps": 1e-5},
                    tokens="patches",
                ),
            ),
            head=HeadSpec("tokens", {"hidden_width": _width}, global_pool="flatten"),
            init="transformer",
            paper="2010.11929",
            description=f"ViT-{_size.upper()} of 9×9 patches for 112×112 faces (insightface)",
        )
    )
for _size, (_width, _depth, _heads) in SIZES.items():
    _stem = StemSpec("token_stem", _width, stride=16, stage_strides=(1,))
    register_model(
        ModelSpec(
            name=f"vit_{_size}_patch16",
            family="vit",
            stems={"face": _stem, "imagenet": _stem},
            stages=(stage("transformer", _depth, _width, {"heads": _heads}, tokens="class"),),
            head=HeadSpec("norm", {"map_norm": "layer"}),
            init="transformer",
            paper="2010.11929",
            description=f"ViT, {_size}, of 16×16 patches with a class token",
        )
    )
