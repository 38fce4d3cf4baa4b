"""The random numbers of each image, and the augmentation parameters computed from them.

Drawing the parameters and applying them are separate steps. A :class:`Plan` holds the parameters of a batch, one row per image;
it is applied image by image on the CPU (:mod:`facezoo.data.augment_images`) or to a whole batch on any device
(:mod:`facezoo.data.augment_batches`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from facezoo.data.augment import AugmentConfig

Floats = NDArray[np.float64]
_Column = Callable[[str], Floats]  # from the name of a column to its numbers (N,)


# ------------------------------------------------------------------ uniform numbers

_COLUMNS = (
    "flip", "perspective", *(f"corner{index}" for index in range(8)), "rotation", "shift_x", "shift_y",
    "crop", "crop_area", "crop_aspect", "crop_x", "crop_y",
    "color", "brightness", "contrast", "saturation", "hue", "gray",
    "low", "low_scale", "blur", "blur_sigma", "jpeg", "jpeg_quality",
    "erase", "erase_area", "erase_aspect", "erase_x", "erase_y",
    "trivial", "trivial_operation", "trivial_strength", "trivial_sign",
    "affine", "affine_rotation", "affine_x", "affine_y", "affine_scale", "affine_shear_x", "affine_shear_y",
    "occlusion", "occluder", "occluder_kind", "occluder_x", "occluder_y",
)  # fmt: skip
_AT = {name: index for index, name in enumerate(_COLUMNS)}


def columns_of(config: AugmentConfig) -> int:
    """Number of uniform random numbers per image."""
    return len(_COLUMNS) + 2 * config.rand_augment_ops


def uniforms(seed: int, epoch: int, positions: NDArray[np.int64], count: int) -> Floats:
    """Random numbers in [0, 1), (N, count), determined by (seed, epoch, position, column) alone.

    They are hashes (the steps of SplitMix64), so any part of an epoch can be drawn separately, on any rank and in any thread.

    Args:
        seed: of the run.
        epoch: from 0.
        positions: place of each image in the epoch's order, (N,).
        count: numbers per image.
    """
    with np.errstate(over="ignore"):
        key = _mixed(_mixed(np.array([seed & _MASK], np.uint64)) ^ np.uint64(epoch & _MASK))
        rows = _mixed(key ^ positions.astype(np.uint64))
        numbers = _mixed(rows[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _STEP)
    return (numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53


_MASK = 2**64 - 1
_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + _STEP
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# ------------------------------------------------------------------ parameters


LUMA = np.array([0.299, 0.587, 0.114])
_EYE = np.eye(3)
_GRAY = np.tile(LUMA, (3, 1))  # makes R, G and B the luma


@dataclass(frozen=True, eq=False)
class Plan:
    """The augmentation parameters of N images. A field is None if no image has that operation.

    Attributes:
        size: height and width, pixels.
        fill: color of pixels outside the source image, R, G, B from 0 to 255.
        matrix: (N, 3, 3): maps a pixel of the result to one of the source, both (x, y, 1), pixel centers at whole numbers.
        sampled: whether pixels are interpolated: ``matrix`` is more than a flip and a shift by whole pixels; bool (N,). None if the
            augmentation never interpolates, whatever is drawn.
        brightness: factor (N,). ``contrast`` and ``saturation`` likewise; 1 changes nothing.
        hue: shift as a fraction of the circle, (N,).
        gray: bool (N,).
        low_resolution: factor by which the sides are scaled down, (N,); 1 changes nothing.
        blur: sigma in pixels, (N,); 0 changes nothing.
        jpeg: quality, int (N,); 0 changes nothing.
        erase: top, left, bottom, right, int (N, 4); empty boxes erase nothing.
        rand_augment: number of the operation and signed strength from -1 to 1, (N, ops, 2).
        trivial_augment: likewise, (N, 2); operation 0 changes nothing.
        occluded: number of the drawing in ``occluders`` (-1 for none), and three numbers in [0, 1) for it: kind, place in x and in
            y, (N, 4).
        occluders: names of drawings.
        inside: whether an image is a random crop that lies within its source, (N,): no fill belongs into its outermost pixels.
    """

    size: tuple[int, int]
    fill: tuple[int, int, int]
    occluders: tuple[str, ...] = ()
    matrix: Floats | None = None
    sampled: NDArray[np.bool_] | None = None
    brightness: Floats | None = None
    contrast: Floats | None = None
    saturation: Floats | None = None
    hue: Floats | None = None
    gray: NDArray[np.bool_] | None = None
    low_resolution: Floats | None = None
    blur: Floats | None = None
    jpeg: NDArray[np.int64] | None = None
    erase: NDArray[np.int64] | None = None
    rand_augment: Floats | None = None
    trivial_augment: Floats | None = None
    occluded: Floats | None = None
    inside: NDArray[np.bool_] | None = None

    @property
    def has_color(self) -> bool:
        """Whether brightness, contrast, saturation or gray may change."""
        return any(values is not None for values in (self.brightness, self.contrast, self.saturation, self.gray))

    @property
    def color_is_last(self) -> bool:
        """Whether nothing changes the pixels after brightness, contrast, saturation and gray, except for erasing."""
        return self.hue is None and self.low_resolution is None and self.blur is None and self.jpeg is None

    @property
    def has_policy(self) -> bool:
        """Whether RandAugment or TrivialAugment may change something."""
        return self.rand_augment is not None or self.trivial_augment is not None

    def colors(self, rows: slice = slice(None)) -> tuple[Floats, Floats]:
        """Brightness, contrast, saturation and gray of N images: matrices (N, 3, 3) for R, G, B, and factors (N,) of the mean luma.

        The pixel x with luma y becomes ``b (c (s x + (1 - s) y) + (1 - c) mean(y))``. torchvision clips to the range 0 to 255 after
        each step; the results agree if no intermediate step clips.
        """
        one = np.ones(1)
        bright, contrast, saturation = (
            one if values is None else values[rows] for values in (self.brightness, self.contrast, self.saturation)
        )
        if self.gray is not None:
            saturation = np.where(self.gray[rows], 0.0, saturation)
        matrix = np.multiply.outer(saturation, _EYE) + np.multiply.outer(1 - saturation, _GRAY)
        matrix = matrix * (bright * contrast)[:, None, None]
        return matrix, np.broadcast_to((1 - contrast) * bright, len(matrix))

    def part(self, rows: slice) -> Plan:
        """The plan of a subset of the images."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)[3:]}
        return Plan(
            self.size, self.fill, self.occluders, **{name: v if v is None else v[rows] for name, v in arrays.items()}
        )


