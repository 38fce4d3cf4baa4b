"""Adapters of the small and the token families: equal outputs for the smallest variant, equal names and shapes for the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
from test_adapters import IMAGENET, outputs_agree, shapes, with_random_weights
from torch import Tensor, nn

import facezoo
from facezoo.weights import find_adapter, load_checkpoint


def from_timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name)


def from_torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)()


def with_lively_weights(network: nn.Module, size: int) -> nn.Module:
    """Random weights, and running statistics of the network's own signals: gates at a half would fade those out otherwise."""
    network = with_random_weights(network)
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        network(images)
    return network.eval()


# adapter, facezoo's name, the library's network, side of the images
CASES: list[tuple[str, str, Callable[[], nn.Module], int]] = [
    ("timm.convnext", "convnext_atto", from_timm("convnext_atto"), 96),
    ("timm.convnext", "convnextv2_atto", from_timm("convnextv2_atto"), 96),
    ("timm.mobilenet_v2", "mobilenet_v2_035", from_timm("mobilenetv2_035"), 96),
    ("timm.mobilenet_v3", "mobilenet_v3_small", from_timm("mobilenetv3_small_100"), 96),
    ("torchvision.mobilenet_v3", "mobilenet_v3_small", from_torchvision("mobilenet_v3_small"), 96),
    ("timm.efficientnet", "efficientnet_b0", from_timm("efficientnet_b0"), 96),
    ("torchvision.efficientnet", "efficientnet_b0", from_torchvision("efficientnet_b0"), 96),
    ("timm.edgenext", "edgenext_xx_small", from_timm("edgenext_xx_small"), 96),
    ("timm.ghostnet", "ghostnet_050", from_timm("ghostnet_050"), 96),
    ("torchvision.shufflenet_v2", "shufflenet_v2_x0_5", from_torchvision("shufflenet_v2_x0_5"), 96),
]


