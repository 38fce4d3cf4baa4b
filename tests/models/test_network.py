"""Construction and its errors, heads, features, drops, listing; what holds for every network is in ``test_contract.py``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import facezoo
import tiny_faces  # noqa: F401  (registers tiny_face)
from facezoo.models import (
    BlockSpec,
    FaceNetwork,
    HeadSpec,
    ModelSpec,
    StageSpec,
    StemSpec,
    get_model_spec,
    register_model,
    stage,
)
from facezoo.models.factory import MODELS
from facezoo.models.init import Draw, fill_
from facezoo.registry import DuplicateNameError


def images(count: int = 2, size: int = 112, chans: int = 3) -> torch.Tensor:
    return torch.randn(count, chans, size, size, generator=torch.Generator().manual_seed(0))


def test_layer_decay_is_deepest_at_the_stem_and_one_at_the_head() -> None:
    model = facezoo.create_model("resnet18", num_classes=3)
    scale_of = {id(p): group["lr_scale"] for group in model.parameter_groups(0.1, 0.5) for p in group["params"]}
    assert scale_of[id(model.classifier.weight)] == 1.0
    assert scale_of[id(model.head.embedding.weight)] == 1.0
    assert scale_of[id(model.stages[3].blocks[1].conv1.conv.weight)] == 0.5
    assert scale_of[id(model.stem.conv.conv.weight)] == 0.5**9
    with pytest.raises(ValueError, match="layer_decay"):
        model.parameter_groups(0.1, 1.5)


def test_reset_classifier_keeps_everything_else() -> None:
    model = facezoo.create_model("hw2p2_cnn", num_classes=5, embedding_dim=16).eval()
    before = model.embed(images())
    model.reset_classifier(8)
    assert model(images()).shape == (2, 8)
    assert model.config["num_classes"] == 8
    torch.testing.assert_close(model.embed(images()), before)
    model.reset_classifier(0)
    torch.testing.assert_close(model(images()), before)


def test_without_embedding_the_classifier_sits_on_the_pooled_features() -> None:
    model = facezoo.create_model("resnet18", embedding_dim=None, num_classes=10, stem="imagenet")
    assert model.embedding_dim == model.num_features == 512
    assert model.classifier.in_features == 512
    assert "head.embedding.weight" not in model.state_dict()


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "gem", "gdc", "flatten"])
def test_global_pool_is_a_choice(pool: str) -> None:
    model = facezoo.create_model("hw2p2_cnn", global_pool=pool, embedding_dim=8)
    assert model(images()).shape == (2, 8)


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet"])
def test_a_head_with_a_weight_per_position_names_the_way_out(name: str) -> None:
    model = facezoo.create_model(name).eval()
    with pytest.raises(ValueError, match=r"expects a 7×7 map but got 10×10: create the model with img_size="):
        model(images(1, 160))
    assert facezoo.create_model(name, img_size=128).eval()(images(1, 128)).shape == (1, 512)


@pytest.mark.parametrize(
    ("name", "stem", "output_stride"),
    [("resnet50", "imagenet", 8), ("resnet18", "face", 8), ("iresnet18", "face", 8), ("convnext_tiny", "face", 8)],
)
def test_output_stride_dilates_and_keeps_the_weights(name: str, stem: str, output_stride: int) -> None:
    with torch.device("meta"):
        plain = facezoo.create_model(name, stem=stem, global_pool="avg")
        dilated = facezoo.create_model(name, stem=stem, global_pool="avg", output_stride=output_stride)
        features = dilated.forward_features(torch.empty(1, 3, 112, 112))
    assert features.shape[-1] == 112 // output_stride
    ours = {k: v.shape for k, v in plain.state_dict().items() if "shortcut" not in k}
    theirs = {k: v.shape for k, v in dilated.state_dict().items() if "shortcut" not in k}
    assert ours == theirs


def test_dilated_resnet50_equals_torchvisions() -> None:
    from torchvision.models import resnet50

    dilated = facezoo.create_model("resnet50", stem="imagenet", embedding_dim=None, output_stride=8)
    theirs = resnet50(replace_stride_with_dilation=[False, True, True])
    ours = [m for m in dilated.modules() if isinstance(m, nn.Conv2d)]
    others = [m for m in theirs.modules() if isinstance(m, nn.Conv2d)]

    def signature(conv: nn.Conv2d) -> tuple[object, ...]:
        return (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.dilation, conv.padding)

    assert sorted(map(signature, ours)) == sorted(map(signature, others))


def test_impossible_output_stride_lists_the_possible_ones() -> None:
    with pytest.raises(ValueError, match=r"output_stride of \[1, 2, 4, 8, 16\], got 32"):
        facezoo.create_model("resnet18", output_stride=32)


def test_features_only_builds_no_more_than_it_needs() -> None:
    full = facezoo.create_model("resnet18")
    features = facezoo.create_model("resnet18", features_only=True, out_indices=(1, -3))
    assert len(features.stages) == 2
    features.load_state_dict({k: v for k, v in full.state_dict().items() if k in features.state_dict()})
    features.eval()
    full.eval()
    with torch.inference_mode():
        maps = list(full.forward_stages(images()))
        got = features(images())
    assert [info["reduction"] for info in features.feature_info] == [4, 4]
    torch.testing.assert_close(got[0], maps[1])
    torch.testing.assert_close(got[1], maps[1])


def test_drop_path_rates_grow_over_the_whole_network() -> None:
    model = facezoo.create_model("convnext_tiny", drop_path_rate=0.2)
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.2 * index / 17 for index in range(18)])


def test_drop_block_sits_in_the_last_two_stages_and_follows_its_schedule() -> None:
    model = facezoo.create_model("resnet18", drop_block_rate=0.2)
    rates = [getattr(stage.blocks[0].drop_block, "drop_prob", 0.0) for stage in model.stages]
    assert rates == pytest.approx([0.0, 0.0, 0.05, 0.2])
    model.set_drop_block_progress(0.5)
    assert float(model.stages[3].blocks[0].drop_block.current) == pytest.approx(0.1)
    assert float(model.stages[2].blocks[0].drop_block.current) == pytest.approx(0.025)
    assert model(images()).shape == (2, 512)


def test_drop_rate_acts_before_the_embedding() -> None:
    torch.manual_seed(0)
    model = facezoo.create_model("hw2p2_cnn", drop_rate=0.5).train()
    model.head.embedding_norm.eval()
    pooled = torch.ones(1, 1024, 7, 7)
    zeros = model.head.dropout(model.head.pool(pooled))
    assert 0.4 < float((zeros == 0).float().mean()) < 0.6


def test_frozen_scale_of_iresnet_is_not_trained_but_counted() -> None:
    model = facezoo.create_model("iresnet18")
    assert not model.head.embedding_norm.weight.requires_grad
    assert bool((model.head.embedding_norm.weight == 1).all())
    ids = {id(p) for group in model.parameter_groups(0.1) for p in group["params"]}
    assert id(model.head.embedding_norm.weight) not in ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["resnet18", "mobilefacenet"])
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    model = facezoo.create_model(name, embedding_dim=8).to(dtype).eval()
    with torch.inference_mode():
        assert model(images().to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": -1}, "num_classes is an integer of at least 0"),
        ({"num_classes": 2.5}, "num_classes"),
        ({"embedding_dim": 0}, "embedding_dim is an integer of at least 1"),
        ({"in_chans": 0}, "in_chans"),
        ({"img_size": (112,)}, "img_size is one side or"),
        ({"stem": "Face"}, "no stem 'Face'"),
        ({"global_pool": "mean"}, "unknown global_pool 'mean'"),
        ({"drop_rate": 1.0}, "drop_rate is a probability"),
        ({"drop_path_rate": -0.1}, "drop_path_rate is a probability"),
        ({"drop_block_rate": 1.0}, "drop_block_rate is a probability"),
        ({"pretrained": True}, "several sets of weights; choose"),
        ({"out_indices": (0,)}, "goes with features_only=True"),
        ({"features_only": True, "num_classes": 3}, "features_only has no head"),
        ({"features_only": True, "out_indices": (4,)}, "4 stages"),
        ({"features_only": True, "out_indices": ()}, "4 stages"),
    ],
)
def test_bad_arguments_name_themselves(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        facezoo.create_model("resnet18", **arguments)


def test_a_drop_that_no_block_knows_is_an_error() -> None:
    with pytest.raises(ValueError, match="no block of hw2p2_cnn knows drop_path"):
        facezoo.create_model("hw2p2_cnn", drop_path_rate=0.1)
    with pytest.raises(ValueError, match="no block of convnext_tiny knows drop_block"):
        facezoo.create_model("convnext_tiny", drop_block_rate=0.1)
    assert facezoo.create_model("mobilefacenet", drop_path_rate=0.1)(images()).shape == (2, 512)


def test_unknown_argument_and_unknown_name() -> None:
    with pytest.raises(TypeError, match="drop_path_ratio"):
        facezoo.create_model("resnet18", drop_path_ratio=0.1)
    with pytest.raises(KeyError, match="unknown model 'se_resnet5o'; did you mean 'se_resnet50'"):
        facezoo.create_model("se_resnet5o")
    assert not facezoo.is_model("resnet19")
    assert facezoo.is_model("resnet18")


def test_wrong_input_says_what_is_expected() -> None:
    model = facezoo.create_model("hw2p2_cnn")
    with pytest.raises(ValueError, match=r"shape \(N, 3, H, W\), got \(2, 1, 112, 112\)"):
        model(images(chans=1))
    with pytest.raises(ValueError, match="expected images of shape"):
        model(torch.randn(3, 112, 112))
    with pytest.raises(TypeError, match=r"got torch.uint8: divide by 255"):
        model(torch.zeros(1, 3, 112, 112, dtype=torch.uint8))


def test_list_models_by_wildcard_family_and_budget() -> None:
    plain = [f"resnet{depth}" for depth in (18, 34, 50, 101, 152, 200)]
    assert facezoo.list_models("resnet*", exclude=["*c", "*d", "*_v1", "*_x0_5", "*_tiny"]) == plain
    assert facezoo.list_models(["iresnet1*", "mobilefacenet*"], exclude="*_paper") == [
        "iresnet18",
        "iresnet100",
        "mobilefacenet",
        "mobilefacenet_foamliu",
        "mobilefacenet_large",
    ]
    small = facezoo.list_models("convnext_*", family="convnext", exclude="*_p2", max_params=7e6)
    assert small == ["convnext_atto", "convnext_femto"]
    patterns = ["resnet*", "se_resnet*"]
    within = facezoo.list_models(patterns, max_params=30e6, num_classes=8631)
    assert "resnet50" in within
    assert "se_resnet50" not in within
    assert "se_resnet50" in facezoo.list_models(patterns, max_params=30e6, num_classes=8631, embedding_dim=256)
    assert all("imagenet" in get_model_spec(name).stems for name in facezoo.list_models(stem="imagenet"))
    assert "iresnet50" not in facezoo.list_models(stem="imagenet")


@given(
    widths=st.lists(st.integers(1, 4).map(lambda n: 8 * n), min_size=1, max_size=4),
    depth=st.integers(1, 2),
    stem_stride=st.sampled_from([1, 2]),
    attention=st.sampled_from(["none", "se"]),
    size=st.integers(17, 40),
)
@settings(max_examples=25, deadline=None)
def test_any_spec_of_known_blocks_builds_and_runs(
    widths: list[int], depth: int, stem_stride: int, attention: str, size: int
) -> None:
    spec = ModelSpec(
        name="generated",
        family="test",
        stems={"face": StemSpec("conv_stem", 8, stem_stride, (2,) * len(widths))},
        stages=tuple(stage("basic", depth, width, {"attention": attention}) for width in widths),
        head=get_model_spec("resnet18").head,
        init="resnet",
        paper="none",
        description="generated",
    )
    model = FaceNetwork(spec, embedding_dim=4, img_size=size).eval()
    out = model(torch.randn(2, 3, size, size))
    assert out.shape == (2, 4)
    assert model.forward_features(torch.randn(1, 3, size, size)).shape[-1] == model.head.map_size[1]


def test_a_third_party_spec_is_listed_profiled_and_built() -> None:
    spec = dataclasses.replace(get_model_spec("resnet18"), name="test_resnet18_gem")
    try:
        assert register_model(spec) is spec
        assert "test_resnet18_gem" in facezoo.list_models("*gem")
        assert facezoo.profile_model("test_resnet18_gem").params == facezoo.profile_model("resnet18").params
        with pytest.raises(DuplicateNameError, match="registered already"):
            register_model(dataclasses.replace(spec, paper="other"))
    finally:
        MODELS.unregister("test_resnet18_gem")


def test_spec_with_wrong_number_of_strides_is_refused() -> None:
    spec = get_model_spec("resnet18")
    with pytest.raises(ValueError, match="4 stage strides for 3 stages"):
        dataclasses.replace(spec, stages=spec.stages[:3])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadSpec("liner"), "did you mean 'linear'"),
        (lambda: HeadSpec("norm", {"map_nrom": "batch"}), "did you mean 'map_norm'"),
        (lambda: HeadSpec("conv", {"map_norm": "batch"}), "map_norm"),  # of another head
        (lambda: HeadSpec(global_pool="averge"), "unknown global_pool"),
        (lambda: BlockSpec("conv", 0), "depth"),
        (lambda: StageSpec(8, ()), "at least one BlockSpec"),
        (lambda: StageSpec(8, (BlockSpec("conv"),), tokens="token"), "tokens"),  # type: ignore[arg-type]
        (lambda: HeadSpec("norm", {"map_norm": "group"}), "unknown map_norm 'group'"),
        (lambda: HeadSpec("linear", {"norm": "layr"}), "did you mean 'layer'"),
        (lambda: HeadSpec("linear", {"act": "rellu"}), "did you mean 'relu'"),
        (
            lambda: BlockSpec("basic", 2, {"attention": "so"}),
            "block 'basic': unknown attention 'so'; known: cbam",
        ),
        (lambda: BlockSpec("basic", 2, {"atention": "se"}), "did you mean 'attention'"),
        (lambda: BlockSpec("ir", 1, {"shortcut": "pool"}), "did you mean 'pooled'"),
        (lambda: StemSpec("deep_stem", 64, 1, (1,), {"act": "rellu"}), "did you mean 'relu'"),
    ],
)
def test_a_wrong_word_in_a_record_is_an_error(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def build_with(head: HeadSpec, **options: Any) -> FaceNetwork:
    stems = {"face": StemSpec("conv_stem", width=4, stride=2, stage_strides=(2,))}
    spec = ModelSpec("x", "x", stems, (stage("conv", 1, 4),), head, "mobilefacenet", "none", "for tests")
    return FaceNetwork(spec, **{"img_size": 16, "embedding_dim": 6, **options})


def test_the_norm_of_the_embedding_is_the_one_that_was_named() -> None:
    assert isinstance(build_with(HeadSpec("linear", {"norm": "layer"})).head.embedding_norm, nn.LayerNorm)


def test_parts_of_a_third_party_are_found_by_name() -> None:
    from facezoo.blocks import HEADS, Head, register_head
    from facezoo.layers import NORMS, POOLS, register_norm, register_pool

    class Twice(Head):
        def __init__(self, in_chans, map_size, *, embedding_dim, global_pool, drop_rate):  # type: ignore[no-untyped-def]
            super().__init__()
            self.map_norm = NORMS["test_group"](in_chans)
            self.set_embedding(self.set_pool(global_pool, in_chans, map_size), embedding_dim, drop_rate)

        def forward(self, x: Tensor) -> Tensor:
            return self.embedded(2 * self.pooled(self.map_norm(x)))

    class Corners(nn.Module):
        def __init__(self, channels: int, map_size: tuple[int, int]) -> None:
            super().__init__()
            self.out_features = 2 * channels

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat((x[:, :, 0, 0], x[:, :, -1, -1]), 1)

    register_head("test_twice", Twice)
    register_norm("test_group", lambda channels, eps=1e-5: nn.GroupNorm(2, channels, eps))
    register_pool("test_corners", Corners)
    try:
        model = build_with(HeadSpec("test_twice", global_pool="test_corners")).eval()
        assert model.head.embedding.weight.shape == (6, 8)
        assert model(torch.randn(2, 3, 16, 16)).shape == (2, 6)
    finally:
        HEADS.unregister("test_twice"), NORMS.unregister("test_group"), POOLS.unregister("test_corners")


def test_a_network_made_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
        model.reset_classifier(3)
    torch.manual_seed(0)
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    assert model.classifier.weight.grad is not None
    with torch.inference_mode():
        draw = torch.zeros(2**20)
        fill_([Draw(draw, "normal", 1.0)])
    assert bool((draw[-9:] != 0).all())


def test_a_new_classifier_is_where_the_network_is() -> None:
    model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
    torch.set_default_device("meta")
    try:
        model.reset_classifier(3)
    finally:
        torch.set_default_device(None)
    assert model.classifier.weight.device.type == "cpu"
    assert bool(model.classifier.weight.any())


def test_whole_numbers_of_numpy_are_numbers() -> None:
    labels = np.array([0, 4, 2])
    model = facezoo.create_model(
        "tiny_face", num_classes=labels.max() + 1, embedding_dim=np.int32(8), img_size=(np.int64(16), 16)
    )
    json.dumps(model.config)
    assert model.num_classes == 5
    assert model.preprocessing.img_size == (16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"img_size": 112.0}, "img_size is one side"),
        ({"img_size": "112"}, "img_size is one side"),
        ({"img_size": (112, 96, 3)}, "img_size is one side"),
        ({"num_classes": 2.0}, "num_classes is an integer"),
        ({"num_classes": np.bool_(True)}, "num_classes is an integer"),
        ({"in_chans": "3"}, "in_chans is an integer"),
        ({"drop_rate": "0.5"}, "drop_rate is a probability"),
        ({"drop_path_rate": None}, "drop_path_rate is a probability"),
        ({"features_only": True, "out_indices": 5}, "stages"),
        ({"features_only": True, "out_indices": (0.0,)}, "stages"),
    ],
)
def test_an_argument_of_another_kind_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        facezoo.create_model("tiny_face", **options)


@pytest.mark.parametrize("features_only", [False, True])
def test_a_misspelled_argument_is_named(features_only: bool) -> None:
    with pytest.raises(TypeError, match="did you mean 'num_classes'"):
        facezoo.create_model("tiny_face", features_only=features_only, num_clases=3)  # type: ignore[call-overload]


def test_synchronized_norms_can_be_recomputed_and_count_once() -> None:
    images, models = torch.randn(4, 3, 16, 16), []
    for again in (False, True):
        torch.manual_seed(0)
        model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model.set_grad_checkpointing(again)
        model(images).pow(2).sum().backward()
        models.append(model)
    for (name, kept), (_, recomputed) in zip(
        models[0].state_dict().items(), models[1].state_dict().items(), strict=True
    ):
        assert torch.equal(kept, recomputed), name
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_module_that_was_added_learns_with_the_last_layer() -> None:
    model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
    model.extra = nn.Linear(8, 2)
    scale_of = {id(p): group["lr_scale"] for group in model.parameter_groups(0.1, 0.5) for p in group["params"]}
    assert scale_of[id(model.extra.weight)] == 1.0
    assert len(scale_of) == len(list(model.parameters()))


def test_nothing_to_train_is_an_error() -> None:
    model = facezoo.create_model("tiny_face", img_size=16).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of this network is trainable"):
        model.parameter_groups(0.1)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("mbf", "mobilefacenet"),
        ("arcface_r50", "iresnet50"),
        ("adaface_ir50", "ir_50"),
        ("hf_hub:owner/name", "hf-hub:owner/name"),
    ],
)
def test_a_name_of_another_library_leads_to_ours(name: str, right: str) -> None:
    with pytest.raises(ValueError, match=right):
        facezoo.create_model(name)


def test_names_of_other_libraries_lead_to_networks_that_are_there() -> None:
    assert [name for name in MODELS.elsewhere.values() if name not in MODELS] == []
