"""Draw one face from its two tables: layers of soft shapes, back to front, in head coordinates.

Nothing is drawn and then warped. The pixel grid is mapped back through alignment and pose to head coordinates, once on the
ellipsoid of the skull and once on a plane for each part in front of it or behind it. Each layer is an implicit shape in those
coordinates with an edge one pixel soft. So the parts move as on a real head: when it turns, the nose moves more than the eyes,
and the far cheek narrows. Alignment works as for photographs: the five landmarks are projected, and the similarity transform
that best maps them to the ArcFace template (arXiv:1801.07698) is applied, with a detector's error added.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from facezoo.synthetic.color import blend, cloth, noise_field
from facezoo.synthetic.features import draw_eye, draw_mouth, draw_neck_and_ears, draw_nose, draw_skin
from facezoo.synthetic.hair import draw_back_hair, draw_beard, draw_brow, draw_hair
from facezoo.synthetic.head import Head, pixel_grid
from facezoo.synthetic.light import shade
from facezoo.synthetic.occlusion import draw_occlusion
from facezoo.synthetic.parameters import Conditions, Identity


def render_face(who: Identity, how: Conditions, size: int = 112) -> NDArray[np.uint8]:
    """Draw one picture.

    Args:
        who: the person.
        how: the conditions of the picture.
        size: height and width in pixels.

    Returns:
        uint8 array of shape (size, size, 3), RGB.
    """
    rng = np.random.default_rng(int(how.texture * 2**53))
    head = Head(who, how, size, rng)
    _draw_background(head)
    draw_back_hair(head)
    draw_neck_and_ears(head)
    draw_skin(head)
    draw_beard(head)
    draw_mouth(head)
    draw_nose(head)
    for side in (-1.0, 1.0):
        draw_eye(head, side)
        draw_brow(head, side)
    draw_hair(head)
    shade(head)
    draw_occlusion(head)
    return _photograph(head)


def _draw_background(head: Head) -> None:
    """Smooth or busy backgrounds of any color, sometimes with a straight edge such as a door or a horizon."""
    rng, size = head.rng, head.size
    cells = int(rng.integers(2, 4 if rng.random() < 0.6 else 28))
    base, strength = cloth(rng), rng.random()
    texture = noise_field(rng, (cells, int(rng.integers(2, 28 if cells > 8 else 4))), size)
    head.image[:] = np.asarray(base, np.float32) + np.float32(strength) * (texture - np.float32(0.4))
    if rng.random() < 0.5:
        column, row = pixel_grid(size)
        angle, place = 2 * math.pi * rng.random(), 60.0 * rng.random() - 30.0
        line = (column - 56.0) * math.cos(angle) + (row - 56.0) * math.sin(angle) - place
        blend(head.image, head.soft(line) * np.float32(0.4 + 0.6 * rng.random()), cloth(rng))
    np.clip(head.image, 0.0, 1.0, out=head.image)


def _photograph(head: Head) -> NDArray[np.uint8]:
    """Automatic exposure, color of the light, tone curve, lens, sensor, compression."""
    how, rng, size = head.how, head.rng, head.size
    image = np.maximum(head.image, 0.0)
    # Exposure is measured in the middle of the picture, as in a camera. This removes most of the brightness of the skin.
    quarter = size // 4
    metered = float(image[quarter : size - quarter, quarter : size - quarter].mean())
    gain = (0.46 / max(metered, 0.03)) ** 0.9 * math.exp(how.exposure)
    balance = np.exp(np.array([how.temperature, how.tint, -how.temperature]))
    image *= np.asarray(gain * balance, np.float32)
    gray = 0.299 * image[..., 0] + 0.587 * image[..., 1] + 0.114 * image[..., 2]
    saturation = 0.0 if how.monochrome else how.saturation
    image = gray[..., None] + np.float32(saturation) * (image - gray[..., None])
    # A soft shoulder keeps highlights from clipping to flat white.
    image = (image - np.float32(0.46)) * np.float32(how.contrast) + np.float32(0.46)
    image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) * 5.0), image)
    picture = Image.fromarray((np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8))
    if how.low_resolution:
        small = max(round(size * how.resolution), 8)
        picture = picture.resize((small, small), Image.Resampling.BILINEAR).resize(
            (size, size), Image.Resampling.BICUBIC
        )
    if how.blur > 0.15:
        picture = picture.filter(ImageFilter.GaussianBlur(how.blur / head.pixel))
    if how.noise > 0.004:
        noise = rng.standard_normal((size, size, 3), dtype=np.float32)
        noisy = np.asarray(picture, np.float32) + np.float32(255.0 * how.noise) * noise
        picture = Image.fromarray((np.clip(noisy, 0.0, 255.0) + 0.5).astype(np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=round(how.jpeg_quality))
    return np.array(Image.open(buffer).convert("RGB"))
