"""Networks with published face weights, in forms that differ from the papers.

``vit_tiny_patch8`` and ``vit_small_patch8_gap`` are timm's ViTs with 8×8 patches, with a class token or the mean of the patches.
``convnext_atto_p2`` and ``convnext_nano_p2`` are timm's ConvNeXt with 2×2 patches, which also halves the map before its first
stage. Their embedding is timm's classifier: a linear layer with bias and without norm (timm-face). ``cvlface_vit_base`` is
CVLface's ViT for 112×112 faces: insightface's form with 8×8 patches, 16 heads and an MLP of three times the width.
``mobilefacenet_foamliu`` is a MobileFaceNet with ReLU6 instead of PReLU, a depthwise separable second layer, and a bias in the
embedding.
"""

from __future__ import annotations

from facezoo.models.convnext import SIZES as CONVNEXT_SIZES
from facezoo.models.factory import register_model
from facezoo.models.spec import BlockSpec, HeadSpec, ModelSpec, StageSpec, StemSpec, stage

LINEAR = {"bias": True, "norm": "none"}

register_model(
    ModelSpec(
        name="vit_tiny_patch8",
        family="vit",
        stems={"face": StemSpec("token_stem", 192, stride=8, stage_strides=(1,))},
        stages=(stage("transformer", 12, 192, {"heads": 3}, tokens="class"),),
        head=HeadSpec("norm", {"map_norm": "layer", **LINEAR}),
        init="transformer",
        paper="2010.11929",
        description="ViT, tiny, of 8×8 patches with a class token, for 112×112 faces (timm-face)",
    )
)
register_model(
    ModelSpec(
        name="vit_small_patch8_gap",
        family="vit",
        stems={"face": StemSpec("token_stem", 384, stride=8, stage_strides=(1,))},
        stages=(stage("transformer", 12, 384, {"heads": 6}, tokens="patches"),),
        head=HeadSpec("pool_norm", LINEAR),
        init="transformer",
        paper="2010.11929",
        description="ViT, small, of 8×8 patches and their mean, for 112×112 faces (timm-face)",
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
                stage("convnext", depth, _width * 2**index, transition=BlockSpec("patch_merge"))
                for index, depth in enumerate(_depths)
            ),
            head=HeadSpec("pool_norm", LINEAR),
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
            stage(
                "transformer",
                24,
                512,
                {"heads": 16, "mlp_ratio": 3, "qkv_bias": False, "act": "relu6", "norm_eps": 1e-5},
                tokens="patches",
            ),
        ),
        head=HeadSpec("tokens", {"hidden_width": 512}, global_pool="flatten"),
        init="transformer",
        paper="2403.14852",
        description="ViT-B of CVLface: 8×8 patches of 112×112 faces",
    )
)


def _foamliu_stage(depth: int, width: int, first_inner: int, inner: int) -> StageSpec:
    first = BlockSpec("inverted_residual", options={"inner_chans": first_inner})
    return StageSpec(width, (first, BlockSpec("inverted_residual", depth - 1, {"inner_chans": inner})))


register_model(
    ModelSpec(
        name="mobilefacenet_foamliu",
        family="mobilefacenet",
        stems={"face": StemSpec("conv_stem", 64, stride=2, stage_strides=(1, 2, 2, 2), options={"act": "relu6"})},
        stages=(
            StageSpec(64, (BlockSpec("conv", options={"groups": 64}), BlockSpec("conv", options={"kernel_size": 1}))),
            _foamliu_stage(5, 64, 128, 128),
            _foamliu_stage(7, 128, 256, 256),
            _foamliu_stage(3, 128, 512, 256),
        ),
        head=HeadSpec("conv", {"width": 512, "act": "relu6", "bias": True}, global_pool="gdc"),
        init="mobilenet",
        paper="1804.07573",
        description="MobileFaceNet with ReLU6 and a depthwise separable second layer (foamliu)",
    )
)
