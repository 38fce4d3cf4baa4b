"""Augmentation image by image, on uint8 arrays (H, W, 3), with OpenCV if it is installed, else with Pillow.

Both resample each image once and apply one color matrix. Inside the image the result differs by at most 3 gray levels from
torchvision's operations with the same parameters: torchvision truncates after each step, and OpenCV's weights have few bits. At
the border of a moved image the libraries mix in the fill differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from facezoo.data.augment_plan import LUMA, Floats, Plan
from facezoo.data.image import Pixels
from facezoo.data.occluders import occlude

Backend = Literal["cv2", "pil"]

_CENTER = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1.0]])
_UNCENTER = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])


@cache
def fastest() -> Backend:
    """``"cv2"`` if OpenCV is installed (the extra ``fast``), else ``"pil"``."""
    try:
        import cv2  # noqa: F401
    except ImportError:
        return "pil"
    return "cv2"


def augment_image(pixels: Pixels, plan: Plan, index: int, backend: Backend | None = None) -> Pixels:
    """Apply row ``index`` of a plan, except for the erased rectangle, which is set after normalization.

    Args:
        pixels: uint8 (H, W, 3), RGB; left as it is.
        plan: parameters for images of this size.
        index: which row.
        backend: ``"cv2"`` or ``"pil"``; None for the faster one that is installed.

    Returns:
        uint8 (H, W, 3).
    """
    backend = backend or fastest()
    if plan.occluded is not None:
        pixels = draw_occluder(pixels, plan, index)
    if plan.matrix is not None:
        if plan.sampled is not None and plan.sampled[index]:
            pixels = warp(
                pixels, plan.matrix[index], plan.fill, backend, plan.inside is not None and bool(plan.inside[index])
            )
        else:
            moved = flipped_and_shifted([pixels], plan.matrix[index : index + 1], plan.fill)
            pixels = moved[0]
    if plan.rand_augment is not None:
        image = Image.fromarray(pixels)
        for operation, strength in plan.rand_augment[index]:
            image = _operation(image, int(operation), float(strength), plan.fill, RAND)
        pixels = np.asarray(image)
    if plan.trivial_augment is not None:
        operation, strength = plan.trivial_augment[index]
        pixels = np.asarray(_operation(Image.fromarray(pixels), int(operation), float(strength), plan.fill, TRIVIAL))
    pixels = _colored(pixels, plan, index, backend)
    if plan.low_resolution is not None and plan.low_resolution[index] != 1:
        pixels = low_resolution(pixels, float(plan.low_resolution[index]))
    if plan.blur is not None and plan.blur[index]:
        pixels = blur(pixels, float(plan.blur[index]), backend)
    if plan.jpeg is not None and plan.jpeg[index]:
        pixels = recompress(pixels, int(plan.jpeg[index]))
    return np.ascontiguousarray(pixels)


def warp(pixels: Pixels, matrix: Floats, fill: tuple[int, int, int], backend: Backend, inside: bool = False) -> Pixels:
    """Bilinear sampling at ``matrix @ (x, y, 1)`` for each pixel (x, y) of the result, which is as large as the source.

    Outside the source is ``fill``. With ``inside`` nothing is outside: the outer half of its outermost pixels has their color.
    """
    height, width = pixels.shape[:2]
    affine = matrix[2, 0] == 0 and matrix[2, 1] == 0
    if backend == "cv2":
        cv2 = _cv2()
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        function, used = (cv2.warpAffine, matrix[:2]) if affine else (cv2.warpPerspective, matrix)
        border = cv2.BORDER_REPLICATE if inside else cv2.BORDER_CONSTANT
        warped: Pixels = function(pixels, used, (width, height), flags=flags, borderMode=border, borderValue=fill)
        return warped
    corner = _CENTER @ matrix @ _UNCENTER  # Pillow's pixel centers lie at x + 0.5
    corner = corner / corner[2, 2]
    data = tuple(corner.ravel()[: 6 if affine else 8])
    method = Image.Transform.AFFINE if affine else Image.Transform.PERSPECTIVE
    image = Image.fromarray(pixels).transform(
        (width, height), method, data, resample=Image.Resampling.BILINEAR, fillcolor=fill
    )
    return np.asarray(image)


def _colored(pixels: Pixels, plan: Plan, index: int, backend: Backend) -> Pixels:
    """Brightness, contrast, saturation and gray as one matrix, then the hue."""
    if plan.has_color:
        matrix, slope = (values[0] for values in plan.colors(slice(index, index + 1)))
        constant = slope * _mean_luma(pixels, backend) if slope else 0.0
        pixels = _multiplied(pixels, np.column_stack([matrix, np.full(3, constant)]), backend)
    if plan.hue is not None and plan.hue[index]:
        pixels = shift_hue(pixels, float(plan.hue[index]))
    return pixels


def _multiplied(pixels: Pixels, matrix: Floats, backend: Backend) -> Pixels:
    """Each pixel (R, G, B, 1) times a matrix (3, 4), rounded and clipped."""
    if np.array_equal(matrix, np.eye(3, 4)):
        return pixels
    if backend == "cv2":
        changed: Pixels = _cv2().transform(pixels, matrix)
        return changed
    rounded = matrix + np.array([0, 0, 0, 0.5])  # Pillow truncates
    return np.asarray(Image.fromarray(pixels).convert("RGB", tuple(rounded.ravel())))


def _mean_luma(pixels: Pixels, backend: Backend) -> float:
    """Mean of 0.299 R + 0.587 G + 0.114 B over the image."""
    if backend == "cv2":
        return float(np.dot(_cv2().mean(pixels)[:3], LUMA))
    counts = np.array(Image.fromarray(pixels).convert("L").histogram())
    return float(counts @ np.arange(256) / counts.sum())


def shift_hue(pixels: Pixels, shift: float) -> Pixels:
    """Shift the hue by a fraction of the color circle, in Pillow's 8-bit HSV as torchvision does."""
    hue, saturation, value = Image.fromarray(pixels).convert("HSV").split()
    turned = (np.asarray(hue).astype(np.int64) + int(shift * 255)) % 256
    merged = Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value))
    return np.asarray(merged.convert("RGB"))