@pytest.mark.parametrize(("adapter", "name", "build", "size"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_outputs_equal_the_library(adapter: str, name: str, build: Callable[[], nn.Module], size: int) -> None:
    reference = with_lively_weights(build(), size)
    model = facezoo.create_model(name, img_size=size, **IMAGENET)
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == adapter
    assert report.loaded == len(model.state_dict())
    assert (report.replaced, report.dropped) == ((), ())
    outputs_agree(reference, model, size=size)
    named = find_adapter(reference.state_dict().keys(), source=adapter.split(".")[0])
    assert named is not None
    assert named.name == adapter


META_CASES: list[tuple[str, str, Callable[[], nn.Module]]] = [
    *(("timm.convnext", f"convnext_{s}", from_timm(f"convnext_{s}")) for s in ("femto", "pico", "nano")),
    *(
        ("timm.convnext", f"convnextv2_{s}", from_timm(f"convnextv2_{s}"))
        for s in ("femto", "pico", "nano", "tiny", "base", "large")
    ),
    *(("timm.mobilenet_v2", f"mobilenet_v2_{w}", from_timm(f"mobilenetv2_{w}")) for w in ("050", "075", "140")),
    ("timm.mobilenet_v3", "mobilenet_v3_large", from_timm("mobilenetv3_large_100")),
    ("torchvision.mobilenet_v3", "mobilenet_v3_large", from_torchvision("mobilenet_v3_large")),
    *(("timm.efficientnet", f"efficientnet_b{i}", from_timm(f"efficientnet_b{i}")) for i in (1, 2, 3)),
    *(("timm.edgenext", f"edgenext_{s}", from_timm(f"edgenext_{s}")) for s in ("x_small", "small", "base")),
    *(("timm.ghostnet", f"ghostnet_{w}", from_timm(f"ghostnet_{w}")) for w in ("100", "130")),
    *(
        ("torchvision.shufflenet_v2", f"shufflenet_v2_{x}", from_torchvision(f"shufflenet_v2_{x}"))
        for x in ("x1_0", "x1_5", "x2_0")
    ),
    *(("torchvision.efficientnet", f"efficientnet_b{i}", from_torchvision(f"efficientnet_b{i}")) for i in (1, 2, 3)),
]


@pytest.mark.parametrize(("adapter", "name", "build"), META_CASES, ids=[f"{c[0]}-{c[1]}" for c in META_CASES])
def test_names_and_shapes_equal_the_library(adapter: str, name: str, build: Callable[[], nn.Module]) -> None:
    spec = facezoo.models.get_model_spec(name)
    with torch.device("meta"):
        reference = build()
        model = facezoo.models.FaceNetwork(spec, img_size=224, **IMAGENET)
    found = find_adapter(reference.state_dict().keys())
    assert found is not None
    assert found.name == adapter
    assert shapes(found.convert(reference.state_dict())) == shapes(model.state_dict())


def test_original_convnext_v2() -> None:
    """The authors' names, written onto timm's network: linear layers, and a GRN of shape (1, 1, 1, C)."""
    reference = with_random_weights(timm.create_model("convnextv2_atto"))
    original = {}
    for key, tensor in reference.state_dict().items():
        parts = key.split(".")
        if parts[0] == "stem":
            new = ["downsample_layers", "0", *parts[1:]]
        elif parts[0] == "stages" and parts[2] == "downsample":
            new = ["downsample_layers", parts[1], *parts[3:]]
        elif parts[0] == "stages":
            inside = ".".join(parts[4:]).replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
            inside = inside.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
            new = ["stages", parts[1], parts[3], inside]
            if "grn" in inside:
                tensor = tensor.view(1, 1, 1, -1)
            elif "pwconv" in inside and tensor.dim() == 4:
                tensor = tensor[:, :, 0, 0]
        else:
            new = [{"norm": "norm", "fc": "head"}[parts[1]], parts[2]]
        original[".".join(new)] = tensor
    assert {"downsample_layers.3.1.bias", "stages.2.5.grn.beta", "stages.0.0.pwconv1.weight"} <= original.keys()
    model = facezoo.create_model("convnextv2_atto", **IMAGENET)
    assert load_checkpoint(model, original).source == "convnext.convnext"
    outputs_agree(reference, model, size=64)


# --- EdgeFace: timm's network below ``model``, every linear layer replaced by two of low rank


class TwoLinear(nn.Module):
    def __init__(self, linear: nn.Linear, ratio: float) -> None:
        super().__init__()
        rank = max(2, int(min(linear.in_features, linear.out_features) * ratio))
        self.linear1 = nn.Linear(linear.in_features, rank, bias=False)
        self.linear2 = nn.Linear(rank, linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x))


class ReferenceEdgeFace(nn.Module):
    def __init__(self, size: str, ratio: float | None) -> None:
        super().__init__()
        self.model = timm.create_model(f"edgenext_{size}", num_classes=512)
        for name, module in list(self.model.named_modules()):
            if ratio is not None and isinstance(module, nn.Linear):
                parent, _, last = name.rpartition(".")
                setattr(self.model.get_submodule(parent), last, TwoLinear(module, ratio))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def test_outputs_equal_edgefaces_layout() -> None:
    reference = with_random_weights(ReferenceEdgeFace("x_small", 0.6))
    model = facezoo.create_model("edgeface_xs")
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == "edgeface.edgeface"
    assert report.loaded == len(reference.state_dict())
    outputs_agree(reference, model, size=112)


@pytest.mark.parametrize(
    ("name", "size", "ratio"),
    [("edgeface_xxs", "xx_small", None), ("edgeface_s", "small", 0.5), ("edgeface_base", "base", None)],
)
def test_names_of_the_other_edgefaces(name: str, size: str, ratio: float | None) -> None:
    with torch.device("meta"):
        reference = ReferenceEdgeFace(size, ratio)
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec(name))
    found = find_adapter(reference.state_dict().keys())
    assert found is not None
    assert found.name == "edgeface.edgeface"
    assert shapes(found.convert(reference.state_dict())) == shapes(model.state_dict())
