"""A fused network computes what the network computed, without its batch norms."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import facezoo
from choosing import others_in_ci
from facezoo.blocks import BLOCKS
from facezoo.deploy import FusedFaceNetwork, FusedFeatureNetwork, remaining_norms
from facezoo.evaluation.calibration import network_fingerprint
from facezoo.layers import BorderBiasConv2d
from facezoo.models import MODELS, FaceNetwork, HeadSpec, ModelSpec, StageSpec, StemSpec, stage
from facezoo.profile import profile_network

AsTrained = Callable[..., nn.Module]
# Norms between a concatenation and an activation have no layer to go into.
KEEPS_NORMS = ("densenet",)


def smallest_of_each_family() -> list[str]:
    """By a rough count that needs no construction."""
    smallest: dict[str, tuple[int, str]] = {}
    for name, spec in ((name, MODELS[name]) for name in MODELS.list()):
        if not spec.family.startswith("tiny"):  # those of other tests
            size = sum(stage.depth * stage.width**2 for stage in spec.stages)
            smallest[spec.family] = min(smallest.get(spec.family, (size, name)), (size, name))
    return sorted(name for _, name in smallest.values())


def relative_difference(result: Tensor, expected: Tensor) -> float:
    """Of float64 or float32 outputs, over the biggest of ``expected``."""
    return float(((result - expected).abs().max() / expected.abs().max()).detach())


def little(
    *stages: StageSpec, head: HeadSpec | None = None, in_chans: int = 3, img_size: int = 16, **options: object
) -> FaceNetwork:
    """A network of one's own stages on small images, with a classifier."""
    spec = ModelSpec(
        name="little",
        family="tiny",
        stems={"face": StemSpec("conv_stem", width=8, stride=1, stage_strides=(2,) * len(stages))},
        stages=stages,
        head=head or HeadSpec(),
        init="mobilefacenet",
        paper="none",
        description="for tests",
    )
    return FaceNetwork(spec, num_classes=5, embedding_dim=6, in_chans=in_chans, img_size=img_size, **options)


IR_HEAD = HeadSpec("norm", {"map_norm": "batch", "bias": True, "norm": "batch_frozen_scale"}, global_pool="flatten")


SMALLEST = smallest_of_each_family()
# They take half of the time.
LARGE = {"inception_resnet_v1", "resnext50_32x4d", "ir_18", "swin_tiny", "densenet121", "sphereface20"}


@pytest.mark.parametrize("name", others_in_ci(SMALLEST, set(SMALLEST) - LARGE))
@torch.no_grad()
def test_the_smallest_of_every_family(name: str, as_trained: AsTrained) -> None:
    """To 1e-5, or as near to the exact output as the network itself comes: random weights may be ill-conditioned."""
    torch.manual_seed(0)
    model = as_trained(facezoo.create_model(name, num_classes=7))
    fused = facezoo.fuse(model)
    images = torch.randn(1, 3, 112, 112)
    maps, fused_maps = model.forward_features(images), fused.forward_features(images)
    embeddings, fused_embeddings = (
        model.forward_head(maps, pre_logits=True),
        fused.forward_head(fused_maps, pre_logits=True),
    )
    exact = model.double()(images.double())
    own_error = relative_difference(model.float().classifier(embeddings), exact)
    assert relative_difference(fused.classifier(fused_embeddings), exact) < max(1e-5, 5 * own_error)
    assert relative_difference(fused_maps, maps) < max(2e-5, 10 * own_error)
    assert own_error < 1e-3
    assert name.startswith(KEEPS_NORMS) or not remaining_norms(fused)


