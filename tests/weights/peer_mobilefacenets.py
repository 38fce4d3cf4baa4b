"""MobileFaceNets with the names, shapes and order of computation of InsightFace_Pytorch (and FaceX-Zoo), and of foamliu."""

from __future__ import annotations

from peer_networks import conv
from torch import Tensor, nn

# stage: width, inner width of the strided bottleneck, number of those that follow, their inner width
STAGES = ((64, 128, 4, 128), (128, 256, 6, 256), (128, 512, 2, 256))


class Unit(nn.Module):
    """Convolution, norm and PReLU under the names ``conv``, ``bn`` and ``prelu``."""

    def __init__(self, layer: nn.Conv2d, act: bool = True) -> None:
        super().__init__()
        self.conv, self.bn = layer, nn.BatchNorm2d(layer.out_channels)
        self.prelu = nn.PReLU(layer.out_channels) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.keeps = stride == 1
        self.conv = Unit(conv(inputs, inner, 1))
        self.conv_dw = Unit(conv(inner, inner, 3, stride, inner))
        self.project = Unit(conv(inner, outputs, 1), act=False)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.project(self.conv_dw(self.conv(x)))
        return x + branch if self.keeps else branch


class InsightFacePytorchMobileFaceNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2_dw = Unit(conv(3, 64, 3, 2)), Unit(conv(64, 64, 3, 1, 64))
        inputs, order = 64, ["conv1", "conv2_dw"]
        for number, (width, strided, depth, inner) in enumerate(STAGES, start=3):
            first, rest = f"conv_{number - 1}{number}", f"conv_{number}"
            self.add_module(first, Bottleneck(inputs, width, strided, 2))
            following = nn.Module()
            following.model = nn.Sequential(*(Bottleneck(width, width, inner, 1) for _ in range(depth)))
            self.add_module(rest, following)
            order += [first, f"{rest}.model"]
            inputs = width
        self.conv_6_sep = Unit(conv(128, 512, 1))
        self.conv_6_dw = Unit(nn.Conv2d(512, 512, 7, groups=512, bias=False), act=False)
        self.linear, self.bn = nn.Linear(512, 512, bias=False), nn.BatchNorm1d(512)
        self.order = [*order, "conv_6_sep", "conv_6_dw"]

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = self.get_submodule(name)(x)
        return self.bn(self.linear(x.flatten(1)))


def rectified(inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs, side, stride, groups), nn.BatchNorm2d(outputs), nn.ReLU6())


class FoamliuBottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, inner: int, stride: int) -> None:
        super().__init__()
        self.keeps = stride == 1
        layers = (rectified(inputs, inner, 1), rectified(inner, inner, 3, stride, inner))
        self.conv = nn.Sequential(*layers, conv(inner, outputs, 1), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.keeps else self.conv(x)


class FoamliuMobileFaceNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = rectified(3, 64, 3, 2)
        self.dw_conv, self.gdconv = nn.Module(), nn.Module()
        self.dw_conv.depthwise, self.dw_conv.pointwise = conv(64, 64, 3, 1, 64), conv(64, 64, 1)
        self.dw_conv.bn1, self.dw_conv.bn2 = nn.BatchNorm2d(64), nn.BatchNorm2d(64)
        blocks, inputs = [], 64
        for width, strided, depth, inner in STAGES:
            blocks.append(FoamliuBottleneck(inputs, width, strided, 2))
            blocks += [FoamliuBottleneck(width, width, inner, 1) for _ in range(depth)]
            inputs = width
        self.features = nn.Sequential(*blocks)
        self.conv2 = rectified(128, 512, 1)
        self.gdconv.depthwise, self.gdconv.bn = nn.Conv2d(512, 512, 7, groups=512, bias=False), nn.BatchNorm2d(512)
        self.conv3, self.bn = nn.Conv2d(512, 128, 1), nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        second = self.dw_conv
        x = second.bn1(second.depthwise(self.conv1(x))).relu()
        x = second.bn2(second.pointwise(x)).relu()
        x = self.conv2(self.features(x))
        return self.bn(self.conv3(self.gdconv.bn(self.gdconv.depthwise(x)))).flatten(1)