def low_resolution(pixels: Pixels, scale: float) -> Pixels:
    """Scale the sides by ``scale`` and back, bilinear with antialiasing."""
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def blur(pixels: Pixels, sigma: float, backend: Backend) -> Pixels:
    """Gaussian blur over 9×9 pixels, mirrored at the edges."""
    if backend == "cv2":
        blurred: Pixels = _cv2().GaussianBlur(pixels, (9, 9), sigma, borderType=_cv2().BORDER_REFLECT_101)
        return blurred
    from torchvision.transforms.v2 import functional as F

    tensor = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
    return np.ascontiguousarray(F.gaussian_blur(tensor, [9, 9], [sigma, sigma]).permute(1, 2, 0).numpy())


def recompress(pixels: Pixels, quality: int) -> Pixels:
    """Compress as JPEG with this quality and decode again."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as image:
        return np.asarray(image.convert("RGB"))


def flipped_and_shifted(
    images: Sequence[Pixels], matrices: Floats, fill: tuple[int, int, int], out: Pixels | None = None
) -> Pixels:
    """Flips and shifts by whole pixels, exactly.

    Args:
        images: N arrays of one size, uint8 (H, W, 3).
        matrices: (N, 3, 3), of flips and shifts only.
        fill: color of what comes in from outside.
        out: where the result goes, uint8 (N, H, W, 3); None makes an array.
    """
    result = np.empty((len(images), *images[0].shape), dtype=np.uint8) if out is None else out
    height, width = result.shape[1:3]
    flipped = matrices[:, 0, 0] < 0
    # x in the source is width - 1 - (x + shift) where the image is flipped
    right = np.where(flipped, matrices[:, 0, 2] - (width - 1), matrices[:, 0, 2]).astype(int)
    down = matrices[:, 1, 2].astype(int)
    if right.any() or down.any():
        result[:] = np.full((height, width, 3), fill, dtype=np.uint8)
    # the part of the source that stays inside, and where it goes: top, left; its height and width
    sides = np.stack([height - np.abs(down), width - np.abs(right)]).clip(0)
    corners = np.stack([down, right, -down, -right]).clip(0)
    for source, target, top, left, down_to, right_to, high, wide in zip(
        images, result, *corners.tolist(), *sides.tolist(), strict=True
    ):
        target[down_to : down_to + high, right_to : right_to + wide] = source[top : top + high, left : left + wide]
    if flipped.any():
        result[flipped] = _mirrored(result[flipped])
    return result


def _mirrored(images: Pixels) -> Pixels:
    """Images uint8 (N, H, W, 3), each mirrored. NumPy takes seven times as long as torch, and twenty times as long as OpenCV."""
    if fastest() == "cv2":
        rows = images.reshape(-1, *images.shape[2:])
        turned: Pixels = _cv2().flip(rows, 1).reshape(images.shape)
        return turned
    return torch.from_numpy(images).flip(2).numpy()


def split_channels(pixels: Pixels, planes: Pixels) -> None:
    """Write the channels of uint8 (H, W, 3) into ``planes`` (3, H, W) with OpenCV, in a tenth of torch's time."""
    for plane, found in zip(planes, _cv2().split(pixels, list(planes)), strict=True):
        if not np.may_share_memory(found, plane):  # an OpenCV that does not use the memory given
            plane[:] = found