@pytest.mark.parametrize("name", [name for name in MODELS.list() if not MODELS[name].family.startswith("tiny")])
@pytest.mark.slow
def test_every_network_in_double_precision(name: str, as_trained: AsTrained) -> None:
    torch.manual_seed(0)
    model = as_trained(facezoo.create_model(name)).double()
    images = torch.randn(1, 3, 112, 112, dtype=torch.float64)
    with torch.inference_mode():
        assert relative_difference(facezoo.fuse(model)(images), model(images)) < 1e-10


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("block", ["ir", "basic", "bottleneck", "inverted_residual", "conv"])
def test_exact_in_double_precision_with_strides_and_dilation(block: str, stride: int, as_trained: AsTrained) -> None:
    torch.manual_seed(1)
    stages = tuple(stage(block, 2, width) for width in (8, 16, 16, 24))
    head = IR_HEAD if block == "ir" else HeadSpec("conv", {"width": 12, "act": "prelu"}, global_pool="gdc")
    model = as_trained(little(*stages, head=head, img_size=32, output_stride=stride)).double()
    fused = facezoo.fuse(model)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    assert remaining_norms(model)
    assert remaining_norms(fused) == []
    assert relative_difference(fused(images), model(images)) < 1e-12
    assert any(isinstance(module, BorderBiasConv2d) for module in fused.modules()) == (block == "ir")


def test_the_border_of_another_map_size(as_trained: AsTrained) -> None:
    model = as_trained(little(stage("ir", 2, 8, {"attention": "se"}))).double()
    fused = facezoo.fuse(model)
    for size in ((16, 16), (12, 20), (7, 9)):
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        assert relative_difference(fused(images), model(images)) < 1e-12


def test_memory_format_dtype_and_channels_stay(as_trained: AsTrained) -> None:
    model = as_trained(little(stage("ir", 2, 8), head=IR_HEAD, in_chans=1)).to(memory_format=torch.channels_last)
    fused = facezoo.fuse(model)
    images = torch.randn(3, 1, 16, 16).contiguous(memory_format=torch.channels_last)
    assert relative_difference(fused(images), model(images)) < 1e-5
    weight = fused.stages[0].blocks[1].conv1.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert fused(images).dtype == torch.float32
    half = facezoo.fuse(model.to(torch.bfloat16))
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half(images.bfloat16()).dtype == torch.bfloat16


def test_the_network_is_left_alone_and_all_it_has_is_there(as_trained: AsTrained) -> None:
    model = as_trained(little(stage("ir", 1, 8), head=IR_HEAD)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fused = facezoo.fuse(model)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.stages.parameters())
    assert isinstance(fused, FusedFaceNetwork)
    assert not any(module.training for module in fused.modules())
    assert not any(parameter.requires_grad for parameter in fused.parameters())
    assert (fused.embedding_dim, fused.num_classes, fused.preprocessing, fused.config, fused.spec, fused.feature_info) == (
        model.embedding_dim, model.num_classes, model.preprocessing, model.config, model.spec, model.feature_info,
    )  # fmt: skip
    images = torch.randn(2, 3, 16, 16)
    assert fused.embed(images).shape == (2, 6)
    assert fused(images).shape == (2, 5)


def test_a_fused_network_takes_the_galleries_of_the_network(as_trained: AsTrained) -> None:
    model = as_trained(little(stage("ir", 1, 8), head=IR_HEAD))
    fused = facezoo.fuse(model)
    assert network_fingerprint(fused) == network_fingerprint(facezoo.fuse(fused)) == network_fingerprint(model)
    assert network_fingerprint(copy.deepcopy(fused)) == network_fingerprint(model)
    assert network_fingerprint(facezoo.fuse(as_trained(model, seed=1))) != network_fingerprint(fused)
    assert network_fingerprint(facezoo.fuse(copy.deepcopy(model).to("meta"))) is None


def test_training_is_refused(as_trained: AsTrained) -> None:
    fused = facezoo.fuse(little(stage("conv", 1, 8)))
    with pytest.raises(RuntimeError, match=r"call facezoo\.fuse again"):
        fused.train()
    assert fused.eval() is fused
    assert fused.train(False) is fused
    assert not fused.training


