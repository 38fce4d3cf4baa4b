"""Networks with the names, shapes and order of computation of other libraries, written from their published definitions.

They are what the adapters are tested against where the library itself is not installed. The names of their submodules are those
of the checkpoints; everything else is as short as it can be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import timm
import torch
from torch import Tensor, nn


def conv(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, stride, side // 2, groups=groups, bias=False)


# --- IR and IR-SE: CVLface and AdaFace, face.evoLVe


class Gate(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


class IRUnit(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, *, kind: str, se: bool) -> None:
        super().__init__()
        narrow = outputs // 4
        layers: list[nn.Module] = {
            "cvlface": lambda: [
                *(nn.BatchNorm2d(inputs), conv(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.PReLU(outputs)),
                *(conv(outputs, outputs, 3, stride), nn.BatchNorm2d(outputs)),
            ],
            "bottleneck": lambda: [
                *(nn.BatchNorm2d(inputs), conv(inputs, narrow, 1), nn.BatchNorm2d(narrow), nn.PReLU(narrow)),
                *(conv(narrow, narrow, 3), nn.BatchNorm2d(narrow), nn.PReLU(narrow)),
                *(conv(narrow, outputs, 1, stride), nn.BatchNorm2d(outputs)),
            ],
            "evolve": lambda: [
                *(nn.BatchNorm2d(inputs), conv(inputs, outputs, 3), nn.PReLU(outputs)),
                *(conv(outputs, outputs, 3, stride), nn.BatchNorm2d(outputs)),
            ],
        }[kind]()
        self.res_layer = nn.Sequential(*layers)
        if se:
            name = str(len(layers)) if kind == "evolve" else "se_block"
            self.res_layer.add_module(name, Gate(outputs))
        self.shortcut_layer = (
            nn.MaxPool2d(1, stride)
            if inputs == outputs
            else nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRNetwork(nn.Module):
    """``kind``: ``"cvlface"`` (up to 101 layers), ``"bottleneck"`` (CVLface's 152 and 200 layers), ``"evolve"``."""

    def __init__(self, depths: Sequence[int], *, kind: str, se: bool = False) -> None:
        super().__init__()
        widths = (256, 512, 1024, 2048) if kind == "bottleneck" else (64, 128, 256, 512)
        self.input_layer = nn.Sequential(conv(3, 64, 3), nn.BatchNorm2d(64), nn.PReLU(64))
        units, inputs = [], 64
        for depth, width in zip(depths, widths, strict=True):
            for index in range(depth):
                units.append(IRUnit(inputs, width, 2 if index == 0 else 1, kind=kind, se=se))
                inputs = width
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            *(nn.BatchNorm2d(inputs), nn.Dropout(0.4), nn.Flatten(), nn.Linear(inputs * 49, 512)),
            nn.BatchNorm1d(512, affine=kind == "evolve"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(x)))


IR_DEPTHS = {
    "ir_18": ("cvlface", (2, 2, 2, 2)),
    "ir_34": ("cvlface", (3, 4, 6, 3)),
    "ir_50": ("cvlface", (3, 4, 14, 3)),
    "ir_101": ("cvlface", (3, 13, 30, 3)),
    "ir_152": ("bottleneck", (3, 8, 36, 3)),
    "ir_200": ("bottleneck", (3, 24, 36, 3)),
    "ir_50_evolve": ("evolve", (3, 4, 14, 3)),
    "ir_101_evolve": ("evolve", (3, 13, 30, 3)),
    "ir_152_evolve": ("evolve", (3, 8, 36, 3)),
}


def ir_network(name: str) -> IRNetwork:
    """The counterpart of facezoo's ``ir_*`` or ``ir_se_*`` network."""
    kind, depths = IR_DEPTHS[name.replace("ir_se_", "ir_")]
    return IRNetwork(depths, kind=kind, se=name.startswith("ir_se_"))


# --- MobileFaceNet: insightface's mbf, and the paper's form as MobileFaceNet_Pytorch has it


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
    unit = nn.Conv2d(inputs, outputs, side, stride, pad, groups=groups, bias=False)
    return Layers(unit, nn.BatchNorm2d(outputs), *([nn.PReLU(outputs)] if act else []))