def draw_occluder(pixels: Pixels, plan: Plan, index: int) -> Pixels:
    """What row ``index`` of a plan draws on the face, if anything."""
    assert plan.occluded is not None
    which, kind, x, y = plan.occluded[index].tolist()
    return pixels if which < 0 else occlude(pixels, plan.occluders[int(which)], kind, x, y)


@dataclass(frozen=True)
class Space:
    """The largest strengths of the operations that RandAugment and TrivialAugment share."""

    shear: float
    shift: Callable[[int], float]  # pixels, of a side
    degrees: float
    color: float
    bits: int


RAND = Space(0.3, lambda side: 150 / 331 * side, 30, 0.9, 4)
TRIVIAL = Space(0.99, lambda _: 32, 135, 0.99, 6)


def _operation(
    image: Image.Image, operation: int, strength: float, fill: tuple[int, int, int], space: Space
) -> Image.Image:
    """One of the operations; ``strength`` from -1 to 1 is that share of the largest."""
    size, amount = abs(strength), 1 + space.color * strength
    if operation in (1, 2, 3, 4, 5):
        return _moved(image, operation, strength, fill, space)
    if operation == 6:
        return ImageEnhance.Brightness(image).enhance(amount)
    if operation == 7:
        return ImageEnhance.Color(image).enhance(amount)
    if operation == 8:
        return ImageEnhance.Contrast(image).enhance(amount)
    if operation == 9:
        return ImageEnhance.Sharpness(image).enhance(amount)
    if operation == 10:
        return ImageOps.posterize(image, 8 - round(space.bits * size))
    if operation == 11:
        return image.point([value if value < 255 * (1 - size) else 255 - value for value in range(256)] * 3)
    if operation == 12:
        return ImageOps.autocontrast(image)
    if operation == 13:
        return ImageOps.equalize(image)
    return image


def _moved(
    image: Image.Image, operation: int, strength: float, fill: tuple[int, int, int], space: Space
) -> Image.Image:
    """Shears, shifts and the rotation."""
    width, height = image.size
    if operation == 5:
        return image.rotate(space.degrees * strength, Image.Resampling.BILINEAR, fillcolor=fill)
    shear, shift = space.shear * strength, int(space.shift(width if operation == 3 else height) * strength)
    data = {
        1: (1, shear, 0, 0, 1, 0),
        2: (1, 0, 0, shear, 1, 0),
        3: (1, 0, -shift, 0, 1, 0),
        4: (1, 0, 0, 0, 1, -shift),
    }[operation]
    return image.transform(
        (width, height), Image.Transform.AFFINE, data, resample=Image.Resampling.BILINEAR, fillcolor=fill
    )


@cache
def _cv2() -> ModuleType:
    import cv2

    return cv2