def test_fusing_pickling_and_saving_what_is_fused(as_trained: AsTrained) -> None:
    fused = facezoo.fuse(as_trained(little(stage("ir", 2, 8), head=IR_HEAD)))
    images = torch.randn(2, 3, 16, 16)
    expected = fused(images)
    assert torch.equal(facezoo.fuse(fused)(images), expected)
    assert torch.equal(pickle.loads(pickle.dumps(fused))(images), expected)
    other = facezoo.fuse(as_trained(little(stage("ir", 2, 8), head=IR_HEAD), seed=1))
    assert not torch.equal(other(images), expected)
    other.load_state_dict(fused.state_dict())
    assert torch.equal(other(images), expected)


def test_maps_of_every_stage(as_trained: AsTrained) -> None:
    torch.manual_seed(0)
    model = as_trained(facezoo.create_model("iresnet18", features_only=True, out_indices=(0, 2), img_size=32)).double()
    fused = facezoo.fuse(model)
    assert isinstance(fused, FusedFeatureNetwork)
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    for result, expected in zip(fused(images), model(images), strict=True):
        assert relative_difference(result, expected) < 1e-12
    assert remaining_norms(fused) == []


def test_no_dropping_in_a_fused_network(as_trained: AsTrained) -> None:
    stages = (stage("basic", 2, 8), stage("ir", 2, 8))
    model = as_trained(little(*stages, drop_rate=0.5, drop_path_rate=0.5, drop_block_rate=0.3)).double()
    fused = facezoo.fuse(model)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert relative_difference(fused(images), model(images)) < 1e-12
    assert remaining_norms(fused) == []


