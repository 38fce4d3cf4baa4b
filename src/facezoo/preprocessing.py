"""Preprocessing of images: a record that belongs to a set of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from facezoo.checks import is_real, is_whole

TEMPLATE_SIDE = 112  # side of an aligned face in pixels, the unit of crops
_LARGEST = 16384  # pixels of a side, and channels
_SHOWN = 60


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of a network's images. It belongs to a set of weights and is saved with them.

    Attributes:
        img_size: height and width in pixels.
        mean: subtracted per channel after scaling to [0, 1], in ``channel_order``.
        std: divided by per channel, in ``channel_order``.
        channel_order: ``"rgb"`` or ``"bgr"``.
        alignment: template that the face was aligned to; ``"arcface"`` is the five-point template of 1801.07698 at 112×112.
        crop: the part of an aligned face that is the network's input: top, left, bottom and right in pixels of a 112×112 face,
            scaled for faces of another size. It is cut out before the image is resized to ``img_size``. An image that already has
            the crop's size is not cropped. None: the whole image. Networks for 112×96 have ``(0, 8, 112, 104)``.
        flip: the recommended test-time augmentation: ``"none"``, ``"sum"`` or ``"concat"``, see
            :func:`facezoo.evaluation.embed_images`. It is only recorded, and applied on request.

    Raises:
        ValueError: an invalid size, crop, mean or std, or an unknown word.
    """

    img_size: tuple[int, int] = (112, 112)
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    alignment: str = "arcface"
    crop: tuple[int, int, int, int] | None = None
    flip: Literal["none", "sum", "concat"] = "none"

    def __post_init__(self) -> None:
        if not _whole(self.img_size, 2) or not 1 <= min(self.img_size) <= max(self.img_size) <= _LARGEST:
            raise ValueError(f"img_size is (height, width) in pixels, got {_show(self.img_size)}")
        if not _numbers(self.mean) or not _numbers(self.std) or len(self.mean) != len(self.std):
            raise ValueError(
                f"mean and std have one value per channel each, got {_show(self.mean)} and {_show(self.std)}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is positive, got {_show(self.std)}")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order is 'rgb' or 'bgr', got {_show(self.channel_order)}")
        if not isinstance(self.alignment, str):
            raise ValueError(f"alignment is the name of a template, got {_show(self.alignment)}")
        if self.crop is not None and not _is_crop(self.crop):
            raise ValueError(
                f"crop is (top, left, bottom, right) in pixels of a face of {TEMPLATE_SIDE}×{TEMPLATE_SIDE}, such as "
                f"(0, 8, 112, 104); got {_show(self.crop)}"
            )
        if self.flip not in ("none", "sum", "concat"):
            raise ValueError(f"flip is 'none', 'sum' or 'concat', got {_show(self.flip)}")

    def crop_of(self, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
        """The crop of an image of ``size`` (height, width): top, left, bottom and right in its pixels; None for no crop."""
        if self.crop is None:
            return None
        top, left, bottom, right = self.crop
        if tuple(size) == (bottom - top, right - left):
            return None  # already cropped
        height, width = size
        box = (top * height, left * width, bottom * height, right * width)
        top, left, bottom, right = (round(side / TEMPLATE_SIDE) for side in box)
        top, left = min(top, height - 1), min(left, width - 1)  # at least one pixel, inside the image
        return top, left, max(bottom, top + 1), max(right, left + 1)

    def to_dict(self) -> dict[str, Any]:
        """Convert to a dict of JSON values; :meth:`from_dict` reads it."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read a dict from :meth:`to_dict`; fields that an older version did not write get their default.

        Raises:
            ValueError: unknown fields or invalid values.
        """
        fields = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or not set(values) <= set(fields):
            raise ValueError(f"the preprocessing has the fields {', '.join(fields)}; got {_show(values)}")
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**known)


def _whole(values: object, count: int) -> bool:
    return isinstance(values, tuple) and len(values) == count and all(is_whole(value) for value in values)


def _numbers(values: object) -> bool:
    return isinstance(values, tuple) and 1 <= len(values) <= _LARGEST and all(is_real(value) for value in values)


def _is_crop(crop: tuple[int, int, int, int]) -> bool:
    if not _whole(crop, 4):
        return False
    top, left, bottom, right = crop
    return 0 <= top < bottom <= TEMPLATE_SIDE and 0 <= left < right <= TEMPLATE_SIDE


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
