"""Drawn occluders of a face: mask, glasses. Their positions are those of eyes, nose and mouth in ArcFace's template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facezoo.preprocessing import TEMPLATE_SIDE
from facezoo.registry import Registry

Color = tuple[int, int, int]
Points = tuple[tuple[float, float], ...]

_FINER = 4  # factor of supersampling at edges
_PLACE = 2.0  # largest shift of a drawing, pixels of the template


@dataclass(frozen=True)
class Shape:
    """One colored shape.

    Attributes:
        kind: ``"polygon"``; ``"ellipse"``, given by the corners of its box; or ``"line"``.
        points: x and y in pixels of the 112x112 template, whose first pixel's center is (0, 0).
        color: R, G, B from 0 to 255.
        opacity: 0 to 1.
        width: of a line, or of the rim of an ellipse, which is filled without; pixels of the template.
    """

    kind: Literal["polygon", "ellipse", "line"]
    points: Points
    color: Color
    opacity: float = 1.0
    width: float | None = None


Occluder = Callable[[float], Sequence[Shape]]
"""From a number in [0, 1), which chooses among kinds and colors, to shapes in the order in which they are drawn."""

OCCLUDERS: Registry[Occluder] = Registry("occluder", listed_by="facezoo.data.occluders.OCCLUDERS.list()")
"""Drawings by name. A function that is registered here can be named in ``AugmentConfig.occluders``."""

_CLOTH: tuple[Color, ...] = ((151, 191, 214), (236, 236, 233), (38, 38, 42), (94, 122, 104))


@OCCLUDERS.register("mask")
def mask(kind: float) -> tuple[Shape, ...]:
    """A mask over nose and mouth with two bands, in four colors."""
    color = _CLOTH[int(kind * len(_CLOTH))]
    darker: Color = (int(color[0] * 0.85), int(color[1] * 0.85), int(color[2] * 0.85))
    cloth = ((56, 62), (70, 66), (87, 70), (87, 90), (76, 106), (56, 113), (36, 106), (25, 90), (25, 70), (42, 66))
    bands = tuple(
        Shape("line", ((side, y), (edge, y + rise)), darker, width=1.5)
        for side, edge in ((26, 8), (86, 104))
        for y, rise in ((71, -9), (89, -5))
    )
    folds = tuple(Shape("line", ((30, y), (56, y + 3), (82, y)), darker, width=1.0) for y in (78, 87, 96))
    return (*bands, Shape("polygon", cloth, color), *folds)


@OCCLUDERS.register("glasses")
def glasses(kind: float) -> tuple[Shape, ...]:
    """Glasses with a thin or a thick rim, black or brown."""
    return _glasses((28, 26, 26) if kind < 0.5 else (96, 62, 38), 2.0 if int(kind * 4) % 2 == 0 else 3.5, None)


@OCCLUDERS.register("sunglasses")
def sunglasses(kind: float) -> tuple[Shape, ...]:
    """Glasses that hide the eyes, black, brown or green."""
    return _glasses((20, 20, 22), 2.5, ((22, 22, 26), (58, 42, 32), (30, 46, 38))[int(kind * 3)])


def _glasses(rim: Color, width: float, glass: Color | None) -> tuple[Shape, ...]:
    shapes = [
        Shape("line", ((49, 50), (56, 48), (63, 50)), rim, width=width),
        Shape("line", ((23, 50), (5, 47)), rim, width=width),
        Shape("line", ((89, 50), (107, 47)), rim, width=width),
    ]
    for center in (38, 74):
        box = ((center - 15.0, 40.5), (center + 15.0, 63.5))
        if glass is not None:
            shapes.append(Shape("ellipse", box, glass, opacity=0.93))
        shapes.append(Shape("ellipse", box, rim, width=width))
    return tuple(shapes)


def occlude(pixels: NDArray[np.uint8], name: str, kind: float, x: float = 0.5, y: float = 0.5) -> NDArray[np.uint8]:
    """Draw on an aligned face.

    Args:
        pixels: uint8 (H, W, 3), RGB; left as it is. The face lies in it as :func:`facezoo.data.align.template_points` says: 112x96
            is the middle of 112x112.
        name: of :data:`OCCLUDERS`.
        kind: in [0, 1), see :data:`Occluder`.
        x: in [0, 1): moves the drawing by up to 2 pixels of the template to the left or, from 0.5, to the right.
        y: likewise, up and down.

    Returns:
        uint8 (H, W, 3).
    """
    height, width = pixels.shape[:2]
    scale = max(width, height) / TEMPLATE_SIDE
    corner = (TEMPLATE_SIDE * scale - np.array([width, height])) / 2
    moved = (2 * np.array([x, y]) - 1) * _PLACE
    result = pixels.astype(np.float32)
    for shape in OCCLUDERS[name](kind):
        # pixel centers lie at whole numbers, and Pillow counts from the corner
        points = (((np.array(shape.points) + moved + 0.5) * scale - corner) * _FINER).round().astype(int)
        cover = _covered(shape, [(int(a), int(b)) for a, b in points], (width, height), scale)
        result += (np.array(shape.color, dtype=np.float32) - result) * (cover * shape.opacity)[..., None]
    return np.rint(result).astype(np.uint8)


def _covered(shape: Shape, points: list[tuple[int, int]], size: tuple[int, int], scale: float) -> NDArray[np.float32]:
    """How much of each pixel a shape covers, 0 to 1, float32 (H, W)."""
    canvas = Image.new("L", (size[0] * _FINER, size[1] * _FINER))
    draw = ImageDraw.Draw(canvas)
    width = 0 if shape.width is None else max(1, round(shape.width * scale * _FINER))
    if shape.kind == "polygon":
        draw.polygon(points, fill=255)
    elif shape.kind == "line":
        draw.line(points, fill=255, width=width, joint="curve")
    elif width:
        draw.ellipse(points, outline=255, width=width)
    else:
        draw.ellipse(points, fill=255)
    return np.asarray(canvas.reduce(_FINER)).astype(np.float32) / np.float32(255)