def plan(config: AugmentConfig, numbers: Floats, size: tuple[int, int], fill: Sequence[int]) -> Plan:
    """Turn uniform random numbers into augmentation parameters.

    Args:
        config: the augmentations and their strength.
        numbers: (N, ``columns_of(config)``), in [0, 1).
        size: height and width of the images.
        fill: R, G, B of pixels outside the source image.
    """

    def column(name: str) -> Floats:
        return numbers[:, _AT[name]]

    def between(name: str, limits: tuple[float, float]) -> Floats:
        return limits[0] + (limits[1] - limits[0]) * column(name)

    def factor(name: str, strength: float) -> Floats | None:
        if not strength or not config.color_probability:
            return None
        drawn = between(name, (max(0.0, 1 - strength), 1 + strength))
        return np.where(column("color") < config.color_probability, drawn, 1.0)

    hue = None
    if config.hue and config.color_probability:
        hue = np.where(column("color") < config.color_probability, between("hue", (-config.hue, config.hue)), 0.0)
    matrix, sampled = _geometry(config, column, size)
    inside = None
    if config.resized_crop and matrix is not None:
        inside = stays_inside(matrix, size) & (column("crop") < config.resized_crop)
    return Plan(
        size=size,
        fill=(int(fill[0]), int(fill[1]), int(fill[2])),
        matrix=matrix,
        sampled=sampled,
        brightness=factor("brightness", config.brightness),
        contrast=factor("contrast", config.contrast),
        saturation=factor("saturation", config.saturation),
        hue=hue,
        gray=column("gray") < config.grayscale if config.grayscale else None,
        low_resolution=np.where(column("low") < config.low_resolution, between("low_scale", config.low_resolution_scale), 1)
        if config.low_resolution
        else None,
        blur=np.where(column("blur") < config.blur, between("blur_sigma", config.blur_sigma), 0) if config.blur else None,
        jpeg=_qualities(config, column) if config.jpeg else None,
        erase=_boxes(config, column, size) if config.erasing else None,
        rand_augment=_rand_augment(config, numbers) if config.rand_augment_ops else None,
        trivial_augment=_trivial_augment(config, column) if config.trivial_augment else None,
        occluded=_occluded(config, column) if config.occlusion else None,
        occluders=tuple(config.occluders),
        inside=inside,
    )  # fmt: skip


