"""From a decoded image to the network's input, with and without augmentation.

Geometry and color run on the PIL image: at 112×112 on one core Pillow is as fast as uint8 tensors or faster in every transform
used here, and twice as fast in RandAugment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from facezoo.preprocessing import Preprocessing
from facezoo.registry import UnknownNameError, unknown_name_message


@dataclass(frozen=True)
class AugmentConfig:
    """Which augmentations the training transform has, and how strong. All are off by default; they run in this order.

    Attributes:
        horizontal_flip: probability of a left-right flip.
        perspective: largest displacement of a corner, as a fraction of half the image (torchvision's ``distortion_scale``).
        perspective_probability: probability that there is one.
        rotation: largest angle to either side, degrees.
        crop_padding: pixels added on every side before a random crop of the original size: the largest shift.
        rand_augment_ops: operations per image of RandAugment (1909.13719); 0 for none.
        rand_augment_magnitude: their strength, 0 to 30.
        brightness: largest relative change; 0.2 means a factor from 0.8 to 1.2.
        contrast: likewise.
        saturation: likewise.
        hue: largest shift as a fraction of the color circle, 0 to 0.5. It costs more time than all the others together.
        color_probability: probability that brightness, contrast, saturation and hue change at all.
        grayscale: probability that the image loses its color.
        erasing: probability that a rectangle is erased to the mean color (1708.04896).
        erasing_area: smallest and largest area of the rectangle, as fractions of the image.

    Raises:
        ValueError: a value is out of its range.
    """

    horizontal_flip: float = 0.0
    perspective: float = 0.0
    perspective_probability: float = 0.5
    rotation: float = 0.0
    crop_padding: int = 0
    rand_augment_ops: int = 0
    rand_augment_magnitude: int = 9
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    color_probability: float = 1.0
    grayscale: float = 0.0
    erasing: float = 0.0
    erasing_area: tuple[float, float] = (0.02, 0.2)

    def __post_init__(self) -> None:
        limits = {
            "rotation": 180.0,
            "crop_padding": 1e6,
            "rand_augment_ops": 100,
            "rand_augment_magnitude": 30,
            "hue": 0.5,
        }
        limits |= dict.fromkeys(("brightness", "contrast", "saturation"), 100.0)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "erasing_area":
                if len(value) != 2 or not 0 < value[0] <= value[1] <= 1:
                    raise ValueError(f"AugmentConfig.erasing_area: expected 0 < smallest <= largest <= 1, got {value}")
            elif not 0 <= value <= limits.get(field.name, 1.0):
                raise ValueError(
                    f"AugmentConfig.{field.name}: expected 0 to {limits.get(field.name, 1.0):g}, got {value}"
                )


AUGMENT_RECIPES: Mapping[str, AugmentConfig] = MappingProxyType(
    {
        "none": AugmentConfig(),
        "light": AugmentConfig(horizontal_flip=0.5),
        "standard": AugmentConfig(
            horizontal_flip=0.5,
            rotation=5,
            crop_padding=6,
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
            color_probability=0.5,
        ),
        "strong": AugmentConfig(
            horizontal_flip=0.5,
            perspective=0.15,
            perspective_probability=0.3,
            crop_padding=8,
            rand_augment_ops=2,
            rand_augment_magnitude=9,
            grayscale=0.05,
            erasing=0.3,
        ),
    }
)
"""Named augmentations. Change single values with ``dataclasses.replace(augment_recipe("standard"), rotation=10)``."""


def augment_recipe(name: str) -> AugmentConfig:
    """The augmentation called ``name``; raises an error that suggests close names if there is none."""
    if name not in AUGMENT_RECIPES:
        raise UnknownNameError(
            unknown_name_message(
                "augmentation recipe", str(name), AUGMENT_RECIPES, hint="facezoo.data.AUGMENT_RECIPES lists all"
            )
        )
    return AUGMENT_RECIPES[name]


def train_transform(preprocessing: Preprocessing, augment: AugmentConfig = AUGMENT_RECIPES["standard"]) -> v2.Compose:
    """The transform for training: crop if the network wants it, resize if the size differs, augment, normalize.

    All randomness comes from torch's global generator, so a seeded worker (or :class:`SeededDataset`) makes it repeatable.

    Args:
        preprocessing: the network's, from ``model.preprocessing``.
        augment: what to do to the image; ``augment_recipe("strong")``, or a configuration of your own.

    Returns:
        A transform from a PIL RGB image or a uint8 tensor (3, H, W) in RGB order to a float32 tensor (3, *img_size), normalized
        and in ``preprocessing.channel_order``.
    """
    _check_channels(preprocessing)
    height, width = preprocessing.img_size
    # What rotation, crop and perspective bring in from outside the image becomes 0 for the network.
    mean = preprocessing.mean if preprocessing.channel_order == "rgb" else preprocessing.mean[::-1]
    fill = [round(255 * value) for value in mean]
    bilinear = v2.InterpolationMode.BILINEAR
    steps: list[nn.Module] = [*_sized(preprocessing)]
    if augment.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(augment.horizontal_flip))
    if augment.perspective and augment.perspective_probability:
        steps.append(
            v2.RandomPerspective(
                augment.perspective, augment.perspective_probability, interpolation=bilinear, fill=fill
            )
        )
    if augment.rotation:
        steps.append(v2.RandomRotation(augment.rotation, interpolation=bilinear, fill=fill))
    if augment.crop_padding:
        steps.append(v2.RandomCrop((height, width), padding=augment.crop_padding, fill=fill))
    if augment.rand_augment_ops:
        steps.append(
            v2.RandAugment(augment.rand_augment_ops, augment.rand_augment_magnitude, interpolation=bilinear, fill=fill)
        )
    changes = (augment.brightness, augment.contrast, augment.saturation, augment.hue)
    if any(changes) and augment.color_probability:
        jitter = v2.ColorJitter(*changes)
        steps.append(jitter if augment.color_probability == 1 else v2.RandomApply([jitter], augment.color_probability))
    if augment.grayscale:
        steps.append(v2.RandomGrayscale(augment.grayscale))
    steps.append(ToInput(preprocessing))
    if augment.erasing:  # after normalization 0 is the mean color
        steps.append(v2.RandomErasing(augment.erasing, scale=augment.erasing_area, value=0, inplace=True))
    return v2.Compose(steps)


def eval_transform(preprocessing: Preprocessing) -> v2.Compose:
    """The transform for evaluation: crop if the network wants it, resize if the size differs, normalize.

    Takes and gives what :func:`train_transform` does.
    """
    _check_channels(preprocessing)
    return v2.Compose([*_sized(preprocessing), ToInput(preprocessing)])


def _sized(preprocessing: Preprocessing) -> list[nn.Module]:
    """From an image of any size to the part and the size that the network takes."""
    resize = ResizeIfNeeded(preprocessing.img_size)
    return [resize] if preprocessing.crop is None else [FaceCrop(preprocessing), resize]


class FaceCrop(nn.Module):
    """Cut out the part of an aligned face that the network sees, see :class:`Preprocessing`.

    Args:
        preprocessing: its ``crop`` is what is cut out.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self._preprocessing = preprocessing

    def forward(self, image: Any) -> Any:
        """Crop a PIL image or a tensor (C, H, W)."""
        height, width = F.get_size(image)
        box = self._preprocessing.crop_of((height, width))
        if box is None:
            return image
        top, left, bottom, right = box
        return F.crop(image, top, left, bottom - top, right - left)

    def extra_repr(self) -> str:  # noqa: D102
        return f"crop={self._preprocessing.crop}"


class ResizeIfNeeded(nn.Module):
    """Resize to an exact size (antialiased, bilinear; the aspect ratio is not kept); an image of that size passes untouched.

    Args:
        size: height and width in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = (int(size[0]), int(size[1]))

    def forward(self, image: Any) -> Any:
        """Resize a PIL image or a tensor (C, H, W)."""
        if tuple(F.get_size(image)) == self.size:
            return image
        return F.resize(image, list(self.size), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)

    def extra_repr(self) -> str:  # noqa: D102
        return f"size={self.size}"


class ToInput(nn.Module):
    """From 8-bit RGB to float32, normalized, in the network's channel order: ``(x / 255 - mean) / std``.

    One multiplication and one addition instead of torchvision's ToImage, ToDtype and Normalize, which take three times as long.

    Args:
        preprocessing: mean, std and channel order.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        _check_channels(preprocessing)
        mean = torch.tensor(preprocessing.mean, dtype=torch.float64).view(3, 1, 1)
        std = torch.tensor(preprocessing.std, dtype=torch.float64).view(3, 1, 1)
        self._scale = (1 / (255 * std)).float()
        self._shift = (-mean / std).float()
        self._reverse = preprocessing.channel_order == "bgr"
        self._preprocessing = preprocessing

    def forward(self, image: Any) -> Tensor:
        """Normalize a PIL RGB image or a uint8 tensor (3, H, W). Raises TypeError or ValueError for anything else."""
        pixels = image.as_subclass(Tensor) if isinstance(image, Tensor) else F.pil_to_tensor(image)
        if pixels.dtype != torch.uint8:
            raise TypeError(f"expected an 8-bit image (PIL, or a uint8 tensor), got a tensor of {pixels.dtype}")
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise ValueError(f"expected an RGB image, (3, H, W) as a tensor, got shape {tuple(pixels.shape)}")
        if self._reverse:
            pixels = pixels.flip(0)
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).mul_(self._scale).add_(self._shift)

    def extra_repr(self) -> str:  # noqa: D102
        chosen = self._preprocessing
        return f"mean={chosen.mean}, std={chosen.std}, channel_order={chosen.channel_order!r}"


def _check_channels(preprocessing: Preprocessing) -> None:
    if len(preprocessing.mean) != 3:
        raise ValueError(
            f"images have 3 channels, but the preprocessing has {len(preprocessing.mean)} (mean {preprocessing.mean}); "
            "use a network with in_chans=3, or write a transform of your own"
        )
