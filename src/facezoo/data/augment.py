"""Augmentation as data: which operations and how strong, by name."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from facezoo.checks import is_real
from facezoo.data.occluders import OCCLUDERS
from facezoo.registry import Registry


@dataclass(frozen=True)
class AugmentConfig:
    """The augmentations of the training transform, and their strength. All are off by default.

    What is drawn on the face (mask, glasses) comes first. Then geometry, composed into one sampling of the image: flip,
    perspective, crop, rotation, affine map, shift. Then RandAugment, TrivialAugment, color (brightness, contrast, saturation,
    hue, gray), low resolution, blur, JPEG, and after normalization the erased rectangle.

    Attributes:
        horizontal_flip: probability of a left-right flip.
        perspective: largest displacement of a corner, as a fraction of half the image (torchvision's ``distortion_scale``).
        perspective_probability: probability of a perspective change.
        rotation: largest angle in either direction, degrees.
        crop_padding: largest shift in pixels: padding on every side before a random crop of the original size.
        rand_augment_ops: operations per image of RandAugment (1909.13719); 0 for none.
        rand_augment_magnitude: strength of those operations, 0 to 30.
        brightness: largest relative change; 0.2 means a factor from 0.8 to 1.2.
        contrast: likewise.
        saturation: likewise.
        hue: largest shift as a fraction of the color circle, 0 to 0.5. It takes more time than all other augmentations together.
        color_probability: probability that brightness, contrast, saturation and hue change at all.
        grayscale: probability that the image loses its color.
        erasing: probability that a rectangle is erased to the mean color (1708.04896).
        erasing_area: smallest and largest area of the rectangle, as fractions of the image.
        resized_crop: probability that a part of the image is cut out and scaled to the full size (RandomResizedCrop).
        resized_crop_area: smallest and largest area of that part, as fractions of the image.
        resized_crop_aspect: smallest and largest width / height of that part.
        low_resolution: probability that the image is scaled down and up again.
        low_resolution_scale: smallest and largest factor by which the sides are scaled down.
        blur: probability of a Gaussian blur over 9 pixels.
        blur_sigma: smallest and largest standard deviation of the blur, pixels.
        jpeg: probability that the image is compressed again.
        jpeg_quality: lowest and highest quality of that, 1 to 100.
        rand_augment_strength: what a magnitude means: ``"torchvision"`` (9 of 30, a rotation of 9°) or ``"timm"`` (9 of 10: 27°).
        trivial_augment: probability of one operation of TrivialAugment (2103.10158) at any strength; 1 is torchvision's
            ``TrivialAugmentWide``.
        affine: probability of an affine map about the middle: turn, shift, scale and shear, as torchvision's ``RandomAffine``.
        affine_rotation: its largest angle to either side, degrees.
        affine_translate: its largest shift, as a fraction of the sides.
        affine_scale: its smallest and largest factor.
        affine_shear: its largest shear in x and in y to either side, degrees.
        occlusion: probability that something is drawn on the face, where ArcFace's template has its eyes, nose and mouth.
        occluders: what, each as often: names of ``facezoo.data.occluders.OCCLUDERS``.

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
    resized_crop: float = 0.0
    resized_crop_area: tuple[float, float] = (0.2, 1.0)
    resized_crop_aspect: tuple[float, float] = (0.75, 4 / 3)
    low_resolution: float = 0.0
    low_resolution_scale: tuple[float, float] = (0.2, 1.0)
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    jpeg: float = 0.0
    jpeg_quality: tuple[float, float] = (30, 95)
    rand_augment_strength: Literal["torchvision", "timm"] = "torchvision"
    trivial_augment: float = 0.0
    affine: float = 0.0
    affine_rotation: float = 10.0
    affine_translate: float = 0.1
    affine_scale: tuple[float, float] = (0.9, 1.1)
    affine_shear: float = 5.0
    occlusion: float = 0.0
    occluders: tuple[str, ...] = ("mask", "glasses", "sunglasses")

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES:
                low, high = _RANGES[field.name]
                given = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_real, value))
                if not given or not low < value[0] <= value[1] <= high:
                    raise ValueError(
                        f"AugmentConfig.{field.name}: expected {low:g} < smallest <= largest <= {high:g}, got {value}"
                    )
            elif field.name == "occluders":
                if isinstance(value, str):
                    raise ValueError(f"AugmentConfig.occluders: expected names, such as ({value!r},), got {value!r}")
                for name in value:
                    OCCLUDERS[name]  # an unknown name is an error that suggests close ones
                if not value:
                    raise ValueError("AugmentConfig.occluders: name at least one")
            elif field.name == "rand_augment_strength":
                if value not in ("torchvision", "timm"):
                    raise ValueError(f"AugmentConfig.{field.name}: expected 'torchvision' or 'timm', got {value!r}")
            elif not is_real(value) or not 0 <= value <= _LIMITS.get(field.name, 1.0):
                raise ValueError(
                    f"AugmentConfig.{field.name}: expected 0 to {_LIMITS.get(field.name, 1.0):g}, got {value!r}"
                )
            elif field.name in ("crop_padding", "rand_augment_ops") and value != int(value):
                raise ValueError(f"AugmentConfig.{field.name}: expected a whole number, got {value}")
        if self.rand_augment_strength == "timm" and self.rand_augment_magnitude > 10:
            raise ValueError(
                f"AugmentConfig.rand_augment_magnitude: timm's strength goes from 0 to 10, got {self.rand_augment_magnitude}"
            )


