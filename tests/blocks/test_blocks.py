"""What every block of the registry promises, and what each paper asks of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import facezoo
from facezoo.blocks import (
    BLOCKS,
    BasicBlock,
    Bottleneck,
    InvertedResidual,
    IRBlock,
    IRBottleneck,
    create_block,
    create_shortcut,
)
from facezoo.blocks.residual import SHORTCUTS
from facezoo.layers import ConvNormAct, DropBlock2d, StochasticDepth

RESIDUAL = ["basic", "bottleneck", "ir", "ir_bottleneck", "inverted_residual", "regnet_y"]


@pytest.mark.parametrize("name", BLOCKS.list())
def test_every_block_is_described(name: str) -> None:
    assert len(BLOCKS.describe(name)) > 20


@pytest.mark.parametrize("name", [*RESIDUAL, "conv"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("widths", [(16, 16), (16, 32)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_stride_and_width(name: str, stride: int, widths: tuple[int, int], size: tuple[int, int]) -> None:
    block = create_block(name, *widths, stride=stride)
    out = block(torch.randn(2, widths[0], *size))
    assert out.shape == (2, widths[1], -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("name", [*RESIDUAL, "convnext"])
def test_zero_branch_leaves_the_shortcut(name: str) -> None:
    block = create_block(name, 16, 16).eval()
    with torch.no_grad():
        if name == "convnext":
            block.scale.gamma.zero_()
        elif name == "inverted_residual":
            block.project.norm.weight.zero_()
        else:
            block.last_norm.weight.zero_()
    x = torch.rand(2, 16, 6, 6)  # not negative: the final ReLU of the post-activation blocks changes nothing
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("name", [*RESIDUAL, "convnext"])
def test_dropped_branch_leaves_the_shortcut(name: str) -> None:
    block = create_block(name, 16, 16, drop_path=1.0)
    x = torch.rand(2, 16, 6, 6)
    torch.testing.assert_close(block(x), x)
    assert any(isinstance(module, StochasticDepth) for module in block.modules())


@pytest.mark.parametrize("name", ["basic", "bottleneck", "ir", "ir_bottleneck", "regnet_y"])
def test_drop_block_acts_after_every_convolution(name: str) -> None:
    block = create_block(name, 16, 16, drop_block=0.3)
    calls: list[int] = []
    for module in block.modules():
        if isinstance(module, DropBlock2d):
            module.register_forward_hook(lambda *_: calls.append(1))
    block(torch.rand(2, 16, 6, 6))
    convolutions = sum(isinstance(module, ConvNormAct) for module in block.modules())
    assert len(calls) == convolutions


@pytest.mark.parametrize("name", ["basic", "bottleneck", "ir", "ir_bottleneck"])
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_every_shortcut_fits_its_branch(name: str, shortcut: str) -> None:
    for widths, stride, size in (((16, 16), 2, (7, 5)), ((16, 32), 2, (8, 8)), ((16, 32), 1, (7, 5))):
        block = create_block(name, *widths, stride=stride, options={"shortcut": shortcut})
        assert block(torch.randn(2, 16, *size)).shape == (2, widths[1], -(-size[0] // stride), -(-size[1] // stride))
    assert isinstance(create_block(name, 16, 16, options={"shortcut": shortcut}).shortcut, nn.Identity)


def test_pooled_shortcut_averages_each_cell_and_a_subsampling_one_keeps_every_second_position() -> None:
    x = torch.rand(2, 16, 5, 4)
    pooled = create_shortcut("pooled", 16, 16, 2)
    cells = torch.stack([x[:, :, 0:2, 0:2].mean((2, 3)), x[:, :, 0:2, 2:4].mean((2, 3))], dim=-1)
    torch.testing.assert_close(pooled.pool(x)[:, :, 0], cells)
    torch.testing.assert_close(pooled.pool(x)[:, :, 2], x[:, :, 4].unflatten(-1, (2, 2)).mean(-1))
    assert torch.equal(create_shortcut("subsample", 16, 16, 2)(x), x[:, :, ::2, ::2])
    with pytest.raises(ValueError, match="did you mean 'pooled'"):
        create_shortcut("poled", 16, 16, 2)


def test_ir_bottleneck_strides_in_its_last_convolution() -> None:
    block = IRBottleneck(64, 256, stride=2)
    assert [unit.conv.stride[0] for unit in (block.conv1, block.conv2, block.conv3)] == [1, 1, 2]
    assert block.conv2.conv.in_channels == 64


def test_ir_block_may_have_no_norm_inside() -> None:
    block = IRBlock(16, 16, inner_norm=False)
    assert isinstance(block.conv1.norm, nn.Identity)
    assert block.conv1.conv.bias is None


def test_sphere_block_converts_first_where_the_shapes_change() -> None:
    block = create_block("sphere", 16, 32, stride=2)
    assert block(torch.randn(2, 16, 7, 5)).shape == (2, 32, 4, 3)
    assert isinstance(create_block("sphere", 16, 16).entry, nn.Identity)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())


def test_max_feature_blocks() -> None:
    group = create_block("mfm_group", 16, 24, stride=2)
    assert group(torch.randn(2, 16, 7, 4)).shape == (2, 24, 4, 2)
    assert (group.conv1.conv.out_channels, group.conv2.conv.out_channels) == (32, 48)
    residual = create_block("mfm_residual", 16, 16, drop_path=1.0)
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(residual(x), x)
    with pytest.raises(ValueError, match="transition='mfm_group'"):
        create_block("mfm_residual", 16, 24)
    assert create_block("mfm_stem", 1, 8, stride=2)(torch.randn(1, 1, 9, 9)).shape == (1, 8, 5, 5)
    both = create_block("mfm_stem", 1, 8, stride=2, options={"pool": "max_plus_mean"})
    x = torch.randn(1, 1, 9, 9)
    cells = both.conv(x)[:, :, :8, :8].unflatten(3, (4, 2)).unflatten(2, (4, 2))
    torch.testing.assert_close(both(x), cells.amax((3, 5)) + cells.mean((3, 5)))
    with pytest.raises(ValueError, match="'max' or 'max_plus_mean'"):
        create_block("mfm_group", 16, 24, options={"pool": "mean"})


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 1), (1, 2)])
def test_inception_reduction_and_stem_say_their_map_size(padded: bool, stride: int, dilation: int) -> None:
    branches = (((8, 3),), ((4, 1), (4, 3), (6, 3)))
    block = create_block(
        "inception_reduction",
        10,
        24,
        stride=stride,
        dilation=dilation,
        options={"branches": branches, "padded": padded},
    )
    for size in ((9, 12), (10, 11)):
        out = block(torch.randn(1, 10, *size))
        assert out.shape == (1, 24, *block.map_size(size))
        if padded:
            assert block.map_size(size) == (-(-size[0] // stride), -(-size[1] // stride))
    stem = create_block("inception_stem", 3, 12, stride=4 * stride, options={"padded": padded})
    for size in ((75, 96), (80, 81)):
        assert stem(torch.randn(1, 3, *size)).shape == (1, 12, *stem.map_size(size))
    with pytest.raises(ValueError, match="make 24 channels, not 25"):
        create_block("inception_reduction", 10, 25, options={"branches": branches})
    with pytest.raises(ValueError, match="stride is 4 or 8"):
        create_block("inception_stem", 3, 12, stride=2)


def test_inception_residual_keeps_width_and_drops_its_branches() -> None:
    options = {"branches": (((4, 1),), ((4, 1), (6, (1, 7)), (6, (7, 1)))), "scale": 0.5, "act": "none"}
    x = torch.randn(2, 16, 9, 9)
    dropped = create_block("inception_residual", 16, 16, drop_path=1.0, options=options)
    torch.testing.assert_close(dropped(x), x)
    block = create_block("inception_residual", 16, 16, options=options).eval()
    torch.testing.assert_close(
        block(x) - x, 0.5 * block.project(torch.cat([branch(x) for branch in block.branches], 1))
    )
    with pytest.raises(ValueError, match="transition='inception_reduction'"):
        create_block("inception_residual", 16, 24, options=options)


def test_dense_block_keeps_what_came_in_and_converts_only_where_it_must() -> None:
    x = torch.randn(2, 16, 9, 8)
    block = create_block("dense", 16, 40, options={"layers": 3, "growth": 8})
    assert isinstance(block.transition, nn.Identity)
    out = block(x)
    assert torch.equal(out[:, :16], x)
    torch.testing.assert_close(out[:, :32], block.layers[:2](x))
    halved = create_block("dense", 16, 32, stride=2, options={"layers": 3, "growth": 8})
    assert halved.transition.conv.out_channels == 8
    assert halved(x).shape == (2, 32, 4, 4)
    assert create_block("dense", 16, 40, dilation=2, options={"layers": 3, "growth": 8})(x).shape == (2, 40, 9, 8)
    with pytest.raises(ValueError, match="leave none of 24"):
        create_block("dense", 16, 24, options={"layers": 3, "growth": 8})


@pytest.mark.parametrize(
    ("widths", "stride", "dilation", "groups"),
    [((16, 16), 1, 1, 1), ((16, 16), 1, 2, 4), ((16, 24), 1, 1, 1), ((16, 16), 2, 1, 2)],
)
def test_a_merged_repvgg_block_is_the_same_function(
    widths: tuple[int, int], stride: int, dilation: int, groups: int
) -> None:
    block = create_block("repvgg", *widths, stride=stride, dilation=dilation, options={"groups": groups}).double()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.2, 2.0)
    assert (block.identity is not None) == (stride == 1 and widths[0] == widths[1])
    with pytest.raises(RuntimeError, match="evaluation mode"):
        block.reparameterise()
    block.eval()
    x = torch.randn(2, 16, 9, 8, dtype=torch.float64)
    expected = block(x)
    block.reparameterise()
    block.reparameterise()
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)
    assert set(block.state_dict()) == {"merged.weight", "merged.bias"}
    assert block.merged.weight.dtype == torch.float64


def test_regnet_block_squeezes_by_the_input() -> None:
    block = create_block("regnet_y", 32, 48, stride=2)
    assert block.attention.fc1.out_channels == 8
    assert block.conv2.conv.groups == 6
    assert block(torch.randn(2, 32, 7, 8)).shape == (2, 48, 4, 4)
    with pytest.raises(ValueError, match="not a multiple of group_width=9"):
        create_block("regnet_y", 32, 48, options={"group_width": 9})


def test_conv_pool_pools_at_its_end() -> None:
    block = create_block("conv_pool", 8, 16, stride=2, options={"convs": 2})
    assert block(torch.randn(1, 8, 9, 8)).shape == (1, 16, 4, 4)
    assert [unit.conv.bias is not None for unit in block.convs] == [True, True]
    pool_only = create_block("conv_pool", 8, 8, stride=2, options={"convs": 0})
    assert not list(pool_only.parameters())


def test_deep_stem_strides_first() -> None:
    stem = create_block("deep_stem", 3, 64, stride=4, options={"max_pool": True})
    assert [unit.conv.stride[0] for unit in (stem.conv1, stem.conv2, stem.conv3)] == [2, 1, 1]
    assert stem(torch.randn(1, 3, 112, 97)).shape == (1, 64, 28, 25)
    assert create_block("deep_stem", 3, 64)(torch.randn(1, 3, 9, 9)).shape == (1, 64, 9, 9)


def test_bottleneck_strides_in_its_3x3() -> None:
    block = Bottleneck(64, 256, stride=2)
    assert (block.conv1.conv.stride, block.conv2.conv.stride) == ((1, 1), (2, 2))
    assert block.conv2.conv.in_channels == 64


def test_ir_block_strides_in_its_second_3x3_and_ends_without_activation() -> None:
    block = IRBlock(16, 16, stride=2)
    assert (block.conv1.conv.stride, block.conv2.conv.stride) == ((1, 1), (2, 2))
    assert bool((IRBlock(16, 16)(torch.randn(4, 16, 6, 6)) < 0).any())
    assert bool((BasicBlock(16, 16)(torch.randn(4, 16, 6, 6)) >= 0).all())


def test_inverted_residual_projects_linearly_and_skips_an_expansion_of_one() -> None:
    assert isinstance(InvertedResidual(16, 8, expansion=1).expand, nn.Identity)
    assert not isinstance(InvertedResidual(16, 8, inner_chans=16).expand, nn.Identity)
    assert bool((InvertedResidual(16, 8)(torch.randn(4, 16, 6, 6)) < 0).any())
    assert not InvertedResidual(16, 16, residual=False).has_shortcut


@pytest.mark.parametrize("attention", ["none", "se", "se_without_bias", "eca", "cbam"])
@pytest.mark.parametrize("name", ["basic", "bottleneck", "ir", "ir_bottleneck"])
def test_attention_is_on_the_branch_only(name: str, attention: str) -> None:
    block = create_block(name, 32, 32, options={"attention": attention}).eval()
    with torch.no_grad():
        block.last_norm.weight.zero_()
    x = torch.rand(2, 32, 6, 6)
    torch.testing.assert_close(block(x), x)


@pytest.mark.parametrize("name", [*RESIDUAL, "convnext"])
def test_dilation_keeps_the_size(name: str) -> None:
    assert create_block(name, 16, 16, dilation=2)(torch.randn(1, 16, 9, 9)).shape == (1, 16, 9, 9)


def test_unknown_block_and_unknown_option_say_what_there_is() -> None:
    with pytest.raises(KeyError, match="did you mean 'bottleneck'"):
        create_block("botleneck", 16, 16)
    with pytest.raises(ValueError, match=r"block 'basic': unknown argument 'attentoin'; did you mean 'attention'"):
        create_block("basic", 16, 16, options={"attentoin": "se"})
    with pytest.raises(ValueError, match="block 'convnext': unknown argument 'stride'"):
        create_block("convnext", 16, 16, stride=2)
    with pytest.raises(ValueError, match="unknown attention 'cban'; did you mean 'cbam'"):
        create_block("basic", 16, 16, options={"attention": "cban"})
    with pytest.raises(ValueError, match="keeps its width"):
        create_block("convnext", 16, 32)


def test_a_third_party_block_goes_through_the_same_door() -> None:
    @facezoo.register_block("test_linear_block")
    class LinearBlock(nn.Module):
        """A 1×1 convolution."""

        def __init__(self, in_chans: int, out_chans: int, *, stride: int = 1) -> None:
            super().__init__()
            self.conv = nn.Conv2d(in_chans, out_chans, 1, stride=stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    try:
        assert create_block("test_linear_block", 3, 4, stride=2)(torch.randn(1, 3, 4, 4)).shape == (1, 4, 2, 2)
        assert BLOCKS.describe("test_linear_block") == "A 1×1 convolution."
        with pytest.raises(ValueError, match="registered already"):
            facezoo.register_block("test_linear_block", nn.Identity)
    finally:
        BLOCKS.unregister("test_linear_block")