def test_what_is_no_network_of_facezoo() -> None:
    with pytest.raises(TypeError, match="got Sequential"):
        facezoo.fuse(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    with pytest.raises(TypeError, match="got OptimizedModule"):
        facezoo.fuse(torch.compile(little(stage("conv", 1, 8))))


# -- neighbors that must not be folded, and those that take a second look ---------------------------------------------------


class _Odd(nn.Module):
    """What a third party may write; every case is exact or left alone."""

    def __init__(self, in_chans: int, out_chans: int, *, case: str, stride: int = 1) -> None:
        super().__init__()
        self.case = case
        self.conv = nn.Conv2d(
            in_chans, out_chans, 3, stride, padding=1, padding_mode="reflect" if case == "reflect" else "zeros"
        )
        self.second = nn.Conv2d(in_chans, out_chans, 1, stride)
        self.norm = nn.BatchNorm2d(
            in_chans if case in ("front twice", "reflect") else out_chans * (1 + (case == "cat"))
        )
        self.project = nn.Conv2d(2 * out_chans, out_chans, (3, 1), padding="same") if case == "cat" else None
        if case == "batch statistics":
            self.norm = nn.BatchNorm2d(out_chans, track_running_stats=False)
        if case == "same weight":
            self.second = nn.Conv2d(in_chans, out_chans, 3, stride, padding=1)
            self.second.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.case == "behind twice":  # the convolution's own output is used as well
            y = self.conv(x)
            return self.norm(y) + y
        if self.case == "front twice":
            y = self.norm(x)
            return self.conv(y) + self.second(y)
        if self.case == "norm twice":
            return self.norm(self.conv(x)) + self.norm(self.second(x))
        if self.case == "in place between":
            return self.norm(torch.relu_(self.conv(x)))
        if self.case == "cat":
            return self.project(self.norm(torch.cat([self.conv(x), self.second(x)], dim=1)))
        if self.case == "one above the other":
            return self.norm(torch.cat([self.conv(x), self.second(x)], dim=2))
        if self.case == "layer twice":
            return self.norm(self.conv(x)) + self.conv(x.flip(-1))
        if self.case == "same weight":
            return self.norm(self.conv(x)) + self.second(x)
        if self.case == "reflect":
            return self.conv(self.norm(x)) + self.second(x)
        return self.norm(self.conv(x))


@pytest.mark.parametrize(
    ("case", "stays"),
    [
        ("behind twice", True),
        ("front twice", True),
        ("norm twice", True),
        ("in place between", True),
        ("same weight", True),
        ("one above the other", True),
        ("layer twice", True),
        ("cat", False),
        ("reflect", True),  # padding is a call of its own
        ("plain", False),
    ],
)
def test_third_party_blocks(case: str, stays: bool, as_trained: AsTrained) -> None:
    BLOCKS.register("odd_block", _Odd)
    try:
        model = as_trained(little(stage("odd_block", 1, 12, {"case": case}))).double()
    finally:
        BLOCKS.unregister("odd_block")
    fused = facezoo.fuse(model)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert relative_difference(fused(images), model(images)) < 1e-12
    assert relative_difference(fused.forward_features(images), model.forward_features(images)) < 1e-12
    assert ("stages.0.blocks.0.norm" in remaining_norms(fused)) == stays


def test_a_norm_that_follows_the_batch_is_left_alone(as_trained: AsTrained) -> None:
    BLOCKS.register("odd_block", _Odd)
    try:
        model = as_trained(little(stage("odd_block", 1, 12, {"case": "plain"})))
    finally:
        BLOCKS.unregister("odd_block")
    model.stages[0].blocks[0].norm = nn.BatchNorm2d(12, track_running_stats=False).eval()
    assert remaining_norms(facezoo.fuse(model)) == ["stages.0.blocks.0.norm"]


def test_maps_that_are_shown_are_not_changed(as_trained: AsTrained) -> None:
    """The last map is shown by forward_features: the norm of the head must not go into the stage's convolution."""
    BLOCKS.register("bare_conv", lambda in_chans, out_chans, *, stride=1: nn.Conv2d(in_chans, out_chans, 3, stride, 1))
    try:
        model = as_trained(little(stage("bare_conv", 1, 12), head=IR_HEAD)).double()
    finally:
        BLOCKS.unregister("bare_conv")
    fused = facezoo.fuse(model)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert relative_difference(fused.forward_features(images), model.forward_features(images)) < 1e-14
    assert relative_difference(fused(images), model(images)) < 1e-12
    assert remaining_norms(fused) == []  # it went into the linear layer behind it


def test_blocks_that_reparameterise_do() -> None:
    class Branches(nn.Module):
        def __init__(self, in_chans: int, out_chans: int, *, stride: int = 1) -> None:
            super().__init__()
            self.one, self.two = (nn.Conv2d(in_chans, out_chans, 1, stride, bias=False) for _ in range(2))
            self.merged: nn.Conv2d | None = None

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x) if self.merged is None else self.merged(x)

        def reparameterise(self) -> None:
            assert not self.training
            self.merged = copy.deepcopy(self.one)
            self.merged.weight.data += self.two.weight.data

    BLOCKS.register("branches", Branches)
    try:
        model = little(stage("branches", 1, 8)).eval()
    finally:
        BLOCKS.unregister("branches")
    fused = facezoo.fuse(model)
    assert fused.stages[0].blocks[0].merged is not None
    assert model.stages[0].blocks[0].merged is None
    images = torch.randn(2, 3, 16, 16)
    assert relative_difference(fused(images), model(images)) < 1e-5


def test_synchronized_norms_are_folded_like_others(as_trained: AsTrained) -> None:
    model = as_trained(little(stage("ir", 2, 8), head=IR_HEAD)).double()
    expected = model.eval().embed(torch.ones(2, 3, 16, 16).double())
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    fused = facezoo.fuse(synchronized)
    assert remaining_norms(fused) == []
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synchronized.modules())
    torch.testing.assert_close(fused.embed(torch.ones(2, 3, 16, 16).double()), expected)


def test_hooks_of_a_user_are_not_called_on_shapes(as_trained: AsTrained) -> None:
    model = as_trained(little(stage("conv", 1, 8)))
    model.stages[0].register_forward_hook(
        lambda module, inputs, output: output.sum().item()
    )  # a meta tensor has no item
    facezoo.fuse(model)
    assert profile_network(model).params