def _geometry(
    config: AugmentConfig, column: _Column, size: tuple[int, int]
) -> tuple[Floats | None, NDArray[np.bool_] | None]:
    """The composed matrices, and whether each needs interpolation; None instead of the latter if none ever does."""
    width = size[1]
    parts: list[Floats] = []
    count = len(column("flip"))
    sampled: list[NDArray[np.bool_]] = []
    if config.horizontal_flip:
        flipped = column("flip") < config.horizontal_flip
        part = _identity(count)
        part[flipped, 0, 0], part[flipped, 0, 2] = -1, width - 1
        parts.append(part)
    if config.perspective and config.perspective_probability:
        chosen = column("perspective") < config.perspective_probability
        part = _identity(count)
        for index in np.flatnonzero(chosen):
            corners = np.array([column(f"corner{k}")[index] for k in range(8)]).reshape(4, 2)
            part[index] = _perspective(corners, config.perspective, size)
        sampled.append(chosen)
        parts.append(part)
    if config.resized_crop:
        chosen = column("crop") < config.resized_crop
        parts.append(_resized_crop(config, column, size, chosen))
        sampled.append(chosen)
    if config.rotation:
        angle = np.radians((2 * column("rotation") - 1) * config.rotation)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]]).transpose(2, 0, 1)  # counter-clockwise, as seen
        parts.append(_about_center(turn, size))
        sampled.append(angle != 0)
    if config.affine:
        chosen = column("affine") < config.affine
        parts.append(_affine(config, column, size, chosen))
        sampled.append(chosen)
    if config.crop_padding:
        part = _identity(count)
        for axis, name in enumerate(("shift_x", "shift_y")):
            part[:, axis, 2] = np.floor(column(name) * (2 * config.crop_padding + 1)) - config.crop_padding
        parts.append(part)
    if not parts:
        return None, None
    matrix = parts[0]
    for part in parts[1:]:
        matrix = matrix @ part
    return matrix, np.logical_or.reduce(sampled) if sampled else None


