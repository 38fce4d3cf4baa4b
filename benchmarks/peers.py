"""The same network from everybody who has it, in one form, so that figures are of the same arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import facezoo

TIMM = {"se_resnet50": "seresnet50", "mobilenet_v2": "mobilenetv2_100", "vit_small_patch16": "vit_small_patch16_224"}
PLAIN_IRESNETS = {"iresnet50": (3, 4, 14, 3), "iresnet100": (3, 13, 30, 3)}
Build = Callable[[], nn.Module]


class PlainUnit(nn.Module):
    """Unit of IResNet: norm, convolution, norm, PReLU, convolution, norm, and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(x) + self.shortcut(x)


def plain_iresnet(depths: tuple[int, int, int, int], num_classes: int = 512) -> nn.Module:
    """IResNet as one would write it down, and as insightface does: modules in a row."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)]
    inputs = 64
    for depth, width in zip(depths, (64, 128, 256, 512), strict=True):
        for index in range(depth):
            layers.append(PlainUnit(inputs, width, 2 if index == 0 else 1))
            inputs = width
    layers += [nn.BatchNorm2d(512), nn.Flatten(), nn.Dropout(0.0), nn.Linear(512 * 49, num_classes)]
    return nn.Sequential(*layers, nn.BatchNorm1d(num_classes))


def same_network(name: str, *, num_classes: int = 512) -> dict[str, Build]:
    """``"facezoo"`` first, then whoever has the network called ``name`` with ``num_classes`` outputs.

    Networks of timm and torchvision are in their published ImageNet form. IResNet and MobileFaceNet are in neither: IResNets are
    compared with plain ones, others stand alone, in their face form.

    Raises:
        AssertionError: the numbers of parameters differ.
    """
    import timm
    import torchvision

    timm_name = TIMM.get(name, name)
    peers: dict[str, Build] = {}
    if timm.is_model(timm_name):
        peers["timm"] = lambda: timm.create_model(timm_name, num_classes=num_classes)
    if hasattr(torchvision.models, name):
        peers["torchvision"] = lambda: getattr(torchvision.models, name)(num_classes=num_classes)
    form: dict[str, object] = {}
    if peers:
        form = {"stem": "imagenet", "embedding_dim": None, "num_classes": num_classes}
        if name.startswith("vit"):
            form["img_size"] = 224
    elif name in PLAIN_IRESNETS:
        peers["plain modules"] = lambda: plain_iresnet(PLAIN_IRESNETS[name], num_classes)
        form = {"embedding_dim": num_classes}
    found: dict[str, Build] = {"facezoo": lambda: facezoo.create_model(name, **form), **peers}
    with torch.device("meta"):
        counts = {label: sum(p.numel() for p in build().parameters()) for label, build in found.items()}
    assert len(set(counts.values())) == 1, f"{name} is not the same network everywhere: {counts} parameters"
    return found