def separable(inputs: int, inner: int, outputs: int, *, stride: int = 1, residual: bool = False) -> Layers:
    depthwise = conv_unit(inner, inner, 3, stride=stride, pad=1, groups=inner)
    return Layers(conv_unit(inputs, inner, 1), depthwise, conv_unit(inner, outputs, 1, act=False), residual=residual)


def separables(count: int, width: int, inner: int) -> Layers:
    return Layers(*(separable(width, inner, width, residual=True) for _ in range(count)))


class InsightfaceMobileFaceNet(nn.Module):
    def __init__(self, blocks: Sequence[int] = (1, 4, 6, 2), scale: int = 2) -> None:
        super().__init__()
        narrow, wide = 64 * scale, 128 * scale
        self.layers = nn.ModuleList(
            [
                conv_unit(3, narrow, 3, stride=2, pad=1),
                conv_unit(narrow, narrow, 3, pad=1, groups=64)
                if blocks[0] == 1
                else separables(blocks[0], narrow, 128),
                separable(narrow, 128, narrow, stride=2),
                separables(blocks[1], narrow, 128),
                separable(narrow, 256, wide, stride=2),
                separables(blocks[2], wide, 256),
                separable(wide, 512, wide, stride=2),
                separables(blocks[3], wide, 256),
            ]
        )
        self.conv_sep = conv_unit(wide, 512, 1)
        pool = conv_unit(512, 512, 7, groups=512, act=False)
        self.features = Layers(pool, nn.Flatten(), nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.features(self.conv_sep(x))


class NamedUnit(nn.Module):
    def __init__(self, convolution: nn.Conv2d, act: bool = True) -> None:
        super().__init__()
        self.conv = convolution
        self.bn = nn.BatchNorm2d(convolution.out_channels)
        if act:
            self.prelu = nn.PReLU(convolution.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.prelu(x) if hasattr(self, "prelu") else x


class PaperBottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.connect = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *(conv(inputs, inner, 1), nn.BatchNorm2d(inner), nn.PReLU(inner)),
            *(conv(inner, inner, 3, stride, inner), nn.BatchNorm2d(inner), nn.PReLU(inner)),
            *(conv(inner, outputs, 1), nn.BatchNorm2d(outputs)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.connect else self.conv(x)


class PaperMobileFaceNet(nn.Module):
    """Table 1 of 1804.07573, for images of 112×96 unless ``map_size`` says otherwise."""

    def __init__(self, map_size: tuple[int, int] = (7, 6)) -> None:
        super().__init__()
        self.conv1 = NamedUnit(conv(3, 64, 3, 2))
        self.dw_conv1 = NamedUnit(conv(64, 64, 3, 1, 64))
        blocks, inputs = [], 64
        for expansion, width, depth, stride in (
            *((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1)),
            *((4, 128, 1, 2), (2, 128, 2, 1)),
        ):
            for index in range(depth):
                blocks.append(PaperBottleneck(inputs, width, stride if index == 0 else 1, expansion))
                inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = NamedUnit(conv(128, 512, 1))
        self.linear7 = NamedUnit(nn.Conv2d(512, 512, map_size, groups=512, bias=False), act=False)
        self.linear1 = NamedUnit(conv(512, 128, 1), act=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.dw_conv1(self.conv1(x))))
        return self.linear1(self.linear7(x)).flatten(1)


# --- SphereFace: sphereface_pytorch


class SphereNetwork(nn.Module):
    def __init__(self, depths: Sequence[int] = (1, 2, 4, 1), classes: int = 10) -> None:
        super().__init__()
        self.depths = depths
        inputs = 3
        for stage, (depth, width) in enumerate(zip(depths, (64, 128, 256, 512), strict=True), start=1):
            for layer in range(1, 2 * depth + 2):
                setattr(self, f"conv{stage}_{layer}", nn.Conv2d(inputs, width, 3, 2 if layer == 1 else 1, 1))
                setattr(self, f"relu{stage}_{layer}", nn.PReLU(width))
                inputs = width
        self.fc5 = nn.Linear(512 * 7 * 6, 512)
        self.fc6 = nn.ParameterDict({"weight": torch.randn(512, classes)})

    def layer(self, x: Tensor, stage: int, layer: int) -> Tensor:
        return getattr(self, f"relu{stage}_{layer}")(getattr(self, f"conv{stage}_{layer}")(x))

    def forward(self, x: Tensor) -> Tensor:
        for stage, depth in enumerate(self.depths, start=1):
            x = self.layer(x, stage, 1)
            for unit in range(1, depth + 1):
                x = x + self.layer(self.layer(x, stage, 2 * unit), stage, 2 * unit + 1)
        return self.fc5(x.flatten(1))


# --- Light CNN: LightCNN


class MFM(nn.Module):
    def __init__(self, inputs: int, outputs: int, side: int = 3) -> None:
        super().__init__()
        linear = side == 0
        self.filter = (
            nn.Linear(inputs, 2 * outputs) if linear else nn.Conv2d(inputs, 2 * outputs, side, padding=side // 2)
        )
        self.outputs = outputs

    def forward(self, x: Tensor) -> Tensor:
        x = self.filter(x)
        return torch.max(x[:, : self.outputs], x[:, self.outputs :])


class MFMGroup(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_a = MFM(inputs, inputs, 1)
        self.conv = MFM(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv_a(x))


class MFMResidual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = MFM(width, width)
        self.conv2 = MFM(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.conv1(x))


class LightCNN9(nn.Module):
    def __init__(self, classes: int = 10, inputs: int = 1, cells: int = 64) -> None:
        super().__init__()

        def pool() -> nn.Module:
            return nn.MaxPool2d(2, 2, ceil_mode=True)

        self.features = nn.Sequential(
            *(MFM(inputs, 48, 5), pool(), MFMGroup(48, 96), pool(), MFMGroup(96, 192), pool()),
            *(MFMGroup(192, 128), MFMGroup(128, 128), pool()),
        )
        self.fc1 = MFM(cells * 128, 256, 0)
        self.fc2 = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.features(x).flatten(1)))


class LightCNN29(nn.Module):
    def __init__(self, classes: int = 10, inputs: int = 1, cells: int = 64) -> None:
        super().__init__()
        self.conv1 = MFM(inputs, 48, 5)
        self.pool = nn.MaxPool2d(2, 2, ceil_mode=True)
        for index, (depth, width, wider) in enumerate(
            ((1, 48, 96), (2, 96, 192), (3, 192, 128), (4, 128, 128)), start=1
        ):
            setattr(self, f"block{index}", nn.Sequential(*(MFMResidual(width) for _ in range(depth))))
            setattr(self, f"group{index}", MFMGroup(width, wider))
        self.fc = MFM(cells * 128, 256, 0)
        self.fc2 = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x))
        x = self.pool(self.group1(self.block1(x)))
        x = self.pool(self.group2(self.block2(x)))
        x = self.group3(self.block3(x))
        x = self.pool(self.group4(self.block4(x)))
        return self.fc2(self.fc(x.flatten(1)))


