"""Adapters against the libraries whose checkpoints they read: equal outputs, or equal keys and shapes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from peer_networks import (
    FaceNet,
    InsightfaceMobileFaceNet,
    IRNetwork,
    LightCNN9,
    LightCNN29,
    PaperMobileFaceNet,
    SphereNetwork,
    ir_network,
)
from torch import Tensor, nn

import facezoo
from facezoo.weights import ADAPTERS, find_adapter, load_checkpoint

HERE = Path(__file__).parent
IMAGENET = {"stem": "imagenet", "embedding_dim": None, "num_classes": 1000}


def with_random_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """No weight or running statistic at its initial value, or a swapped pair would go unnoticed; signals stay of order one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if tensor.dim() > 1:
                fan_in = tensor[0].numel()
                tensor.normal_(0.0, fan_in**-0.5, generator=generator)
            elif name.endswith(("running_var", "weight", "gamma")):
                tensor.uniform_(0.5, 1.5, generator=generator)
            else:
                tensor.normal_(0.0, 0.2, generator=generator)
            if name.endswith("layer_scale"):  # torchvision's has three axes
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def outputs_agree(reference: nn.Module, model: nn.Module, size: int | tuple[int, int]) -> None:
    height, width = (size, size) if isinstance(size, int) else size
    images = torch.randn(2, model.in_chans, height, width, generator=torch.Generator().manual_seed(1))
    # In float64: with random weights the rounding of float32 adds up to more than what is asked for.
    reference, model, images = reference.double(), model.double().eval(), images.double()
    with torch.no_grad():
        expected, got = reference(images), model(images)
    assert expected.std() > 0.01
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the images count: no saturation
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def with_attention(name: str, attention: str) -> nn.Module:
    return timm.create_model(name, block_args={"attn_layer": attention})


def on_cpu(build: Callable[[], nn.Module]) -> nn.Module:
    """torchvision's RegNet computes its widths with tensors and cannot be built on the meta device."""
    with torch.device("cpu"):
        return build()


CASES: list[tuple[str, str, Callable[[], nn.Module]]] = [
    ("torchvision.resnet", "resnet18", lambda: torchvision.models.resnet18()),
    ("torchvision.resnet", "resnet50", lambda: torchvision.models.resnet50()),
    ("timm.resnet", "se_resnet50", lambda: timm.create_model("seresnet50")),
    ("timm.resnet", "se_resnet18", lambda: timm.create_model("seresnet18")),
    ("timm.resnet", "eca_resnet18", lambda: with_attention("resnet18", "eca")),
    ("timm.resnet", "cbam_resnet18", lambda: with_attention("resnet18", "cbam")),
    ("timm.resnet_d", "resnet18d", lambda: timm.create_model("resnet18d")),
    ("torchvision.resnet", "resnext50_32x4d", lambda: torchvision.models.resnext50_32x4d()),
    ("torchvision.convnext", "convnext_tiny", lambda: torchvision.models.convnext_tiny()),
    ("timm.convnext", "convnext_tiny", lambda: timm.create_model("convnext_tiny")),
    ("torchvision.mobilenet_v2", "mobilenet_v2", lambda: torchvision.models.mobilenet_v2()),
    ("timm.mobilenet_v2", "mobilenet_v2", lambda: timm.create_model("mobilenetv2_100")),
    ("torchvision.regnet_y", "regnet_y_400mf", lambda: on_cpu(torchvision.models.regnet_y_400mf)),
    ("timm.repvgg", "repvgg_a0", lambda: timm.create_model("repvgg_a0")),
    ("torchvision.vgg_bn", "vgg11_bn", lambda: torchvision.models.vgg11_bn(init_weights=False)),
    ("torchvision.densenet", "densenet121", lambda: torchvision.models.densenet121()),
]


@pytest.mark.parametrize(("adapter", "name", "build"), CASES, ids=[f"{a}-{n}" for a, n, _ in CASES])
def test_outputs_equal_the_library(adapter: str, name: str, build: Callable[[], nn.Module]) -> None:
    reference = with_random_weights(build())
    model = facezoo.create_model(name, **IMAGENET)
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == adapter
    assert report.loaded == len(reference.state_dict())
    assert (report.replaced, report.dropped) == ((), ())
    outputs_agree(reference, model, size=96)
    named = find_adapter(reference.state_dict().keys(), source=adapter.split(".")[0])
    assert named is not None
    assert named.name == adapter


def test_a_plain_resnet_may_be_called_timms() -> None:
    reference = with_random_weights(timm.create_model("resnet18"))
    model = facezoo.create_model("resnet18", **IMAGENET)
    assert load_checkpoint(model, reference.state_dict(), source="timm").source == "timm.resnet"
    outputs_agree(reference, model, size=96)


