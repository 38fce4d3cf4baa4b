"""What a profile says beyond parameters and MACs, against real tensors on the CPU and against published figures."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

import facezoo
from facezoo.models import MODELS, Preprocessing, get_model_spec
from facezoo.models.factory import count_multiplications
from facezoo.profile import ModelProfile, _Live, profile_model, profile_network

IMAGENET = {"stem": "imagenet", "embedding_dim": None, "num_classes": 1000, "img_size": 224}

# Between them: every kind of norm, activation, pooling, attention and head; sides that keep a pass short.
NETWORKS = [
    ("mobilefacenet", {"img_size": 32, "in_chans": 1}),
    ("iresnet18", {"img_size": 48, "num_classes": 10}),
    ("ir_18", {"img_size": 32}),  # a dropout in the head
    ("convnextv2_atto", {"img_size": 64}),
    ("vit_t", {"img_size": 27}),
    ("edgenext_xx_small", {"img_size": 64}),
    ("lightcnn9", {"img_size": 32}),
    *(
        pytest.param(name, options, marks=pytest.mark.slow)
        for name, options in (
            ("swin_tiny", {"img_size": 56}),
            ("vit_tiny_patch16", {"img_size": 48}),
            ("densenet121", {"img_size": 32}),
            ("efficientnet_b0", {"img_size": 32}),
            ("ghostfacenet_050", {"img_size": 48}),
            ("shuffle_mixfacenet_xs", {"img_size": 48}),
            ("inception_resnet_v1", {"img_size": 80}),
        )
    ),
]


def storages(model: nn.Module) -> set[int]:
    return {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}


def really_saved(model: Any, batch_size: int) -> int:
    """Bytes that autograd holds after a forward pass of real images, by their addresses."""
    own, saved = storages(model), {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.randn(batch_size, model.in_chans, *model.preprocessing.img_size)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.train()(images)
    assert output.grad_fn is not None
    return sum(saved.values())


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_training_memory_is_what_autograd_saves(name: str, options: dict[str, Any]) -> None:
    model = facezoo.create_model(name, **options)
    profile = profile_network(model)
    assert [profile.training_memory(size) for size in (2, 5)] == [really_saved(model, size) for size in (2, 5)]
    assert sum(stage.training_bytes for stage in profile.stages) == profile.training_bytes
    model.set_grad_checkpointing()
    checkpointed = profile_network(model)
    assert checkpointed == profile_model(name, grad_checkpointing=True, **options)
    assert checkpointed.training_memory(3) == really_saved(model, 3)
    assert checkpointed.training_bytes < profile.training_bytes
    assert (checkpointed.params, checkpointed.macs, checkpointed.inference_bytes) == (
        *(profile.params, profile.macs),
        profile.inference_bytes,
    )


def test_frozen_parameters_save_less_and_half_precision_half() -> None:
    model = facezoo.create_model("mobilefacenet", img_size=32)
    whole = profile_network(model)
    half = profile_network(facezoo.create_model("mobilefacenet", img_size=32).half())
    assert half.inference_bytes * 2 == whole.inference_bytes
    assert half.training_bytes * 2 == whole.training_bytes
    for parameter in model.stem.parameters():
        parameter.requires_grad = False
    frozen = profile_network(model)
    assert frozen.training_memory(2) == really_saved(model, 2)
    assert frozen.stages[0].training_bytes == 0
    assert 0 < frozen.training_bytes < whole.training_bytes
    assert profile_network(model.requires_grad_(False)).training_memory(8) == 0


class Pyramid(nn.Module):
    """Two convolutions of which everything can be counted by hand: 4×4 pixels, 8 and 2 channels, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.in_chans, self.preprocessing = 1, Preprocessing((4, 4), (0.5,), (0.5,))
        self.spec = dataclasses.replace(get_model_spec("resnet18"), name="pyramid")
        self.stem, self.stages = nn.Conv2d(1, 8, 3, padding=1), nn.ModuleList([nn.Conv2d(8, 2, 1)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.stem(x)
        wide = wide.sigmoid()
        return self.stages[0](wide)


def test_memory_counted_by_hand() -> None:
    image, wide, narrow = (4 * 16 * channels for channels in (1, 8, 2))
    profile = profile_network(Pyramid())
    assert (
        profile.inference_bytes == image + 2 * wide
    )  # before and behind the sigmoid; with the last output there is less
    assert image + wide + narrow < profile.inference_bytes
    # The first convolution needs the image, the sigmoid its own output, which the second convolution needs too.
    assert (profile.training_bytes, profile.batch_bytes) == (image + wide, 0)
    assert [stage.training_bytes for stage in profile.stages] == [image + wide, 0]
    assert (profile.activations, profile.macs) == (16 * (8 + 2), 16 * (9 * 8 + 8 * 2))


@pytest.mark.parametrize(
    "name",
    ["mobilefacenet", "vit_t", *(pytest.param(name, marks=pytest.mark.slow) for name in ("swin_tiny", "densenet121"))],
)
def test_inference_memory_is_that_of_real_tensors(name: str) -> None:
    model = facezoo.create_model(name, img_size=36)
    for network in (model, facezoo.fuse(model)):
        live = _Live((*network.parameters(), *network.buffers()))
        with torch.no_grad(), live:
            network.eval()(torch.zeros(1, 3, 36, 36))
        assert profile_network(network).inference_bytes == live.peak


@pytest.mark.parametrize(
    ("name", "millions"),  # as 2003.13678 has them; those of its RegNets that torchvision's are of the same widths as
    [
        *(("resnet50", 11.1), ("resnet101", 16.2), ("resnet152", 22.6), ("resnext50_32x4d", 14.4)),
        *(("regnet_y_400mf", 3.9), ("regnet_y_1_6gf", 8.0), ("regnet_y_3_2gf", 11.3)),
    ],
)
def test_activations_are_those_of_the_regnet_paper(name: str, millions: float) -> None:
    assert round(profile_model(name, memory=False, **IMAGENET).activations / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16", "eca_resnet18", "ir_se_18"])
def test_activations_are_the_outputs_of_convolutions_and_linear_layers(name: str) -> None:
    model = facezoo.create_model(name, num_classes=7).eval()
    numbers = 0

    def add(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal numbers
        numbers += output.numel()

    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.register_forward_hook(add)
    with torch.no_grad():
        model.to("meta")(torch.empty(1, 3, 112, 112, device="meta"))
    profile = profile_model(name, num_classes=7, memory=False)
    assert profile.activations == numbers == sum(stage.activations for stage in profile.stages)


@pytest.mark.parametrize("name", ["repvgg_a0", "iresnet18", "mobilefacenet"])
def test_a_fused_network_is_counted_as_it_is(name: str) -> None:
    model = facezoo.create_model(name, img_size=32)
    fused = facezoo.fuse(model)
    before, after = profile_network(model), profile_network(fused)
    assert after.params == sum(parameter.numel() for parameter in fused.parameters()) < before.params
    assert after.training_memory(8) == 0
    assert after.inference_bytes <= before.inference_bytes
    if name == "repvgg_a0":  # 1×1 convolutions go into the 3×3 ones beside them: nine of ten multiplications are left
        assert after.stages[1].macs * 10 == before.stages[1].macs * 9
    else:
        assert after.macs == before.macs


def test_feature_networks_have_profiles() -> None:
    model = facezoo.create_model("resnet18", features_only=True, out_indices=(0, 2))
    profile = profile_network(model)
    whole = profile_model("resnet18")
    assert [stage.name for stage in profile.stages] == ["stem", "stages.0", "stages.1", "stages.2"]
    assert [stage.macs for stage in profile.stages] == [stage.macs for stage in whole.stages[:4]]


def test_without_memory_the_rest_is_the_same() -> None:
    whole, part = profile_model("mobilefacenet"), profile_model("mobilefacenet", memory=False)
    nothing = {"training_bytes": None, "batch_bytes": None, "inference_bytes": None}
    stages = tuple(dataclasses.replace(stage, training_bytes=None) for stage in whole.stages)
    assert part == dataclasses.replace(whole, stages=stages, **nothing)
    with pytest.raises(ValueError, match="memory=False"):
        part.training_memory(2)
    for size in (0, -4, 1.5):
        with pytest.raises(ValueError, match="batch_size is an integer of at least 1"):
            whole.training_memory(size)
    assert "training" not in str(part)
    assert "per image" in str(whole)
    assert f"{whole.training_bytes / 2**20:.2f}" in str(whole)
    assert isinstance(part, ModelProfile)


def test_profiling_leaves_a_network_alone() -> None:
    model = facezoo.create_model("resnet18", img_size=32)
    model.stages[1].eval()
    modes = [module.training for module in model.modules()]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    profile_network(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


# -- budgets ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet152", "vit_b", "swin_small", "edgenext_small", "ghostnet_100"])
def test_multiplications_behind_budgets_equal_the_profile(name: str) -> None:
    form = {"num_classes": 8631, "embedding_dim": 256}
    macs = profile_model(name, memory=False, **form).macs
    assert count_multiplications(MODELS[name], **form) == macs
    assert facezoo.list_models(name, max_macs=macs, **form) == [name]
    assert facezoo.list_models(name, max_macs=macs - 1, **form) == []


def test_budgets_hold_together() -> None:
    with pytest.raises(ValueError, match="num_classes is an integer of at least 0, got -5"):
        facezoo.list_models("mobile*", max_params=1e9, num_classes=-5)
    small = facezoo.list_models("mobile*", max_params=5e6, max_macs=2e8)
    assert small == [
        name for name in facezoo.list_models("mobile*", max_params=5e6) if profile_model(name, memory=False).macs <= 2e8
    ]
    assert "mobilenet_v3_small" in small
    assert "mobilefacenet" not in small
