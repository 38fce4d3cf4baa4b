"""Adapters of the small and the token families: equal outputs for the smallest variant, equal names and shapes for the others."""

from __future__ import annotations

from collections import OrderedDict
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
    (
        "timm.vit",
        "vit_tiny_patch16",
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=96),
        96,
    ),
    ("timm.swin", "swin_tiny", from_timm("swin_tiny_patch4_window7_224"), 224),
    ("torchvision.swin", "swin_tiny", from_torchvision("swin_t"), 120),  # padded windows, an odd map before a merge
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
    *(("timm.vit", f"vit_{s}_patch16", from_timm(f"vit_{s}_patch16_224")) for s in ("small", "base")),
    *(("timm.swin", f"swin_{s}", from_timm(f"swin_{s}_patch4_window7_224")) for s in ("small", "base")),
    *(("torchvision.swin", f"swin_{s}", from_torchvision(f"swin_{s[0]}")) for s in ("small", "base")),
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


# --- MixFaceNet: a small reference network with the authors' names


def unit(
    inputs: int, outputs: int, sides: list[int], *, stride: int = 1, depthwise: bool = False, act: str = ""
) -> nn.Sequential:
    """Convolution(s), norm and activation under the names ``conv``, ``bn`` and ``activ``."""
    shares = [[width - (width // len(sides)) * (len(sides) - 1)] + [width // len(sides)] * (len(sides) - 1)
              for width in (inputs, outputs)]  # fmt: skip
    convs = [
        nn.Conv2d(i, o, side, stride, side // 2, groups=i if depthwise else 1, bias=False)
        for i, o, side in zip(*shares, sides, strict=True)
    ]
    parts: dict[str, nn.Module] = {"conv": convs[0] if len(convs) == 1 else MixedConvs(convs, shares[0])}
    parts["bn"] = nn.BatchNorm2d(outputs)
    if act:
        parts["activ"] = nn.PReLU(outputs) if act == "prelu" else nn.SiLU()
    return nn.Sequential(OrderedDict(parts))


class MixedConvs(nn.ModuleList):
    def __init__(self, convs: list[nn.Conv2d], widths: list[int]) -> None:
        super().__init__(convs)
        self.widths = widths

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(part) for conv, part in zip(self, x.split(self.widths, 1), strict=True)], 1)


class ReferenceMixUnit(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        counts: tuple[int, int, int],
        factors: tuple[int, int],
        act: str,
        shuffle: bool,
    ) -> None:
        super().__init__()
        inner = factors[0] * inputs
        self.exp_conv = unit(inputs, inner, [1] * counts[0], act=act) if factors[0] > 1 else None
        sides = [3 + 2 * i for i in range(counts[1])]
        self.conv1 = unit(inner, inner, sides, stride=stride, depthwise=True, act=act)
        self.se = None
        if factors[1]:
            width = inner // (factors[0] * factors[1])
            self.se = nn.Module()
            self.se.conv1, self.se.conv2 = nn.Conv2d(inner, width, 1), nn.Conv2d(width, inner, 1)
        self.conv2 = unit(inner, outputs, [1] * counts[2])
        self.residual, self.shuffle = stride == 1 and inputs == outputs, shuffle

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(x if self.exp_conv is None else self.exp_conv(x))
        if self.se is not None:
            gate = self.se.conv2(nn.functional.silu(self.se.conv1(out.mean((2, 3), keepdim=True))))
            out = out * gate.sigmoid()
        out = self.conv2(out)
        out = out + x if self.residual else out
        return torch.cat((out[:, 0::2], out[:, 1::2]), 1) if self.shuffle else out


class ReferenceMixFaceNet(nn.Module):
    """The ``s`` table of the authors' code, list by list, at width 1 or 0.5."""

    def __init__(self, half: bool, last: int, shuffle: bool) -> None:
        super().__init__()
        widths = [[24] * 2, [40] * 4, [80] * 3, [120] * 3 + [200] * 3]
        if half:
            widths = [[16] * 2, [24] * 4, [40] * 3, [64] * 3 + [104] * 3]
        first = [[2, 2], [1, 2, 2, 2], [1, 1, 1], [2, 2, 2, 1, 1, 1]]
        middle = [[1, 1], [3, 2, 2, 2], [3, 2, 2], [3, 4, 4, 5, 4, 4]]
        second = [[2, 2], [1, 2, 2, 2], [2, 2, 2], [2, 2, 2, 1, 2, 2]]
        factors = [[6, 3], [6] * 4, [6] * 3, [6, 3, 3, 6, 6, 6]]
        ratios = [[0, 0], [2] * 4, [4] * 3, [2] * 6]
        inputs = 8 if half else 16
        start = nn.Sequential()
        start.add_module("conv1", unit(3, inputs, [3], stride=2, act="prelu"))
        start.add_module("conv2", ReferenceMixUnit(inputs, inputs, 1, (1, 1, 1), (1, 0), "prelu", shuffle))
        self.features = nn.Sequential(OrderedDict(init_block=start))
        for i in range(4):
            stage = nn.Sequential()
            for j, outputs in enumerate(widths[i]):
                stride = 2 if (j == 0 and i in (1, 2)) or (i == 3 and j == 3) else 1
                counts = (first[i][j], middle[i][j], second[i][j])
                act = "silu" if i else "prelu"
                block = ReferenceMixUnit(inputs, outputs, stride, counts, (factors[i][j], ratios[i][j]), act, shuffle)
                stage.add_module(f"unit{j + 1}", block)
                inputs = outputs
            self.features.add_module(f"stage{i + 1}", stage)
        self.tail = unit(inputs, last, [1], act="prelu")
        self.feautre_layer = nn.Module()
        self.feautre_layer.dw_conv = nn.Sequential(
            OrderedDict(conv=nn.Conv2d(last, last, 7, groups=last, bias=False), bn=nn.BatchNorm2d(last))
        )
        self.feautre_layer.pw_conv = nn.Sequential(OrderedDict(conv=nn.Conv2d(last, 512, 1, bias=False)))
        self.features_norm = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.feautre_layer.dw_conv(self.tail(self.features(x)))
        return self.features_norm(self.feautre_layer.pw_conv(pooled).flatten(1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_outputs_equal_mixfacenets_layout(shuffle: bool) -> None:
    reference = with_lively_weights(ReferenceMixFaceNet(half=True, last=512, shuffle=shuffle), 112)
    model = facezoo.create_model("shuffle_mixfacenet_xs" if shuffle else "mixfacenet_xs")
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == "mixfacenet.mixfacenet"
    assert report.loaded == len(reference.state_dict())
    outputs_agree(reference, model, size=112)


def test_names_of_mixfacenet_s() -> None:
    with torch.device("meta"):
        reference = ReferenceMixFaceNet(half=False, last=1024, shuffle=False)
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec("mixfacenet_s"))
    found = find_adapter(reference.state_dict().keys())
    assert found is not None
    assert shapes(found.convert(reference.state_dict())) == shapes(model.state_dict())


# --- insightface's ViT: a reference network with its names, written from its description


class ReferenceViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[2]
        query, key, value = self.attn.qkv(self.norm1(x)).chunk(3, dim=2)
        mixed = []
        for head in range(self.heads):
            part = slice(head * width // self.heads, (head + 1) * width // self.heads)
            scores = torch.einsum("nic,njc->nij", query[..., part], key[..., part]) * (width // self.heads) ** -0.5
            mixed.append(torch.einsum("nij,njc->nic", scores.softmax(2), value[..., part]))
        x = x + self.attn.proj(torch.cat(mixed, dim=2))
        return x + self.mlp.fc2(nn.functional.relu6(self.mlp.fc1(self.norm2(x))))


class ReferenceViT(nn.Module):
    def __init__(self, width: int, depth: int, heads: int = 8) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 144, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, 9, 9)
        self.blocks = nn.Sequential(*(ReferenceViTBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(144 * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, 512, bias=False),
            nn.BatchNorm1d(512, eps=2e-5),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.feature(self.norm(self.blocks(tokens)).flatten(1))


def test_outputs_equal_insightfaces_vit() -> None:
    reference = with_random_weights(ReferenceViT(256, 12))
    model = facezoo.create_model("vit_t")
    report = load_checkpoint(model, reference.state_dict())
    assert report.source == "insightface.vit"
    assert report.loaded == len(reference.state_dict()) - 1  # mask_token
    outputs_agree(reference, model, size=112)


@pytest.mark.parametrize(("size", "width", "depth"), [("s", 512, 12), ("b", 512, 24), ("l", 768, 24)])
def test_names_of_the_other_insightface_vits(size: str, width: int, depth: int) -> None:
    with torch.device("meta"):
        reference = ReferenceViT(width, depth)
        model = facezoo.models.FaceNetwork(facezoo.models.get_model_spec(f"vit_{size}"))
    found = find_adapter(reference.state_dict().keys())
    assert found is not None
    assert found.name == "insightface.vit"
    assert shapes(found.convert(reference.state_dict())) == shapes(model.state_dict())