META_CASES = [
    *(
        ("torchvision.regnet_y", f"regnet_y_{s}", lambda s=s: on_cpu(getattr(torchvision.models, f"regnet_y_{s}")))
        for s in ("800mf", "1_6gf", "3_2gf", "8gf")
    ),
    *(("timm.repvgg", f"repvgg_{s}", lambda s=s: timm.create_model(f"repvgg_{s}")) for s in ("a1", "a2", "b0", "b1")),
    *(
        ("torchvision.vgg_bn", f"vgg{d}_bn", lambda d=d: getattr(torchvision.models, f"vgg{d}_bn")())
        for d in (13, 16, 19)
    ),
    *(
        ("torchvision.densenet", f"densenet{d}", lambda d=d: getattr(torchvision.models, f"densenet{d}")())
        for d in (169, 201)
    ),
    *(("timm.resnet_d", f"resnet{d}d", lambda d=d: timm.create_model(f"resnet{d}d")) for d in (34, 50, 101, 152, 200)),
    *(("timm.resnet_d", f"eca_resnet{d}d", lambda d=d: timm.create_model(f"ecaresnet{d}d")) for d in (50, 101, 200)),
    *(
        ("timm.resnet", f"{a}_resnet{d}", lambda d=d, a=a: with_attention(f"resnet{d}", a))
        for a in ("eca", "cbam")
        for d in (34, 50, 101, 152)
    ),
    ("torchvision.resnet", "resnet200", lambda: timm.create_model("resnet200")),
    ("torchvision.resnet", "resnext101_32x4d", lambda: timm.create_model("resnext101_32x4d")),
    *(
        ("torchvision.resnet", name, lambda name=name: getattr(torchvision.models, name)())
        for name in ("resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2")
    ),
    *(
        ("timm.resnet", f"se_{name}", lambda name=name: timm.create_model(f"se{name}"))
        for name in ("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d")
    ),
    *(
        ("torchvision.resnet", f"resnet{d}", lambda d=d: getattr(torchvision.models, f"resnet{d}")())
        for d in (34, 101, 152)
    ),
    *(("timm.resnet", f"se_resnet{d}", lambda d=d: timm.create_model(f"seresnet{d}")) for d in (34, 101, 152)),
    *(
        ("torchvision.convnext", f"convnext_{s}", lambda s=s: getattr(torchvision.models, f"convnext_{s}")())
        for s in ("small", "base", "large")
    ),
    *(
        ("timm.convnext", f"convnext_{s}", lambda s=s: timm.create_model(f"convnext_{s}"))
        for s in ("small", "base", "large")
    ),
]


def shapes(state_dict: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in state_dict.items()}


@pytest.mark.parametrize(("adapter", "name", "build"), META_CASES, ids=[f"{a}-{n}" for a, n, _ in META_CASES])
def test_names_and_shapes_equal_the_library(adapter: str, name: str, build: Callable[[], nn.Module]) -> None:
    spec = facezoo.models.get_model_spec(name)
    with torch.device("meta"):
        reference = build()
        model = facezoo.models.FaceNetwork(spec, **IMAGENET)
    found = find_adapter(reference.state_dict().keys())
    assert found is not None
    assert found.name == adapter
    assert shapes(found.convert(reference.state_dict())) == shapes(model.state_dict())


# --- the layout of the ConvNeXt authors: the same network under other names


def test_original_convnext() -> None:
    reference = with_random_weights(timm.create_model("convnext_tiny"))
    original = {}
    for key, tensor in reference.state_dict().items():
        parts = key.split(".")
        if parts[0] == "stem":
            new = ["downsample_layers", "0", *parts[1:]]
        elif parts[0] == "stages" and parts[2] == "downsample":
            new = ["downsample_layers", parts[1], *parts[3:]]
        elif parts[0] == "stages":
            inside = ".".join(parts[4:]).replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
            new = ["stages", parts[1], parts[3], inside]
        else:
            new = [{"norm": "norm", "fc": "head"}[parts[1]], parts[2]]
        original[".".join(new)] = tensor
    assert {
        "downsample_layers.3.1.bias",
        "stages.2.8.pwconv2.weight",
        "stages.0.0.gamma",
        "head.bias",
    } <= original.keys()
    model = facezoo.create_model("convnext_tiny", **IMAGENET)
    assert load_checkpoint(model, original).source == "convnext.convnext"
    outputs_agree(reference, model, size=64)


# --- insightface: small reference networks with its names, written from the papers' and the checkpoints' description


class ReferenceIRBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return shortcut + self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))


class ReferenceIResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        widths = (64, 64, 128, 256, 512)
        for index in range(1, 5):
            first = ReferenceIRBlock(widths[index - 1], widths[index], 2)
            setattr(self, f"layer{index}", nn.Sequential(first, ReferenceIRBlock(widths[index], widths[index], 1)))
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


LIGHTCNN = {"in_chans": 1, "img_size": 128, "embedding_dim": 256, "num_classes": 10}

# Adapter, network, the library's own network, and the arguments under which both are the same.
PEERS: list[tuple[str, str, Callable[[], nn.Module], dict[str, Any]]] = [
    ("insightface.iresnet", "iresnet18", ReferenceIResNet18, {}),
    ("insightface.mobilefacenet", "mobilefacenet", InsightfaceMobileFaceNet, {}),
    ("cvlface.ir", "ir_18", lambda: ir_network("ir_18"), {}),
    ("cvlface.ir", "ir_se_18", lambda: IRNetwork((2, 2, 2, 2), kind="cvlface", se=True), {}),
    ("face_evolve.ir", "ir_se_50_evolve", lambda: ir_network("ir_se_50_evolve"), {}),
    (
        "mobilefacenet_pytorch.mobilefacenet",
        "mobilefacenet_paper",
        PaperMobileFaceNet,
        {"embedding_dim": 128, "img_size": (112, 96)},
    ),
    ("lightcnn.lightcnn9", "lightcnn9", LightCNN9, LIGHTCNN),
    ("lightcnn.lightcnn29", "lightcnn29", LightCNN29, LIGHTCNN),
    (
        "facenet_pytorch.inception_resnet_v1",
        "inception_resnet_v1",
        FaceNet,
        {"stem": "imagenet", "img_size": 160, "num_classes": 10},
    ),
]


@pytest.mark.parametrize(("adapter", "name", "build", "arguments"), PEERS, ids=[f"{a}-{n}" for a, n, _, _ in PEERS])
def test_outputs_equal_the_peer(
    adapter: str, name: str, build: Callable[[], nn.Module], arguments: dict[str, Any]
) -> None:
    reference = with_random_weights(build())
    model = facezoo.create_model(name, **arguments)
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == adapter
    assert report.loaded == len(reference.state_dict())
    assert (report.replaced, report.dropped) == ((), ())
    outputs_agree(reference, model, size=model.preprocessing.img_size)


def test_outputs_equal_sphereface_whose_margin_head_is_left_out() -> None:
    reference = with_random_weights(SphereNetwork())
    model = facezoo.create_model("sphereface20", img_size=(112, 96))
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == "sphereface.sphereface"
    assert report.loaded == len(reference.state_dict()) - 1
    outputs_agree(reference, model, size=(112, 96))


def test_old_names_of_densenet() -> None:
    with torch.device("meta"):
        tensors = torchvision.models.densenet121().state_dict()
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec("densenet121"), **IMAGENET)
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): tensor for key, tensor in tensors.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    found = find_adapter(old.keys())
    assert found is not None
    assert shapes(found.convert(old)) == shapes(model.state_dict())


def test_a_merged_repvgg_loads_into_a_merged_one() -> None:
    reference = with_random_weights(timm.create_model("repvgg_a0"))
    model = facezoo.create_model("repvgg_a0", **IMAGENET)
    load_checkpoint(model, reference.state_dict())
    outputs_agree(reference, model, size=96)
    for network, name in ((reference, "reparameterize"), (model, "reparameterise")):
        for module in network.modules():
            if hasattr(module, name):
                getattr(module, name)()
    assert load_checkpoint(model, reference.state_dict()).source == "timm.repvgg"
    assert set(model.stem.state_dict()) == {"merged.weight", "merged.bias"}
    outputs_agree(reference, model, size=96)


# Networks too large to run in the default suite: names and shapes only, against a file that was made from the library's network.
FIXTURES: dict[str, tuple[str, Callable[[], nn.Module], dict[str, Any]]] = {
    **{name: ("cvlface.ir", lambda name=name: ir_network(name), {}) for name in ("ir_50", "ir_152", "ir_se_101")},
    "sphereface64": ("sphereface.sphereface", lambda: SphereNetwork((3, 8, 16, 3)), {"img_size": (112, 96)}),
    "lightcnn29": ("lightcnn.lightcnn29", LightCNN29, LIGHTCNN),
    "inception_resnet_v1": ("facenet_pytorch.inception_resnet_v1", FaceNet, {"stem": "imagenet", "num_classes": 10}),
    "ir_se_50_evolve": ("face_evolve.ir", lambda: ir_network("ir_se_50_evolve"), {}),
    "mobilefacenet_large": (
        "insightface.mobilefacenet",
        lambda: InsightfaceMobileFaceNet((2, 8, 12, 4), 4),
        {},
    ),
    "mobilefacenet_paper": (
        "mobilefacenet_pytorch.mobilefacenet",
        PaperMobileFaceNet,
        {"embedding_dim": 128, "img_size": (112, 96)},
    ),
}


