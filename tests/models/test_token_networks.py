"""Stages of tokens, stages whose blocks differ, and heads with a hidden or a low-rank layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import facezoo
from facezoo.blocks import ConvNeXtBlock, SplitTransposeAttention
from facezoo.layers import LowRankLinear
from facezoo.models import FaceNetwork, get_model_spec


def images(size: int = 112, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_a_class_token_is_all_that_the_head_sees_and_maps_stay_maps() -> None:
    torch.manual_seed(0)
    model = facezoo.create_model("vit_tiny_patch16", embedding_dim=8, num_classes=3).eval()
    features = facezoo.create_model("vit_tiny_patch16", features_only=True).eval()
    features.load_state_dict({k: v for k, v in model.state_dict().items() if k in features.state_dict()})
    with torch.inference_mode():
        token = model.forward_features(images())
        (patches,) = features(images())
        assert token.shape == (2, 192, 1, 1)
        assert patches.shape == (2, 192, 7, 7)
        assert features.feature_info == [{"num_chs": 192, "reduction": 16, "module": "stages.0"}]
        torch.testing.assert_close(model.forward_head(token), model(images()))
        # the same tokens, by hand
        tokens = model.stages[0].tokens(model.stem(images()))
        for block in model.stages[0].blocks:
            tokens = block(tokens)
        torch.testing.assert_close(tokens[:, 0], token.flatten(1))
        torch.testing.assert_close(tokens[:, 1:].transpose(1, 2).unflatten(2, (7, 7)), patches)


@pytest.mark.parametrize("name", ["vit_t", "vit_tiny_patch16"])
def test_a_vit_takes_the_size_it_was_made_for(name: str) -> None:
    with torch.device("meta"):
        model = facezoo.create_model(name, embedding_dim=8)
        other = facezoo.create_model(name, embedding_dim=8, img_size=(80, 64))
        assert other(torch.empty(2, 3, 80, 64)).shape == (2, 8)
        with pytest.raises(ValueError, match=r"of 112×112 pixels but got 80×64: create the model with img_size="):
            model(torch.empty(2, 3, 80, 64))
    with pytest.raises(ValueError, match=r"output_stride of \["):
        facezoo.create_model(name, output_stride=4)


def test_patches_of_9_leave_four_pixels_of_112_out() -> None:
    model = facezoo.create_model("vit_t", embedding_dim=8).eval()
    x = images(count=1)
    y = x.clone()
    y[:, :, 108:] = 0
    y[:, :, :, 108:] = 0
    with torch.inference_mode():
        torch.testing.assert_close(model(x), model(y))


@pytest.mark.parametrize("size", [56, 70])
def test_swin_takes_other_sizes(size: int) -> None:
    with torch.device("meta"):
        model = facezoo.create_model("swin_tiny", embedding_dim=8)
        features = model.forward_features(torch.empty(1, 3, size, size))
    assert features.shape == (1, 768, -(-size // 16), -(-size // 16))


def test_positions_and_bias_tables_are_not_decayed() -> None:
    with torch.device("meta"):
        for name, sparing in (("vit_t", "stem.positions"), ("swin_tiny", "bias_table")):
            model = facezoo.create_model(name)
            names = {id(parameter): key for key, parameter in model.named_parameters()}
            spared = [
                names[id(p)] for g in model.parameter_groups(0.1) for p in g["params"] if g["weight_decay"] == 0.0
            ]
            assert any(key.endswith(sparing) for key in spared)
            assert not any(key.endswith(("qkv.weight", "pointwise1.weight", "conv.weight")) for key in spared)


def test_a_class_token_counts_with_the_first_block_in_layer_decay() -> None:
    with torch.device("meta"):
        model = facezoo.create_model("vit_tiny_patch16")
    scale_of = {id(p): group["lr_scale"] for group in model.parameter_groups(0.1, 0.5) for p in group["params"]}
    assert scale_of[id(model.stages[0].tokens.class_token)] == 0.5**12
    assert scale_of[id(model.stages[0].blocks[0].norm1.weight)] == 0.5**12
    assert scale_of[id(model.stem.positions)] == 0.5**13


def test_blocks_of_one_stage_have_options_of_their_own() -> None:
    with torch.device("meta"):
        swin = FaceNetwork(get_model_spec("swin_tiny"))
        shifts = [[block.attention.shift for block in stage.blocks] for stage in swin.stages]
        assert shifts == [[0, 3], [0, 3], [0, 3, 0, 3, 0, 3], [0, 3]]
        large = FaceNetwork(get_model_spec("mobilenet_v3_large"))
        inner = [[block.depthwise.conv.in_channels for block in stage.blocks] for stage in large.stages]
        assert inner == [[16], [64, 72], [72, 120, 120], [240, 200, 184, 184], [480, 672], [672, 960, 960]]
        b0 = FaceNetwork(get_model_spec("efficientnet_b0"))
        squeezes = [[block.squeeze.fc1.out_channels for block in stage.blocks] for stage in b0.stages]
        assert squeezes == [[8], [4, 6], [6, 10], [10, 20, 20], [20, 28, 28], [28, 48, 48, 48], [48]]


def test_another_block_ends_a_stage() -> None:
    with torch.device("meta"):
        model = FaceNetwork(get_model_spec("edgenext_xx_small"))
    kinds = [[type(block) for block in stage.blocks] for stage in model.stages]
    conv, attention = ConvNeXtBlock, SplitTransposeAttention
    assert kinds == [[conv] * 2, [conv, attention], [conv] * 5 + [attention], [conv, attention]]
    assert model.stages[1].blocks[1].positions is not None
    assert model.stages[2].blocks[5].positions is None


def test_a_hidden_layer_stands_before_the_embedding_and_before_the_classifier() -> None:
    with torch.device("meta"):
        face = facezoo.create_model("mobilenet_v3_small", embedding_dim=64)
        assert face.head.hidden.linear.weight.shape == (1024, 576)
        assert face.head.embedding.weight.shape == (64, 1024)
        bare = facezoo.create_model("mobilenet_v3_small", embedding_dim=None, num_classes=5)
        assert bare.embedding_dim == 1024
        assert bare.classifier.weight.shape == (5, 1024)


def test_edgeface_embeds_with_a_fraction_of_the_rank() -> None:
    with torch.device("meta"):
        embedding = facezoo.create_model("edgeface_xs").head.embedding
    assert isinstance(embedding, LowRankLinear)
    assert embedding.reduce.weight.shape == (int(0.6 * 192), 192)
    assert embedding.expand.bias is not None


def test_shufflefacenet_adds_slopes_and_a_depthwise_pool_to_shufflenet() -> None:
    for size in ("x0_5", "x1_0", "x1_5"):  # the largest has fewer channels in front of the pool
        with torch.device("meta"):
            plain = facezoo.create_model(f"shufflenet_v2_{size}")
            face = facezoo.create_model(f"shufflefacenet_{size}")
        slopes = sum(m.num_parameters for m in face.modules() if isinstance(m, nn.PReLU))
        relus = sum(isinstance(m, nn.ReLU) for m in plain.modules())
        assert relus == sum(isinstance(m, nn.PReLU) for m in face.modules())
        pool = sum(p.numel() for p in face.head.pool.parameters())
        last = face.head.pool.conv.in_channels
        assert pool == last * 49 + 2 * last
        plain_count, face_count = (sum(p.numel() for p in m.parameters()) for m in (plain, face))
        assert face_count == plain_count + slopes + pool
