"""Every layout of checkpoints that facezoo reads: the library's own network, and the network of facezoo that is the same.

``fixtures/ADAPTER/MODEL.json`` has the names and shapes of one checkpoint, frozen; ``python tests/weights/layouts.py`` writes those
that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from peer_mobilefacenets import FoamliuMobileFaceNet, InsightFacePytorchMobileFaceNet
from peer_networks import (
    AuthorsConvNeXt,
    EdgeFace,
    FaceNet,
    InsightfaceIResNet,
    InsightfaceMobileFaceNet,
    InsightfaceViT,
    IRNetwork,
    LightCNN9,
    LightCNN29,
    LightCNN29V2,
    MixFaceNet,
    PaperMobileFaceNet,
    SphereNetwork,
    ir_network,
)
from torch import nn

import facezoo
from facezoo.counting import without_storage

FIXTURES = Path(__file__).parent / "fixtures"
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """A checkpoint of another library.

    Attributes:
        adapter: name of the adapter that reads it.
        model: facezoo's name of the network.
        build: makes the library's network.
        arguments: arguments of ``create_model`` under which both are the same.
        side: side of the images on which the outputs are compared, 0 for the network's own; None: names and shapes only.
        lively: give the reference running statistics of its own signals, since gates at a half would fade those out.
        left_out: ends of the names that have no place in facezoo's network.
    """

    adapter: str
    model: str
    build: Callable[[], nn.Module]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    side: int | None = None
    lively: bool = False
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.adapter}-{self.model}"

    @property
    def fixture(self) -> Path:
        """Where its names and shapes are frozen, if they are."""
        return FIXTURES / self.adapter / f"{self.model}.json"

    def shapes(self) -> Shapes:
        """Names and shapes of the library's network."""
        with without_storage():
            return shapes(self.build().state_dict())


def shapes(state_dict: Mapping[str, torch.Tensor]) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in state_dict.items()}


def read_fixture(layout: Layout) -> Shapes:
    return {key: tuple(shape) for key, shape in json.loads(layout.fixture.read_text()).items()}


def write_fixture(layout: Layout) -> None:
    lines = ",\n".join(f" {json.dumps(key)}: {list(shape)}" for key, shape in layout.shapes().items())
    layout.fixture.parent.mkdir(parents=True, exist_ok=True)
    layout.fixture.write_text("{\n" + lines + "\n}\n")


def from_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, **options)


def from_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(torchvision.models, name)(**options)


def regnet(size: str) -> Callable[[], nn.Module]:
    """torchvision's RegNet computes its widths with tensors and cannot be built on the meta device."""

    def build() -> nn.Module:
        with torch.device("cpu"):
            return from_torchvision(f"regnet_y_{size}")()

    return build


def with_attention(name: str, attention: str) -> Callable[[], nn.Module]:
    return from_timm(name, block_args={"attn_layer": attention})


IMAGENET = {"stem": "imagenet", "embedding_dim": None, "num_classes": 1000}
IMAGENET_224 = {**IMAGENET, "img_size": 224}
NARROW = {"img_size": (112, 96)}
LIGHTCNN = {"in_chans": 1, "img_size": 128, "embedding_dim": 256, "num_classes": 10}
SWIN = {"left_out": ("relative_position_index", "attn_mask")}


def imagenet(
    adapter: str, model: str, build: Callable[[], nn.Module], side: int | None = None, **more: Any
) -> Iterator[Layout]:
    """One network in its published form, for images of ``side`` where the outputs are compared."""
    yield Layout(adapter, model, build, {**IMAGENET, "img_size": side or 224}, side, **more)


def first_strides(name: str) -> Callable[[], nn.Module]:
    """torchvision's ResNet with the strides of its bottlenecks in the first convolution, as in the paper."""

    def build() -> nn.Module:
        network = getattr(torchvision.models, name)()
        for block in network.modules():
            if isinstance(block, torchvision.models.resnet.Bottleneck):
                block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
        return network

    return build


