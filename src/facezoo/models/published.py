"""Networks for which face weights are published, in forms that the papers do not have.

``vit_tiny_patch8`` and ``vit_small_patch8_gap`` are timm's ViTs of 8×8 patches, with a class token and with the mean of the
patches; ``convnext_atto_p2`` and ``convnext_nano_p2`` timm's ConvNeXt of 2×2 patches, which halves the map before its first stage
too. Their embedding is timm's classifier: a linear layer with bias and no norm (timm-face). ``cvlface_vit_base`` is CVLface's ViT
for 112×112 faces: insightface's form with patches of 8×8, 16 heads and an MLP of three times the width. ``mobilefacenet_foamliu``
is a MobileFaceNet with ReLU6 for PReLU, a depthwise separable second layer, and a bias in the embedding.
"""

from __future__ import annotations

from facezoo.models.convnext import SIZES as CONVNEXT_SIZES
from facezoo.models.factory import register_model
from facezoo.models.spec import HeadSpec, ModelSpec, StageSpec, StemSpec

# name, width, heads, tokens, head, words
_TIMM_VITS = (
    ("vit_tiny_patch8", 192, 3, "class", {"map_norm": "layer"}, "tiny, of 8×8 patches with a class token"),
    ("vit_small_patch8_gap", 384, 6, "patches", {"pool_norm": "layer"}, "small, of 8×8 patches, their mean"),
)

for _name, _width, _heads, _tokens, _norm, _words in _TIMM_VITS:
    register_model(
        ModelSpec(
            name=_name,
            family="vit",
            stems={"face": StemSpec("token_stem", _width, stride=8, stage_strides=(1,))},
            stages=(StageSpec("transformer", 12, _width, {"heads": _heads}, tokens=_tokens),),  # type: ignore[arg-type]
            head=HeadSpec(embedding_bias=True, embedding_norm="none", **_norm),  # type: ignore[arg-type]
            init="transformer",
            paper="2010.11929",
            description=f"ViT, {_words}, for 112×112 faces (timm-face)",
        )
    )

for _size in ("atto", "nano"):
    _depths, _width = CONVNEXT_SIZES[_size]
    register_model(
        ModelSpec(
            name=f"convnext_{_size}_p2",
            family="convnext",
            stems={"face": StemSpec("patch_stem", width=_width, stride=2, stage_strides=(2, 2, 2, 2))},
            stages=tuple(
                StageSpec("convnext", depth, _width * 2**index, transition="patch_merge")
                for index, depth in enumerate(_depths)
            ),
            head=HeadSpec(pool_norm="layer", embedding_bias=True, embedding_norm="none"),
            init="convnext",
            paper="2201.03545",
            description=f"ConvNeXt-{_size.capitalize()} of 2×2 patches with timm's classifier as the embedding (timm-face)",
        )
    )

register_model(
    ModelSpec(
        name="cvlface_vit_base",
        family="vit",
        stems={"face": StemSpec("token_stem", 512, stride=8, stage_strides=(1,))},
        stages=(
            StageSpec(
                "transformer",
                24,
                512,
                {"heads": 16, "mlp_ratio": 3, "qkv_bias": False, "act": "relu6", "norm_eps": 1e-5},
                tokens="patches",
            ),
        ),
        head=HeadSpec(
            map_norm="layer",
            norm_eps=1e-5,
            global_pool="flatten",
            hidden_width=512,
            hidden_norm="batch",
            hidden_act="none",
        ),
        init="transformer",
        paper="2403.14852",
        description="ViT-B of CVLface: 8×8 patches of 112×112 faces",
    )
)


def _foamliu_stage(depth: int, width: int, first_inner: int, inner: int) -> StageSpec:
    return StageSpec(
        "inverted_residual", depth, width, options={"inner_chans": inner}, first_options={"inner_chans": first_inner}
    )


register_model(
    ModelSpec(
        name="mobilefacenet_foamliu",
        family="mobilefacenet",
        stems={"face": StemSpec("conv_stem", 64, stride=2, stage_strides=(1, 2, 2, 2), options={"act": "relu6"})},
        stages=(
            StageSpec("conv", 2, 64, per_block=({"groups": 64}, {"kernel_size": 1})),
            _foamliu_stage(5, 64, 128, 128),
            _foamliu_stage(7, 128, 256, 256),
            _foamliu_stage(3, 128, 512, 256),
        ),
        head=HeadSpec(conv_width=512, conv_act="relu6", global_pool="gdc", embedding_bias=True),
        init="mobilenet",
        paper="1804.07573",
        description="MobileFaceNet with ReLU6 and a depthwise separable second layer (foamliu)",
    )
)
