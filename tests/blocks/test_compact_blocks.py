"""Blocks of the mobile and the token families, and the units they are made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facezoo.blocks import MixBlock, MixConvNormAct, SwinMerge, TokenStem, create_block
from facezoo.layers import (
    CrossCovarianceAttention,
    FourierPositions,
    GlobalResponseNorm,
    LayerScale,
    LinearNormAct,
    LowRankLinear,
    SelfAttention,
    SqueezeExcite,
    StochasticDepth,
    TokenSequence,
    WindowAttention,
    create_linear,
    round_channels,
)
from facezoo.ops import channel_shuffle

OPTIONS = {
    "ghost": {"inner_chans": 24, "squeeze_chans": 8},
    "shuffle": {},
    "mix": {"kernels": 3, "expand_groups": 2, "project_groups": 2, "squeeze_ratio": 2, "shuffle": True},
    "inverted_residual": {"kernel_size": 5, "squeeze_chans": 8, "squeeze_gate": "hardsigmoid", "act": "hardswish"},
}
SAME_WIDTH = {
    "split_transpose_attention": {"scales": 3, "heads": 4, "positions": True, "rank_ratio": 0.5},
    "swin": {"heads": 4, "window": 3, "shifted": True},
    "convnext": {"response_norm": True, "layer_scale": None, "rank_ratio": 0.5},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("widths", [(16, 16), (16, 32)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_stride_and_width(name: str, stride: int, widths: tuple[int, int], size: tuple[int, int]) -> None:
    block = create_block(name, *widths, stride=stride, options=OPTIONS[name])
    out = block(torch.randn(2, widths[0], *size))
    assert out.shape == (2, widths[1], -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("name", SAME_WIDTH)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (2, 1)])
def test_blocks_that_keep_their_width(name: str, size: tuple[int, int]) -> None:
    x = torch.randn(2, 16, *size)
    assert create_block(name, 16, 16, options=SAME_WIDTH[name])(x).shape == x.shape
    with pytest.raises(ValueError, match="keeps its width"):
        create_block(name, 16, 32, options=SAME_WIDTH[name])


@pytest.mark.parametrize("name", ["ghost", "mix", "inverted_residual", *SAME_WIDTH])
def test_dropped_branch_leaves_the_shortcut(name: str) -> None:
    options = {**OPTIONS, **SAME_WIDTH}[name]
    block = create_block(name, 16, 16, drop_path=1.0, options=options)
    x = torch.randn(2, 16, 6, 6)
    expected = channel_shuffle(x, 8) if name == "mix" else x
    torch.testing.assert_close(block(x), expected)
    assert any(isinstance(module, StochasticDepth) for module in block.modules())


@pytest.mark.parametrize("name", ["shuffle", "inverted_residual"])
def test_dilation_keeps_the_size(name: str) -> None:
    out = create_block(name, 16, 16, dilation=2, options=OPTIONS[name])(torch.randn(1, 16, 9, 9))
    assert out.shape == (1, 16, 9, 9)


def test_blocks_that_cannot_be_dilated_say_so() -> None:
    with pytest.raises(ValueError, match="block 'ghost': unknown argument 'dilation'"):
        create_block("ghost", 16, 16, dilation=2, options=OPTIONS["ghost"])
    with pytest.raises(ValueError, match="output_stride cannot be lowered"):
        SwinMerge(8, 16, stride=1)


def test_shuffle_unit_passes_one_half_of_the_channels_untouched() -> None:
    block = create_block("shuffle", 8, 8).eval()
    x = torch.randn(1, 8, 4, 4)
    torch.testing.assert_close(block(x)[:, 0::2], x[:, :4])


def test_odd_widths_are_refused_where_they_are_halved() -> None:
    with pytest.raises(ValueError, match="even number of output channels, got 9"):
        create_block("shuffle", 8, 9)
    with pytest.raises(ValueError, match="even number of output channels, got 25"):
        create_block("ghost", 8, 8, options={"inner_chans": 25})


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_channel_shuffle_deals_out_one_channel_of_each_group_in_turn(groups: int) -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)
    size = 6 // groups
    expected = [group * size + index for index in range(size) for group in range(groups)]
    assert channel_shuffle(x, groups).flatten().tolist() == expected
    torch.testing.assert_close(channel_shuffle(channel_shuffle(x, groups), size), x)


def test_channel_shuffle_wants_groups_that_divide() -> None:
    with pytest.raises(ValueError, match="6 channels cannot be divided into 4 groups"):
        channel_shuffle(torch.zeros(1, 6, 1, 1), 4)


def test_mixed_convolution_gives_the_rest_to_its_first_group() -> None:
    unit = MixConvNormAct(10, 20, (3, 5, 7))
    assert [(conv.in_channels, conv.out_channels, conv.kernel_size[0]) for conv in unit.convs] == [
        (4, 8, 3),
        (3, 6, 5),
        (3, 6, 7),
    ]
    depthwise = MixConvNormAct(10, 10, (3, 5), depthwise=True)
    assert [conv.groups for conv in depthwise.convs] == [5, 5]


def test_mix_block_without_mixing_is_an_inverted_residual() -> None:
    block = MixBlock(8, 8, expansion=1, act="prelu")
    assert isinstance(block.expand, nn.Identity)
    assert block.has_shortcut
    assert sum(p.numel() for p in block.parameters()) == 8 * 9 + 16 + 8 + 64 + 16


# --- units


@pytest.mark.parametrize(
    ("exact", "divisor", "rounded"),
    [(11.2, 8, 16), (35.2, 8, 32), (44.8, 8, 48), (18, 8, 24), (3, 8, 8), (20.8, 4, 20), (18, 4, 20), (60, 8, 64)],
)
def test_round_channels(exact: float, divisor: int, rounded: int) -> None:
    assert round_channels(exact, divisor) == rounded


def test_squeeze_of_a_given_width_and_gate() -> None:
    squeeze = SqueezeExcite(8, width=3, act="silu", gate="hardsigmoid")
    assert squeeze.fc1.out_channels == 3
    nn.init.zeros_(squeeze.fc2.weight)
    nn.init.constant_(squeeze.fc2.bias, 1.5)  # a hard sigmoid of 0.75
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(squeeze(x), 0.75 * x)


def test_low_rank_linear_is_the_product_of_its_two_layers() -> None:
    layer = LowRankLinear(6, 10, 0.5).double()
    assert layer.reduce.weight.shape == (3, 6)
    x = torch.randn(4, 2, 6, dtype=torch.float64)
    product = layer.expand.weight @ layer.reduce.weight
    torch.testing.assert_close(layer(x), x @ product.t() + layer.expand.bias)
    assert LowRankLinear(6, 10, 0.01).reduce.out_features == 2
    assert isinstance(create_linear(6, 10), nn.Linear)
    with pytest.raises(ValueError, match="fraction in"):
        LowRankLinear(6, 10, 1.5)


def test_linear_unit_has_a_bias_exactly_without_a_norm() -> None:
    assert LinearNormAct(4, 5, norm="none").linear.bias is not None
    assert LinearNormAct(4, 5).linear.bias is None
    with pytest.raises(ValueError, match="unknown norm of a linear layer 'layer'"):
        LinearNormAct(4, 5, norm="layer")


def test_response_norm_starts_as_the_identity() -> None:
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(GlobalResponseNorm(5)(x), x)


def test_layer_scale_multiplies_the_last_axis() -> None:
    scale = LayerScale(3, 0.5)
    torch.testing.assert_close(scale(torch.ones(2, 4, 3)), torch.full((2, 4, 3), 0.5))


def test_positions_of_a_map_are_those_of_detr() -> None:
    encoding = FourierPositions(8, frequencies=4)
    with torch.no_grad():
        encoding.projection.weight.copy_(torch.eye(8).view(8, 8, 1, 1))
        encoding.projection.bias.zero_()
    waves = encoding(torch.zeros(5, 3, 4, 6))[0]
    assert waves.shape == (8, 4, 6)
    row, column = 2, 5
    for axis, position, length in ((0, row, 4), (4, column, 6)):
        angle = (position + 1) / (length + 1e-6) * 2 * torch.pi
        expected = []
        for k in range(2):
            scaled = torch.tensor(angle / 10000.0 ** (2 * k / 4))
            expected += [scaled.sin(), scaled.cos()]
        torch.testing.assert_close(waves[axis : axis + 4, row, column], torch.stack(expected))


@pytest.mark.parametrize("attention", [CrossCovarianceAttention, SelfAttention, WindowAttention])
def test_heads_divide_the_channels(attention: type[nn.Module]) -> None:
    with pytest.raises(ValueError, match="3 heads do not divide 16 channels"):
        attention(16, 3)


def test_cross_covariance_attention_mixes_channels_by_their_cosines() -> None:
    layer = CrossCovarianceAttention(4, 2).double()
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    tokens = x.reshape(2, 15, 4)
    query, key, value = layer.qkv(tokens).chunk(3, dim=2)
    mixed = torch.zeros_like(tokens)
    for n in range(2):
        for head in range(2):
            own = slice(2 * head, 2 * head + 2)
            q, k, v = query[n, :, own], key[n, :, own], value[n, :, own]
            cosines = (q / q.norm(dim=0)).t() @ (k / k.norm(dim=0)) * layer.temperature[head]
            mixed[n, :, own] = v @ cosines.softmax(dim=1).t()
    torch.testing.assert_close(layer(x), layer.proj(mixed).view(2, 3, 5, 4))


def test_a_window_sees_only_itself_and_a_shifted_one_not_across_the_border() -> None:
    torch.manual_seed(0)
    for shift, height in ((0, 8), (2, 8), (2, 6)):  # the last is padded to 8
        layer = WindowAttention(8, 2, window=4, shift=shift).double()
        x = torch.randn(1, height, 8, 8, dtype=torch.float64, requires_grad=True)
        layer(x)[0, 1, 1].sum().backward()
        assert x.grad is not None
        seen = x.grad[0].abs().sum(-1) > 0
        expected = torch.zeros(height, 8, dtype=torch.bool)
        reach = 4 - shift
        expected[:reach, :reach] = True
        assert torch.equal(seen, expected)


def test_the_bias_of_a_window_is_that_of_the_step_from_key_to_query() -> None:
    torch.manual_seed(0)
    layer = WindowAttention(6, 2, window=3).double()
    nn.init.normal_(layer.bias_table)
    x = torch.randn(2, 3, 3, 6, dtype=torch.float64)
    tokens = x.reshape(2, 9, 6)
    query, key, value = layer.qkv(tokens).chunk(3, dim=2)
    mixed = torch.zeros_like(tokens)
    for head in range(2):
        own = slice(3 * head, 3 * head + 3)
        scores = query[..., own] @ key[..., own].transpose(1, 2) / 3**0.5
        for i in range(9):
            for j in range(9):
                down, right = i // 3 - j // 3, i % 3 - j % 3
                scores[:, i, j] = scores[:, i, j] + layer.bias_table[(down + 2) * 5 + right + 2, head]
        mixed[..., own] = scores.softmax(dim=2) @ value[..., own]
    torch.testing.assert_close(layer(x), layer.proj(mixed).view(2, 3, 3, 6))


def test_a_map_of_one_window_is_not_shifted() -> None:
    layer = WindowAttention(8, 2, window=4, shift=2)
    plain = WindowAttention(8, 2, window=4)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 3, 8)
    torch.testing.assert_close(layer(x), plain(x))
    with pytest.raises(ValueError, match="shifted by 0…3 cells, got 4"):
        WindowAttention(8, 2, window=4, shift=4)


# --- tokens


@pytest.mark.parametrize("class_token", [False, True])
def test_tokens_are_rows_one_after_the_other_and_become_the_map_again(class_token: bool) -> None:
    sequence = TokenSequence(3, class_token=class_token)
    x = torch.randn(2, 3, 4, 5)
    tokens = sequence(x)
    assert tokens.shape == (2, 20 + class_token, 3)
    torch.testing.assert_close(tokens[:, int(class_token) + 5 * 2 + 3], x[:, :, 2, 3])
    torch.testing.assert_close(sequence.to_map(tokens, (4, 5)), x)


def test_token_stem_takes_one_size_and_names_the_way_out() -> None:
    stem = TokenStem(3, 8, in_size=(20, 13), stride=4)
    assert stem(torch.randn(2, 3, 20, 13)).shape == (2, 8, 5, 3)
    with pytest.raises(ValueError, match=r"images of 20×13 pixels but got 20×20: create the model with img_size="):
        stem(torch.randn(2, 3, 20, 20))
    with pytest.raises(ValueError, match="no patch of 16×16"):
        TokenStem(3, 8, in_size=(8, 112))
    with torch.no_grad():
        stem.conv.weight.zero_()
        stem.conv.bias.zero_()
    torch.testing.assert_close(stem(torch.randn(1, 3, 20, 13))[0, :, 2, 1], stem.positions[2 * 3 + 1])


def test_swin_merge_completes_an_odd_map() -> None:
    merge = SwinMerge(4, 8)
    assert merge(torch.randn(1, 4, 5, 6)).shape == (1, 8, 3, 3)