def _torchvision() -> Iterator[Layout]:
    source = "torchvision"
    for name in ("resnet18", "resnet50"):
        yield from imagenet(f"{source}.resnet", name, from_torchvision(name), 96)
    names = ("resnet34", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")
    for name in (*names, "wide_resnet50_2", "wide_resnet101_2"):
        yield from imagenet(f"{source}.resnet", name, from_torchvision(name))
    for name in ("resnet200", "resnext101_32x4d"):  # without attention, timm's have the same keys
        yield from imagenet(f"{source}.resnet", name, from_timm(name))
    for size, side in (("tiny", 96), ("small", None), ("base", None), ("large", None)):
        yield from imagenet(f"{source}.convnext", f"convnext_{size}", from_torchvision(f"convnext_{size}"), side)
    yield from imagenet(f"{source}.mobilenet_v2", "mobilenet_v2", from_torchvision("mobilenet_v2"), 96)
    for size, side in (("400mf", 96), ("800mf", None), ("1_6gf", None), ("3_2gf", None), ("8gf", None)):
        yield from imagenet(f"{source}.regnet_y", f"regnet_y_{size}", regnet(size), side)
    for depth, side in ((11, 96), (13, None), (16, None), (19, None)):
        build = from_torchvision(f"vgg{depth}_bn", init_weights=False)
        yield from imagenet(f"{source}.vgg_bn", f"vgg{depth}_bn", build, side)
    for depth, side in ((121, 96), (169, None), (201, None)):
        yield from imagenet(f"{source}.densenet", f"densenet{depth}", from_torchvision(f"densenet{depth}"), side)
    for size, side in (("small", 96), ("large", None)):
        name = f"mobilenet_v3_{size}"
        yield from imagenet(f"{source}.mobilenet_v3", name, from_torchvision(name), side, lively=True)
    for index, side in enumerate((96, None, None, None)):
        name = f"efficientnet_b{index}"
        yield from imagenet(f"{source}.efficientnet", name, from_torchvision(name), side, lively=True)
    for size, side in (("x0_5", 96), ("x1_0", None), ("x1_5", None), ("x2_0", None)):
        name = f"shufflenet_v2_{size}"
        yield from imagenet(f"{source}.shufflenet_v2", name, from_torchvision(name), side, lively=True)
    for size, side in (("tiny", 120), ("small", None), ("base", None)):  # padded windows, an odd map before a merge
        yield from imagenet(f"{source}.swin", f"swin_{size}", from_torchvision(f"swin_{size[0]}"), side, **SWIN)


def _timm() -> Iterator[Layout]:
    for depth, side in ((18, 96), (34, None), (50, None), (101, None), (152, None)):
        yield from imagenet("timm.resnet", f"se_resnet{depth}", from_timm(f"seresnet{depth}"), side)
    for name in ("resnext50_32x4d", "resnext101_32x4d", "resnext101_32x8d"):
        yield from imagenet("timm.resnet", f"se_{name}", from_timm(f"se{name}"))
    for attention in ("eca", "cbam"):
        for depth, side in ((18, 96), (34, None), (50, None), (101, None), (152, None)):
            build = with_attention(f"resnet{depth}", attention)
            yield from imagenet("timm.resnet", f"{attention}_resnet{depth}", build, side)
    for depth, side in ((18, 96), (34, None), (50, None), (101, None), (152, None), (200, None)):
        yield from imagenet("timm.resnet_d", f"resnet{depth}d", from_timm(f"resnet{depth}d"), side)
    for depth, side in ((50, 96), (101, None), (152, None)):
        yield from imagenet("timm.resnet_d", f"resnet{depth}c", from_timm(f"resnet{depth}c"), side)
        build = first_strides(f"resnet{depth}")
        yield from imagenet("torchvision.resnet", f"resnet{depth}_v1", build, side)
    for depth in (50, 101, 200):
        yield from imagenet("timm.resnet_d", f"eca_resnet{depth}d", from_timm(f"ecaresnet{depth}d"))
    sizes = ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large")
    for size in sizes:
        side = 96 if size == "atto" else None
        yield from imagenet("timm.convnext", f"convnext_{size}", from_timm(f"convnext_{size}"), side)
    for size in (size for size in sizes if size != "small"):
        side = 96 if size == "atto" else None
        yield from imagenet("timm.convnext", f"convnextv2_{size}", from_timm(f"convnextv2_{size}"), side)
    yield from imagenet("timm.mobilenet_v2", "mobilenet_v2", from_timm("mobilenetv2_100"))
    for width, side in (("035", 96), ("050", None), ("075", None), ("140", None)):
        build = from_timm(f"mobilenetv2_{width}")
        yield from imagenet("timm.mobilenet_v2", f"mobilenet_v2_{width}", build, side, lively=True)
    for size, side in (("a0", 96), ("a1", None), ("a2", None), ("b0", None), ("b1", None)):
        yield from imagenet("timm.repvgg", f"repvgg_{size}", from_timm(f"repvgg_{size}"), side)
    for size, side in (("small", 96), ("large", None)):
        build = from_timm(f"mobilenetv3_{size}_100")
        yield from imagenet("timm.mobilenet_v3", f"mobilenet_v3_{size}", build, side, lively=True)
    for index, side in enumerate((96, None, None, None)):
        name = f"efficientnet_b{index}"
        yield from imagenet("timm.efficientnet", name, from_timm(name), side, lively=True)
    for size, side in (("050", 96), ("100", None), ("130", None)):
        yield from imagenet("timm.ghostnet", f"ghostnet_{size}", from_timm(f"ghostnet_{size}"), side, lively=True)
    for size, side in (("xx_small", 96), ("x_small", None), ("small", None), ("base", None)):
        yield from imagenet("timm.edgenext", f"edgenext_{size}", from_timm(f"edgenext_{size}"), side, lively=True)
    for size, side in (("tiny", 96), ("small", None), ("base", None)):
        build = from_timm(f"vit_{size}_patch16_224", img_size=side or 224)
        yield from imagenet("timm.vit", f"vit_{size}_patch16", build, side)
    for size, side in (("tiny", 224), ("small", None), ("base", None)):
        build = from_timm(f"swin_{size}_patch4_window7_224")
        yield from imagenet("timm.swin", f"swin_{size}", build, side, **SWIN)


def _face_libraries() -> Iterator[Layout]:
    yield from imagenet("convnext.convnext", "convnext_tiny", lambda: AuthorsConvNeXt(96, (3, 3, 9, 3)), 64)
    yield from imagenet("convnext.convnext", "convnextv2_atto", lambda: AuthorsConvNeXt(40, (2, 2, 6, 2), v2=True), 64)
    yield Layout("insightface.iresnet", "iresnet18", InsightfaceIResNet, side=0)
    for size, depths in {34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}.items():
        yield Layout("insightface.iresnet", f"iresnet{size}", lambda depths=depths: InsightfaceIResNet(depths))
    yield Layout("insightface.mobilefacenet", "mobilefacenet", InsightfaceMobileFaceNet, side=0)
    build = lambda: InsightfaceMobileFaceNet((2, 8, 12, 4), 4)  # noqa: E731
    yield Layout("insightface.mobilefacenet", "mobilefacenet_large", build)
    for size, width, depth in (("t", 256, 12), ("s", 512, 12), ("b", 512, 24), ("l", 768, 24)):
        build = lambda width=width, depth=depth: InsightfaceViT(width, depth)  # noqa: E731
        side = 0 if size == "t" else None
        yield Layout("insightface.vit", f"vit_{size}", build, side=side, left_out=("mask_token",))
    yield Layout("cvlface.ir", "ir_18", lambda: ir_network("ir_18"))
    yield Layout("cvlface.ir", "ir_se_18", lambda: IRNetwork((2, 2, 2, 2), kind="cvlface", se=True), side=0)
    for name in ("ir_50", "ir_101", "ir_152", "ir_se_101"):
        yield Layout("cvlface.ir", name, lambda name=name: ir_network(name))
    yield Layout("face_evolve.ir", "ir_se_50_evolve", lambda: ir_network("ir_se_50_evolve"), side=0)
    yield Layout(
        "facenet_pytorch.inception_resnet_v1",
        "inception_resnet_v1",
        FaceNet,
        {"stem": "imagenet", "img_size": 160, "num_classes": 10},
        side=0,
    )
    yield Layout(
        "mobilefacenet_pytorch.mobilefacenet",
        "mobilefacenet_paper",
        PaperMobileFaceNet,
        {"embedding_dim": 128, **NARROW},
        side=0,
    )
    yield Layout("insightface_pytorch.mobilefacenet", "mobilefacenet_paper", InsightFacePytorchMobileFaceNet, side=0)
    yield Layout("foamliu.mobilefacenet", "mobilefacenet_foamliu", FoamliuMobileFaceNet, {"embedding_dim": 128}, side=0)
    build = lambda: InsightfaceViT(512, 24, 16, ratio=3, patch=8, masks=False)  # noqa: E731
    yield Layout("cvlface.vit", "cvlface_vit_base", build)
    build = from_timm("vit_tiny_patch16_224", patch_size=8, img_size=112, num_classes=512)
    yield Layout("timm_face.vit", "vit_tiny_patch8", build, side=0)
    mean = {"class_token": False, "global_pool": "avg"}
    build = from_timm("vit_small_patch16_224", patch_size=8, img_size=112, num_classes=512, **mean)
    yield Layout("timm_face.vit", "vit_small_patch8_gap", build, side=0)
    for size, side in (("atto", 0), ("nano", 0)):
        build = from_timm(f"convnext_{size}", patch_size=2, num_classes=512)
        yield Layout("timm_face.convnext", f"convnext_{size}_p2", build, side=side)
    yield Layout("sphereface.sphereface", "sphereface20", SphereNetwork, NARROW, side=0, left_out=("fc6.weight",))
    build = lambda: SphereNetwork((3, 8, 16, 3))  # noqa: E731
    yield Layout("sphereface.sphereface", "sphereface64", build, NARROW, left_out=("fc6.weight",))
    yield Layout("lightcnn.lightcnn9", "lightcnn9", LightCNN9, LIGHTCNN, side=0)
    yield Layout("lightcnn.lightcnn29", "lightcnn29", LightCNN29, LIGHTCNN, side=0)
    yield Layout("lightcnn.lightcnn29_v2", "lightcnn29_v2", LightCNN29V2, LIGHTCNN, side=0)
    for name, size, ratio, side in (
        ("edgeface_xxs", "xx_small", None, None),
        ("edgeface_xs", "x_small", 0.6, 0),
        ("edgeface_s", "small", 0.5, None),
        ("edgeface_base", "base", None, None),
    ):
        build = lambda size=size, ratio=ratio: EdgeFace(size, ratio)  # noqa: E731
        yield Layout("edgeface.edgeface", name, build, side=side)
    for name, half, last, shuffle, side in (
        ("mixfacenet_xs", True, 512, False, 0),
        ("shuffle_mixfacenet_xs", True, 512, True, 0),
        ("mixfacenet_s", False, 1024, False, None),
    ):
        build = lambda arguments=(half, last, shuffle): MixFaceNet(*arguments)  # noqa: E731
        yield Layout("mixfacenet.mixfacenet", name, build, side=side, lively=True)


def _facezoo() -> Iterator[Layout]:
    """facezoo's own names: to change one would make published weights unreadable."""
    for name in ("se_resnet18", "convnextv2_atto", "vit_tiny_patch16", "swin_tiny"):
        build = lambda name=name: facezoo.create_model(name, num_classes=10)  # noqa: E731
        yield Layout("facezoo.native", name, build, {"num_classes": 10})


LAYOUTS = [*_torchvision(), *_timm(), *_face_libraries(), *_facezoo()]
WITH_OUTPUTS = [layout for layout in LAYOUTS if layout.side is not None]
FROZEN = [layout for layout in LAYOUTS if layout.fixture.exists()]
OTHERS = [layout for layout in LAYOUTS if layout.side is None and layout not in FROZEN]

# The smallest network of every layout, and where a layout has several forms one of each.
MUST_BE_FROZEN = {
    "torchvision.resnet": ("resnet18", "resnet50"),
    "torchvision.convnext": ("convnext_tiny",),
    "torchvision.mobilenet_v2": ("mobilenet_v2",),
    "torchvision.regnet_y": ("regnet_y_400mf",),
    "torchvision.vgg_bn": ("vgg11_bn",),
    "torchvision.densenet": ("densenet121",),
    "torchvision.mobilenet_v3": ("mobilenet_v3_small",),
    "torchvision.efficientnet": ("efficientnet_b0",),
    "torchvision.shufflenet_v2": ("shufflenet_v2_x0_5",),
    "torchvision.swin": ("swin_tiny",),
    "timm.resnet": ("se_resnet18", "eca_resnet18", "cbam_resnet18"),
    "timm.resnet_d": ("resnet18d",),
    "timm.convnext": ("convnext_atto", "convnext_tiny", "convnextv2_atto"),
    "timm.mobilenet_v2": ("mobilenet_v2_035",),
    "timm.repvgg": ("repvgg_a0",),
    "timm.mobilenet_v3": ("mobilenet_v3_small",),
    "timm.efficientnet": ("efficientnet_b0",),
    "timm.ghostnet": ("ghostnet_050",),
    "timm.edgenext": ("edgenext_xx_small",),
    "timm.vit": ("vit_tiny_patch16",),
    "timm.swin": ("swin_tiny",),
    "convnext.convnext": ("convnext_tiny", "convnextv2_atto"),
    "insightface.iresnet": ("iresnet18",),
    "insightface.mobilefacenet": ("mobilefacenet", "mobilefacenet_large"),
    "insightface.vit": ("vit_t",),
    "cvlface.ir": ("ir_50", "ir_152", "ir_se_18"),
    "face_evolve.ir": ("ir_se_50_evolve",),
    "facenet_pytorch.inception_resnet_v1": ("inception_resnet_v1",),
    "mobilefacenet_pytorch.mobilefacenet": ("mobilefacenet_paper",),
    "insightface_pytorch.mobilefacenet": ("mobilefacenet_paper",),
    "foamliu.mobilefacenet": ("mobilefacenet_foamliu",),
    "cvlface.vit": ("cvlface_vit_base",),
    "timm_face.vit": ("vit_tiny_patch8", "vit_small_patch8_gap"),
    "timm_face.convnext": ("convnext_atto_p2",),
    "sphereface.sphereface": ("sphereface20", "sphereface64"),
    "lightcnn.lightcnn9": ("lightcnn9",),
    "lightcnn.lightcnn29": ("lightcnn29",),
    "lightcnn.lightcnn29_v2": ("lightcnn29_v2",),
    "edgeface.edgeface": ("edgeface_xxs", "edgeface_xs"),
    "mixfacenet.mixfacenet": ("mixfacenet_xs",),
    "facezoo.native": ("se_resnet18", "convnextv2_atto", "vit_tiny_patch16", "swin_tiny"),
}

if __name__ == "__main__":
    for layout in LAYOUTS:
        if layout.model in MUST_BE_FROZEN[layout.adapter] and not layout.fixture.exists():
            write_fixture(layout)
            print(layout.fixture)