class LightCNN29V2(LightCNN29):
    """Pools of maximum plus mean, a linear embedding, a classifier without bias."""

    def __init__(self, classes: int = 10, inputs: int = 1, cells: int = 64) -> None:
        super().__init__(classes, inputs, cells)
        self.fc = nn.Linear(cells * 128, 256)
        self.fc2 = nn.Linear(256, classes, bias=False)

        def pool(x: Tensor) -> Tensor:
            return nn.functional.max_pool2d(x, 2) + nn.functional.avg_pool2d(x, 2)

        del self.pool
        self.pool = pool


# --- Inception-ResNet-v1: facenet-pytorch


class Basic(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        side: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, side, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Side(nn.Module):
    """Branches ``branch0, branch1, …`` side by side; then a projection to a residual, or a max-pool as one more branch."""

    def __init__(
        self, branches: Sequence[nn.Module], project: nn.Module | None = None, scale: float = 1.0, act: bool = True
    ) -> None:
        super().__init__()
        self.count, self.scale, self.act = len(branches), scale, act
        for index, branch in enumerate(branches):
            setattr(self, f"branch{index}", branch)
        if project is not None:
            self.conv2d = project

    def forward(self, x: Tensor) -> Tensor:
        outputs = [getattr(self, f"branch{index}")(x) for index in range(self.count)]
        if not hasattr(self, "conv2d"):
            return torch.cat([*outputs, nn.functional.max_pool2d(x, 3, 2)], 1)
        x = self.conv2d(torch.cat(outputs, 1)) * self.scale + x
        return torch.relu(x) if self.act else x


def block35() -> Side:
    return Side(
        [
            Basic(256, 32, 1),
            nn.Sequential(Basic(256, 32, 1), Basic(32, 32, 3, padding=1)),
            nn.Sequential(Basic(256, 32, 1), Basic(32, 32, 3, padding=1), Basic(32, 32, 3, padding=1)),
        ],
        nn.Conv2d(96, 256, 1),
        0.17,
    )


def asymmetric(inputs: int, width: int, side: int, scale: float, act: bool = True) -> Side:
    """Block17 and Block8: a 1×1 branch beside one with a row and a column kernel."""
    row, column = Basic(width, width, (1, side), 1, (0, side // 2)), Basic(width, width, (side, 1), 1, (side // 2, 0))
    branches = [Basic(inputs, width, 1), nn.Sequential(Basic(inputs, width, 1), row, column)]
    return Side(branches, nn.Conv2d(2 * width, inputs, 1), scale, act)


class FaceNet(nn.Module):
    """Without the L2 normalization at its end."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv2d_1a = Basic(3, 32, 3, 2)
        self.conv2d_2a = Basic(32, 32, 3)
        self.conv2d_2b = Basic(32, 64, 3, 1, 1)
        self.conv2d_3b = Basic(64, 80, 1)
        self.conv2d_4a = Basic(80, 192, 3)
        self.conv2d_4b = Basic(192, 256, 3, 2)
        self.repeat_1 = nn.Sequential(*(block35() for _ in range(5)))
        self.mixed_6a = Side(
            [
                Basic(256, 384, 3, 2),
                nn.Sequential(Basic(256, 192, 1), Basic(192, 192, 3, padding=1), Basic(192, 256, 3, 2)),
            ]
        )
        self.repeat_2 = nn.Sequential(*(asymmetric(896, 128, 7, 0.1) for _ in range(10)))
        self.mixed_7a = Side(
            [
                nn.Sequential(Basic(896, 256, 1), Basic(256, 384, 3, 2)),
                nn.Sequential(Basic(896, 256, 1), Basic(256, 256, 3, 2)),
                nn.Sequential(Basic(896, 256, 1), Basic(256, 256, 3, padding=1), Basic(256, 256, 3, 2)),
            ]
        )
        self.repeat_3 = nn.Sequential(*(asymmetric(1792, 192, 3, 0.2) for _ in range(5)))
        self.block8 = asymmetric(1792, 192, 3, 1.0, act=False)
        self.last_linear = nn.Linear(1792, 512, bias=False)
        self.last_bn = nn.BatchNorm1d(512, eps=0.001)
        self.logits = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(nn.functional.max_pool2d(x, 3, 2))))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        return self.logits(self.last_bn(self.last_linear(x.mean((2, 3)))))


# --- ConvNeXt, V1 and V2: the authors' own code


class AuthorsBlock(nn.Module):
    def __init__(self, width: int, v2: bool) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        if v2:
            self.grn = nn.Module()
            self.grn.gamma = nn.Parameter(torch.ones(1, 1, 1, 4 * width))
            self.grn.beta = nn.Parameter(torch.zeros(1, 1, 1, 4 * width))
        else:
            self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        out = nn.functional.gelu(self.pwconv1(self.norm(self.dwconv(x).permute(0, 2, 3, 1))))
        if hasattr(self, "grn"):
            energy = out.square().sum((1, 2), keepdim=True).sqrt()
            out = out + self.grn.gamma * (out * energy / (energy.mean(3, keepdim=True) + 1e-6)) + self.grn.beta
        out = self.pwconv2(out)
        out = out if hasattr(self, "grn") else out * self.gamma
        return x + out.permute(0, 3, 1, 2)


class MapNorm(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class AuthorsConvNeXt(nn.Module):
    """ConvNeXt of 2201.03545, and with ``v2`` of 2301.00808, for 1000 classes."""

    def __init__(self, width: int, depths: Sequence[int], *, v2: bool = False) -> None:
        super().__init__()
        widths = [width * 2**index for index in range(4)]
        start = nn.Sequential(nn.Conv2d(3, width, 4, 4), MapNorm(width, eps=1e-6))
        halve = [nn.Sequential(MapNorm(w, eps=1e-6), nn.Conv2d(w, 2 * w, 2, 2)) for w in widths[:-1]]
        self.downsample_layers = nn.ModuleList([start, *halve])
        self.stages = nn.ModuleList(
            nn.Sequential(*(AuthorsBlock(w, v2) for _ in range(depth))) for w, depth in zip(widths, depths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], eps=1e-6)
        self.head = nn.Linear(widths[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.head(self.norm(x.mean((2, 3))))


# --- IResNet: insightface's arcface_torch


class InsightfaceIRBlock(nn.Module):
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


class InsightfaceIResNet(nn.Module):
    def __init__(self, depths: Sequence[int] = (2, 2, 2, 2)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        widths = (64, 64, 128, 256, 512)
        for index, depth in enumerate(depths, start=1):
            first = InsightfaceIRBlock(widths[index - 1], widths[index], 2)
            rest = (InsightfaceIRBlock(widths[index], widths[index], 1) for _ in range(depth - 1))
            setattr(self, f"layer{index}", nn.Sequential(first, *rest))
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, 512)
        self.features = nn.BatchNorm1d(512)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


# --- ViT: insightface's arcface_torch


class InsightfaceViTBlock(nn.Module):
    def __init__(self, width: int, heads: int, ratio: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, ratio * width), nn.Linear(ratio * width, width)

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


class InsightfaceViT(nn.Module):
    """arcface_torch's; CVLface's, which has smaller patches, where ``masks`` is False."""

    def __init__(
        self, width: int, depth: int, heads: int = 8, *, ratio: int = 4, patch: int = 9, masks: bool = True
    ) -> None:
        super().__init__()
        cells = (112 // patch) ** 2
        if masks:
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential(*(InsightfaceViTBlock(width, heads, ratio) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(cells * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, 512, bias=False),
            nn.BatchNorm1d(512, eps=2e-5),
        )

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        return self.feature(self.norm(self.blocks(tokens)).flatten(1))


# --- EdgeFace: timm's network below ``model``, every linear layer replaced by two of low rank


class TwoLinear(nn.Module):
    def __init__(self, linear: nn.Linear, ratio: float) -> None:
        super().__init__()
        rank = max(2, int(min(linear.in_features, linear.out_features) * ratio))
        self.linear1 = nn.Linear(linear.in_features, rank, bias=False)
        self.linear2 = nn.Linear(rank, linear.out_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.linear1(x))


class EdgeFace(nn.Module):
    def __init__(self, size: str, ratio: float | None) -> None:
        super().__init__()
        self.model = timm.create_model(f"edgenext_{size}", num_classes=512)
        for name, module in list(self.model.named_modules()):
            if ratio is not None and isinstance(module, nn.Linear):
                parent, _, last = name.rpartition(".")
                setattr(self.model.get_submodule(parent), last, TwoLinear(module, ratio))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


# --- MixFaceNet: the authors' own code


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


class MixUnit(nn.Module):
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


class MixFaceNet(nn.Module):
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
        start.add_module("conv2", MixUnit(inputs, inputs, 1, (1, 1, 1), (1, 0), "prelu", shuffle))
        self.features = nn.Sequential(OrderedDict(init_block=start))
        for i in range(4):
            stage = nn.Sequential()
            for j, outputs in enumerate(widths[i]):
                stride = 2 if (j == 0 and i in (1, 2)) or (i == 3 and j == 3) else 1
                counts = (first[i][j], middle[i][j], second[i][j])
                act = "silu" if i else "prelu"
                block = MixUnit(inputs, outputs, stride, counts, (factors[i][j], ratios[i][j]), act, shuffle)
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
