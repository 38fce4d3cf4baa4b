"""Adapters against the libraries whose checkpoints they read: equal outputs, or equal keys and shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import facezoo
from facezoo.weights import ADAPTERS, find_adapter, load_checkpoint

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


def outputs_agree(reference: nn.Module, model: nn.Module, size: int) -> None:
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, got = reference(images), model.eval()(images)
    assert expected.std() > 0.01
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # the images count: no saturation
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def with_attention(name: str, attention: str) -> nn.Module:
    return timm.create_model(name, block_args={"attn_layer": attention})


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


class Layers(nn.Module):
    """A sequence under the name ``layers``, as most of insightface's MobileFaceNet is built."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


def conv_unit(
    inputs: int, outputs: int, side: int, *, stride: int = 1, pad: int = 0, groups: int = 1, act: bool = True
) -> Layers:
    conv = nn.Conv2d(inputs, outputs, side, stride, pad, groups=groups, bias=False)
    return Layers(conv, nn.BatchNorm2d(outputs), *([nn.PReLU(outputs)] if act else []))


def separable(inputs: int, inner: int, outputs: int, *, stride: int = 1, residual: bool = False) -> Layers:
    depthwise = conv_unit(inner, inner, 3, stride=stride, pad=1, groups=inner)
    return Layers(conv_unit(inputs, inner, 1), depthwise, conv_unit(inner, outputs, 1, act=False), residual=residual)


def separables(count: int, width: int, inner: int) -> Layers:
    return Layers(*(separable(width, inner, width, residual=True) for _ in range(count)))


class ReferenceMobileFaceNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                conv_unit(3, 128, 3, stride=2, pad=1),
                conv_unit(128, 128, 3, pad=1, groups=64),
                separable(128, 128, 128, stride=2),
                separables(4, 128, 128),
                separable(128, 256, 256, stride=2),
                separables(6, 256, 256),
                separable(256, 512, 256, stride=2),
                separables(2, 256, 256),
            ]
        )
        self.conv_sep = conv_unit(256, 512, 1)
        pool = conv_unit(512, 512, 7, groups=512, act=False)
        self.features = Layers(pool, nn.Flatten(), nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


@pytest.mark.parametrize(
    ("adapter", "name", "build"),
    [
        ("insightface.iresnet", "iresnet18", ReferenceIResNet18),
        ("insightface.mobilefacenet", "mobilefacenet", ReferenceMobileFaceNet),
    ],
)
def test_outputs_equal_insightfaces_layout(adapter: str, name: str, build: Callable[[], nn.Module]) -> None:
    reference = with_random_weights(build())
    model = facezoo.create_model(name)
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == adapter
    assert report.loaded == len(reference.state_dict())
    outputs_agree(reference, model, size=112)


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


def test_every_adapter_is_tested_here() -> None:
    tested = {adapter for adapter, _, _ in CASES} | {
        "convnext.convnext",
        "insightface.iresnet",
        "insightface.mobilefacenet",
    }
    assert {adapter.name for adapter in ADAPTERS} == tested | {"facezoo.native"}


def test_every_network_of_facezoo_is_recognised_as_its_own() -> None:
    for name in facezoo.list_models():
        with torch.device("meta"):
            model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec(name), num_classes=3)
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
