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
    """Without the L2 normalisation at its end."""

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
