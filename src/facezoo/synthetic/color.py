"""Colors of skin, hair, eyes and lips, and blending. Colors are RGB, fractions of full scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating]  # float32 for arrays as large as the picture
# Each ramp is evaluated at a tone in [0, 1].
SKIN = np.array([[0.93, 0.78, 0.68], [0.86, 0.67, 0.54], [0.74, 0.54, 0.41], [0.60, 0.41, 0.30], [0.44, 0.29, 0.21]])
HAIR = np.array(
    [
        [0.05, 0.04, 0.04],
        [0.16, 0.10, 0.07],
        [0.33, 0.20, 0.12],
        [0.50, 0.25, 0.12],
        [0.74, 0.58, 0.36],
        [0.62, 0.61, 0.60],
    ]
)
IRIS = np.array([[0.16, 0.09, 0.05], [0.36, 0.22, 0.09], [0.33, 0.40, 0.20], [0.40, 0.48, 0.52], [0.25, 0.45, 0.68]])
LIPS = np.array([[0.86, 0.60, 0.54], [0.78, 0.42, 0.40], [0.66, 0.32, 0.32], [0.52, 0.27, 0.24]])


def unit(value: float) -> float:
    """``value``, clipped to [0, 1]."""
    return min(max(value, 0.0), 1.0)


def ramp(stops: NDArray[np.float64], tone: float) -> NDArray[np.float64]:
    """The color of a ramp of stops, ``(K, 3)``, at ``tone`` in [0, 1]."""
    where = np.linspace(0.0, 1.0, len(stops))
    return np.array([np.interp(tone, where, stops[:, channel]) for channel in range(3)])


def blend(image: Floats, alpha: Floats, color: NDArray[np.floating]) -> None:
    """Blend a color, (3,) or (h, w, 3), over ``image`` in place with coverage ``alpha`` (h, w)."""
    image += alpha[..., None] * (np.asarray(color, np.float32) - image)


def cloth(rng: np.random.Generator) -> NDArray[np.float64]:
    """A random color; dull ones are more frequent."""
    return rng.random() * (0.35 + 0.65 * rng.random(3))


def noise_field(rng: np.random.Generator, cells: tuple[int, int], size: int, channels: int = 3) -> Floats:
    """Smooth noise in [0, 1], (size, size, channels): a coarse random grid enlarged."""
    coarse = (rng.random((*cells, channels)) * 255.0).astype(np.uint8)
    picture = Image.fromarray(coarse[..., 0] if channels == 1 else coarse).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return np.asarray(picture, np.float32).reshape(size, size, channels) * np.float32(1 / 255)