@pytest.mark.parametrize("name", FIXTURES)
def test_names_and_shapes_of_the_fixture(name: str) -> None:
    adapter, build, arguments = FIXTURES[name]
    fixture = {key: tuple(shape) for key, shape in json.loads((HERE / f"fixtures/{name}.json").read_text()).items()}
    with torch.device("meta"):
        peer = shapes(build().state_dict())
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec(name), **arguments)
        tensors = {key: torch.empty(shape) for key, shape in fixture.items()}
    assert peer == fixture
    found = find_adapter(tensors.keys())
    assert found is not None
    assert found.name == adapter
    assert shapes(found.convert(tensors)) == shapes(model.state_dict())


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.net."])
def test_training_checkpoints_of_adaface_and_cvlface(prefix: str) -> None:
    reference = with_random_weights(ir_network("ir_18"))
    tensors = {f"{prefix}{key}": tensor for key, tensor in reference.state_dict().items()}
    content = {"epoch": 25, "state_dict": {**tensors, "head.kernel": torch.zeros(512, 10)}}
    model = facezoo.create_model("ir_18")
    assert load_checkpoint(model, content).source == "cvlface.ir"
    assert torch.equal(model.stages[3].blocks[1].conv2.conv.weight, tensors[f"{prefix}body.7.res_layer.4.weight"])


IRESNET_DEPTHS = {34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


@pytest.mark.parametrize("depth", IRESNET_DEPTHS)
def test_names_of_the_deep_iresnets(depth: int) -> None:
    with torch.device("meta"):
        reference = ReferenceIResNet18()
        for index, count in enumerate(IRESNET_DEPTHS[depth], start=1):
            stage = getattr(reference, f"layer{index}")
            width = stage[0].conv2.out_channels
            stage.extend(ReferenceIRBlock(width, width, 1) for _ in range(count - 2))
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec(f"iresnet{depth}"))
    found = find_adapter(reference.state_dict().keys())
    assert found is not None
    assert found.name == "insightface.iresnet"
    assert shapes(found.convert(reference.state_dict())) == shapes(model.state_dict())


# --- recognition, purity


ELSEWHERE = {  # test_adapters_families.py
    "edgeface.edgeface",
    "insightface.vit",
    "mixfacenet.mixfacenet",
    "timm.edgenext",
    "timm.efficientnet",
    "timm.ghostnet",
    "timm.mobilenet_v3",
    "timm.swin",
    "timm.vit",
    "torchvision.efficientnet",
    "torchvision.mobilenet_v3",
    "torchvision.shufflenet_v2",
    "torchvision.swin",
}


def test_every_adapter_is_tested_here() -> None:
    tested = {adapter for adapter, _, _ in CASES} | {
        "convnext.convnext",
        *(adapter for adapter, _, _, _ in PEERS),
        "sphereface.sphereface",
    }
    tested |= ELSEWHERE
    assert {adapter.name for adapter in ADAPTERS} == tested | {"facezoo.native"}


def test_every_network_of_facezoo_is_recognised_as_its_own() -> None:
    for name in facezoo.list_models():
        spec = facezoo.models.get_model_spec(name)
        stages = tuple(dataclasses.replace(stage, depth=min(stage.depth, 2)) for stage in spec.stages)
        with torch.device("meta"):
            model = facezoo.models.FaceNetwork(dataclasses.replace(spec, stages=stages), num_classes=3)
        found = find_adapter(model.state_dict().keys())
        assert found is not None, name
        assert found.name == "facezoo.native", name
        assert found.convert(model.state_dict()).keys() == model.state_dict().keys()


def test_adapters_are_pure() -> None:
    for _, _, build in CASES[:1] + CASES[4:5]:
        with torch.device("meta"):
            state_dict = build().state_dict()
        before = shapes(state_dict)
        found = find_adapter(state_dict.keys())
        assert found is not None
        first, second = found.convert(state_dict), found.convert(state_dict)
        assert shapes(state_dict) == before
        assert first is not second
        assert shapes(first) == shapes(second)


def test_unknown_keys_keep_their_names() -> None:
    for adapter in ADAPTERS:
        key = "layers.9.extra.weight" if adapter.layout == "mobilefacenet" else "somewhere.else.weight"
        assert list(adapter.convert({key: torch.zeros(1)})) == [key]