_RANGES: dict[str, tuple[float, float]] = {
    "erasing_area": (0, 1),
    "resized_crop_area": (0, 1),
    "resized_crop_aspect": (0, 100),
    "low_resolution_scale": (0, 1),
    "affine_scale": (0, 10),
    "blur_sigma": (0, 100),
    "jpeg_quality": (0, 100),
}
_LIMITS: dict[str, float] = {
    "rotation": 180.0,
    "affine_rotation": 180.0,
    "affine_shear": 80.0,
    "crop_padding": 1e6,
    "rand_augment_ops": 100,
    "rand_augment_magnitude": 30,
    "hue": 0.5,
    "brightness": 100.0,
    "contrast": 100.0,
    "saturation": 100.0,
}

AUGMENT_RECIPES: Registry[AugmentConfig] = Registry("augmentation", listed_by="facezoo.data.AUGMENT_RECIPES.list()")
"""Named augmentations. Change single values with ``dataclasses.replace(augment_recipe("standard"), rotation=10)``."""


def register_augmentation(name: str, config: AugmentConfig) -> AugmentConfig:
    """Register an augmentation by name, for ``packed_loader``, the trainer and ``facezoo preview``.

    Raises:
        TypeError: ``config`` is not an :class:`AugmentConfig`.
        DuplicateNameError: the name is taken.
    """
    if not isinstance(config, AugmentConfig):
        raise TypeError(f"augmentation {name!r} is an AugmentConfig, got {config!r:.200}")
    return AUGMENT_RECIPES.register(name, config)


def augment_recipe(name: str) -> AugmentConfig:
    """The augmentation called ``name``; raises an error that suggests close names if there is none."""
    return AUGMENT_RECIPES[name]


for _name, _config in {
    "none": AugmentConfig(),
    "light": AugmentConfig(horizontal_flip=0.5),
    # insightface's arcface_torch trains with a flip alone.
    "arcface": AugmentConfig(horizontal_flip=0.5),
    "standard": AugmentConfig(
        horizontal_flip=0.5, rotation=5, crop_padding=6, brightness=0.2, contrast=0.2, saturation=0.2, erasing=0.3
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
    # AdaFace (2204.00964): crop, low resolution and photometric changes, each with probability 0.2.
    "adaface": AugmentConfig(
        horizontal_flip=0.5,
        resized_crop=0.2,
        low_resolution=0.2,
        brightness=0.5,
        contrast=0.5,
        saturation=0.5,
        color_probability=0.2,
    ),
    # ConvNeXt's RandAugment 9 on timm's scale (27°), with the flip and erasing of HW2P2's ConvNeXt settings.
    "course": AugmentConfig(
        horizontal_flip=0.5,
        rand_augment_ops=2,
        rand_augment_magnitude=9,
        rand_augment_strength="timm",
        erasing=0.25,
    ),
    # TrivialAugment (2103.10158) after the flip.
    "trivial": AugmentConfig(horizontal_flip=0.5, trivial_augment=1.0),
    # Ours: masks and glasses on every third face.
    "occluded": AugmentConfig(horizontal_flip=0.5, crop_padding=6, occlusion=0.3),
}.items():
    register_augmentation(_name, _config)