def stays_inside(maps: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether each map (N, 3, 3) takes all pixels of the result from within the edges of the source image, bool (N,)."""
    height, width = size
    corners = np.array([[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]])
    x, y, w = np.moveaxis(maps @ corners, 1, 0)
    slack = 0.5 + 1e-6
    within = (
        (w > 0)
        & (x >= -slack * w)
        & (x <= (width - 1 + slack) * w)
        & (y >= -slack * w)
        & (y <= (height - 1 + slack) * w)
    )
    return within.all(axis=1)


def _identity(count: int) -> Floats:
    return _EYE[None].repeat(count, axis=0)


def _about_center(linear: Floats, size: tuple[int, int], shift: Floats | float = 0.0) -> Floats:
    """From result to source: move back by ``shift`` (N, 2), then apply ``linear`` (N, 2, 2) about the center of the image."""
    center = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    moved = np.broadcast_to(center + shift, (len(linear), 2))
    part = _identity(len(linear))
    part[:, :2, :2] = linear
    part[:, :2, 2] = center - linear[:, :, 0] * moved[:, :1] - linear[:, :, 1] * moved[:, 1:]
    return part


def _affine(config: AugmentConfig, column: _Column, size: tuple[int, int], chosen: NDArray[np.bool_]) -> Floats:
    """Turn clockwise, shear, scale, then shift by whole pixels, about the middle: the inverse of what is done to the image."""

    def either_way(name: str, most: float) -> Floats:
        return (2 * column(name) - 1) * most

    angle = np.radians(either_way("affine_rotation", config.affine_rotation))
    shear_x, shear_y = (np.radians(either_way(f"affine_shear_{axis}", config.affine_shear)) for axis in "xy")
    low, high = config.affine_scale
    scale = low + (high - low) * column("affine_scale")
    turned, slant = angle - shear_y, np.tan(shear_x)
    rows = [
        [np.cos(turned) / np.cos(shear_y), -np.cos(turned) * slant / np.cos(shear_y) - np.sin(angle)],
        [np.sin(turned) / np.cos(shear_y), -np.sin(turned) * slant / np.cos(shear_y) + np.cos(angle)],
    ]
    linear = np.linalg.inv(np.moveaxis(np.array(rows), 2, 0) * scale[:, None, None]).astype(np.float64, copy=False)
    sides = (("affine_x", size[1]), ("affine_y", size[0]))
    shift = np.stack([np.rint(either_way(name, config.affine_translate * side)) for name, side in sides], axis=1)
    part = _about_center(linear, size, shift)
    part[~chosen] = np.eye(3)
    return part


def _resized_crop(config: AugmentConfig, column: _Column, size: tuple[int, int], chosen: NDArray[np.bool_]) -> Floats:
    height, width = size
    low, high = config.resized_crop_area
    area = (low + (high - low) * column("crop_area")) * height * width
    low, high = (math.log(side) for side in config.resized_crop_aspect)
    aspect = np.exp(low + (high - low) * column("crop_aspect"))
    wide = np.rint(np.sqrt(area * aspect)).clip(1, width)
    tall = np.rint(np.sqrt(area / aspect)).clip(1, height)
    left = np.floor(column("crop_x") * (width - wide + 1))
    top = np.floor(column("crop_y") * (height - tall + 1))
    part = _identity(len(area))
    part[:, 0, 0], part[:, 0, 2] = wide / width, left + wide / width / 2 - 0.5
    part[:, 1, 1], part[:, 1, 2] = tall / height, top + tall / height / 2 - 0.5
    part[~chosen] = np.eye(3)
    return part


def _perspective(corners: Floats, distortion: float, size: tuple[int, int]) -> Floats:
    """The map from result to source that moves each corner inwards by at most ``distortion`` of half the image."""
    height, width = size
    moved = np.floor(corners * [int(distortion * (width // 2)) + 1, int(distortion * (height // 2)) + 1])
    start = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], dtype=np.float64)
    end = start + moved * [[1, 1], [-1, 1], [-1, -1], [1, -1]]
    rows = []
    for (x, y), (u, v) in zip(end, start, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    solved = np.append(np.linalg.solve(np.array(rows), start.ravel()), 1.0).reshape(3, 3)
    # torchvision solves for whole corners and applies the result to pixel centers at x + 0.5
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
    return np.linalg.inv(half) @ solved @ half


def _qualities(config: AugmentConfig, column: _Column) -> NDArray[np.int64]:
    low, high = config.jpeg_quality
    quality = np.floor(low + (high + 1 - low) * column("jpeg_quality")).clip(1, 100)
    return np.where(column("jpeg") < config.jpeg, quality, 0).astype(np.int64)


def _boxes(config: AugmentConfig, column: _Column, size: tuple[int, int]) -> NDArray[np.int64]:
    """Rectangles with random area and an aspect ratio from 0.3 to 3.3."""
    height, width = size
    low, high = config.erasing_area
    area = (low + (high - low) * column("erase_area")) * height * width
    low, high = math.log(0.3), math.log(3.3)
    aspect = np.exp(low + (high - low) * column("erase_aspect"))
    tall = np.rint(np.sqrt(area * aspect)).clip(1, height)
    wide = np.rint(np.sqrt(area / aspect)).clip(1, width)
    top = np.floor(column("erase_y") * (height - tall + 1))
    left = np.floor(column("erase_x") * (width - wide + 1))
    boxes = np.stack([top, left, top + tall, left + wide], axis=1).astype(np.int64)
    boxes[column("erase") >= config.erasing] = 0
    return boxes


def _rand_augment(config: AugmentConfig, numbers: Floats) -> Floats:
    drawn = numbers[:, len(_COLUMNS) :].reshape(len(numbers), config.rand_augment_ops, 2)
    strength = config.rand_augment_magnitude / (30 if config.rand_augment_strength == "torchvision" else 10)
    operation = np.floor(drawn[:, :, 0] * RAND_AUGMENT_OPERATIONS)
    return np.stack([operation, np.where(drawn[:, :, 1] < 0.5, -strength, strength)], axis=2)


RAND_AUGMENT_OPERATIONS = 14
"""Number of RandAugment's operations: identity, two shears, two shifts, rotation, four of color, and four of gray values."""


def _trivial_augment(config: AugmentConfig, column: _Column) -> Floats:
    """Any operation, at one of 31 strengths to either side."""
    operation = np.floor(column("trivial_operation") * RAND_AUGMENT_OPERATIONS)
    strength = np.floor(column("trivial_strength") * 31) / 30
    chosen = column("trivial") < config.trivial_augment
    signed = np.where(column("trivial_sign") < 0.5, -strength, strength)
    return np.stack([np.where(chosen, operation, 0), signed], axis=1)


def _occluded(config: AugmentConfig, column: _Column) -> Floats:
    which = np.where(column("occlusion") < config.occlusion, np.floor(column("occluder") * len(config.occluders)), -1)
    return np.stack([which, *(column(f"occluder_{name}") for name in ("kind", "x", "y"))], axis=1)
