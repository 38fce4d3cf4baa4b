"""The small units: norm, activation, convolution unit, squeeze-and-excitation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facezoo.layers import (
    CBAM,
    ConvNormAct,
    DepthwiseConv,
    EfficientChannelAttention,
    LayerNorm2d,
    LayerScale2d,
    PointwiseConv,
    SqueezeExcite,
    create_activation,
    create_norm2d,
    eca_kernel_size,
    squeeze_width,
)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layer_norm_2d_equals_group_norm_with_one_group_per_position(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 8, 5, 3).contiguous(memory_format=memory_format)
    norm = LayerNorm2d(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    expected = (x - mean) / (var + 1e-6).sqrt() * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("size", [(7, 7), (8, 9)])
def test_conv_unit_shrinks_by_its_stride_only(
    stride: int, dilation: int, kernel_size: int, size: tuple[int, int]
) -> None:
    unit = ConvNormAct(3, 4, kernel_size, stride=stride, dilation=dilation)
    out = unit(torch.randn(2, 3, *size))
    assert out.shape == (2, 4, -(-size[0] // stride), -(-size[1] // stride))


def test_conv_unit_with_two_sides_without_padding_and_with_another_eps() -> None:
    x = torch.randn(2, 3, 9, 8)
    assert ConvNormAct(3, 4, (1, 7))(x).shape == (2, 4, 9, 8)
    assert ConvNormAct(3, 4, (7, 1)).conv.padding == (3, 0)
    assert ConvNormAct(3, 4, 3, stride=2, padded=False)(x).shape == (2, 4, 4, 3)
    assert ConvNormAct(3, 4, norm_eps=1e-3).norm.eps == 1e-3
    assert ConvNormAct(3, 4).norm.eps == 1e-5
    assert ConvNormAct(3, 4, norm="layer").norm.eps == 1e-6


def test_conv_unit_has_a_bias_exactly_without_norm() -> None:
    assert ConvNormAct(3, 4).conv.bias is None
    assert ConvNormAct(3, 4, norm="none").conv.bias is not None
    assert ConvNormAct(3, 4, bias=True).conv.bias is not None
    assert ConvNormAct(3, 4, norm="none", bias=False).conv.bias is None


def test_depthwise_and_pointwise_are_the_two_halves_of_a_separable_convolution() -> None:
    assert DepthwiseConv(8, 5).conv.weight.shape == (8, 1, 5, 5)
    assert PointwiseConv(8, 6).conv.weight.shape == (6, 8, 1, 1)
    depthwise = DepthwiseConv(2, 3, norm="none", act="none")
    x = torch.randn(1, 2, 6, 6)
    y = x.clone()
    y[:, 1] += 1.0  # the other channel does not see it
    torch.testing.assert_close(depthwise(x)[:, 0], depthwise(y)[:, 0])


@pytest.mark.parametrize(
    ("channels", "divisor", "width"),
    [(64, 8, 8), (128, 8, 8), (256, 8, 16), (2048, 8, 128), (64, 1, 4), (128, 1, 8), (300, 8, 24)],
)
def test_squeeze_width(channels: int, divisor: int, width: int) -> None:
    assert squeeze_width(channels, 1 / 16, divisor) == width


def test_squeeze_excite_is_a_gate_per_channel() -> None:
    layer = SqueezeExcite(32)
    x = torch.randn(2, 32, 5, 5)
    gate = torch.sigmoid(layer.fc2(torch.relu(layer.fc1(x.mean((2, 3), keepdim=True)))))
    torch.testing.assert_close(layer(x), x * gate)


@pytest.mark.parametrize(("channels", "size"), [(8, 3), (64, 3), (128, 5), (256, 5), (512, 5), (1024, 5), (2048, 7)])
def test_eca_kernel_size(channels: int, size: int) -> None:
    assert eca_kernel_size(channels) == size


def test_efficient_channel_attention_sees_the_neighboring_channels_only() -> None:
    layer = EfficientChannelAttention(16)
    x = torch.randn(2, 16, 5, 5, dtype=torch.float64)
    weight = layer.double().conv.weight.detach().flatten()
    means = torch.nn.functional.pad(x.mean((2, 3)), (1, 1))
    gate = torch.sigmoid(weight[0] * means[:, :-2] + weight[1] * means[:, 1:-1] + weight[2] * means[:, 2:])
    torch.testing.assert_close(layer(x), x * gate[:, :, None, None])


def test_cbam_gates_channels_then_positions() -> None:
    layer = CBAM(32).double().eval()
    with torch.no_grad():
        layer.spatial.conv.norm.running_mean.fill_(0.3)
    x = torch.randn(2, 32, 9, 8, dtype=torch.float64)
    one, two = layer.channel.fc1.weight.flatten(1), layer.channel.fc2.weight.flatten(1)
    assert one.shape == (2, 32)
    gate = torch.sigmoid(sum(torch.relu(v @ one.T) @ two.T for v in (x.mean((2, 3)), x.amax((2, 3)))))
    gated = x * gate[:, :, None, None]
    summary = torch.stack([gated.mean(1), gated.amax(1)], dim=1)
    kernel = layer.spatial.conv.conv.weight
    windows = torch.nn.functional.pad(summary, (3, 3, 3, 3)).unfold(2, 7, 1).unfold(3, 7, 1)
    convolved = torch.einsum("nchwij,cij->nhw", windows, kernel[0])
    places = torch.sigmoid((convolved - 0.3) / (1 + 1e-5) ** 0.5)
    torch.testing.assert_close(layer(x), gated * places[:, None])


def test_layer_scale_multiplies_channels() -> None:
    layer = LayerScale2d(3, 0.5)
    with torch.no_grad():
        layer.gamma.copy_(torch.tensor([1.0, 2.0, 3.0]))
    out = layer(torch.ones(1, 3, 2, 2))
    assert out[0, :, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_unknown_names_are_errors() -> None:
    with pytest.raises(ValueError, match="did you mean 'prelu'"):
        create_activation("prellu", 4)
    with pytest.raises(ValueError, match="known: batch, layer, none"):
        create_norm2d("instance", 4)
