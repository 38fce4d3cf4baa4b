"""Networks with the names, shapes and order of computation of other libraries, written from their published definitions.

They are what the adapters are tested against where the library itself is not installed. The names of their submodules are those
of the checkpoints; everything else is as short as it can be.
"""

from __future__ import annotations

from collections.abc import Sequence

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
