"""The head being drawn: positions of its parts, and the map from the pixels of the picture to head coordinates."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facezoo.synthetic.color import HAIR, SKIN, Floats, ramp, unit
from facezoo.synthetic.parameters import Conditions, Identity

# Left eye, right eye, nose tip, left and right corner of the mouth (left as seen in the picture), in pixels of a 112 × 112 crop.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_SKULL = (43.0, 64.0, 37.0)  # half axes of the ellipsoid on which the features of the face lie


@dataclass(frozen=True)
class _Patch:
    """A rectangle of the picture with its head coordinates; ``image`` is a view, so blending into it changes the picture."""

    image: Floats  # (h, w, 3)
    x: Floats  # (h, w), template pixels
    y: Floats


class Head:
    """The picture being drawn, and the map from its pixels to head coordinates."""

    def __init__(self, who: Identity, how: Conditions, size: int, rng: np.random.Generator) -> None:
        self.who, self.how, self.size, self.rng = who, how, size, rng
        self.pixel = 112.0 / size  # width of a pixel in template pixels
        self.image: Floats = np.zeros((size, size, 3), np.float32)
        self.rotation = _rotation(how.yaw, how.pitch)
        self.mouth_width = who.mouth_width * (1.0 + 0.16 * how.smile)
        self.corner_lift = who.mouth_corner - 2.4 * how.smile
        self.to_picture, self.offset = self._align()
        column, row = pixel_grid(size)
        inverse = np.linalg.inv(self.to_picture)
        dx, dy = column - float(self.offset[0]), row - float(self.offset[1])
        self.screen_x: Floats = float(inverse[0, 0]) * dx + float(inverse[0, 1]) * dy
        self.screen_y: Floats = float(inverse[1, 0]) * dx + float(inverse[1, 1]) * dy
        self.x, self.y, self.relief = self._skull_coordinates()
        self.face_mask = self._face_mask()
        self.hair_mask: Floats = np.zeros_like(self.x)
        tone = float(np.clip(who.skin_tone + how.tan, 0.0, 1.0))
        self.skin = ramp(SKIN, tone) * np.array([1 + 0.05 * who.skin_redness, 1.0, 1 - 0.04 * who.skin_redness])
        self.hair = ramp(HAIR, how.dyed_tone if how.hair_dyed else unit(who.hair_tone + how.hair_tone_change))

    def patch(self, x: float, y: float, radius: float, *, plane: float | None = None) -> _Patch:
        """The rectangle around a point of the face, on the skull or in the plane z = ``plane``."""
        depth = skull_depth(x, y) if plane is None else plane
        center = self.to_picture @ (self.rotation @ np.array([x, y, depth]))[:2] + self.offset
        reach = radius * 1.15
        left, right = (math.floor((center[0] + 0.5 + s * reach) / self.pixel) for s in (-1, 1))
        top, bottom = (math.floor((center[1] + 0.5 + s * reach) / self.pixel) for s in (-1, 1))
        window = (slice(max(top, 0), max(bottom + 1, 0)), slice(max(left, 0), max(right + 1, 0)))
        if plane is None:
            return _Patch(self.image[window], self.x[window], self.y[window])
        return _Patch(self.image[window], *self.plane(plane, window))

    def plane(self, z: float, window: tuple[slice, slice] = (slice(None), slice(None))) -> tuple[Floats, Floats]:
        """Head coordinates x and y of the pixels, projected to the plane at depth ``z`` (template pixels)."""
        inverse = np.linalg.inv(self.rotation[:2, :2])
        sx = self.screen_x[window] - float(self.rotation[0, 2] * z)
        sy = self.screen_y[window] - float(self.rotation[1, 2] * z)
        return (
            float(inverse[0, 0]) * sx + float(inverse[0, 1]) * sy,
            float(inverse[1, 0]) * sx + float(inverse[1, 1]) * sy,
        )

    def soft(self, distance: Floats, edge: float = 1.0) -> Floats:
        """Coverage of a shape from its signed distance (template pixels, negative inside); ``edge`` is its softness in pixels."""
        return np.clip(0.5 - distance * (1.0 / (edge * max(self.pixel, 1.0))), 0.0, 1.0)

    def _align(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        who, how = self.who, self.how
        mouth_y = who.mouth_height + self.corner_lift
        points = np.array(
            [
                [-who.eye_spacing, who.eye_height, skull_depth(who.eye_spacing, who.eye_height)],
                [who.eye_spacing, who.eye_height, skull_depth(who.eye_spacing, who.eye_height)],
                [who.nose_bend, who.nose_tip, skull_depth(0.0, who.nose_tip) + who.nose_depth],
                [-self.mouth_width, mouth_y, skull_depth(self.mouth_width, mouth_y)],
                [self.mouth_width, mouth_y, skull_depth(self.mouth_width, mouth_y)],
            ]
        )
        matrix, offset = _similarity((points @ self.rotation.T)[:, :2], ARCFACE_TEMPLATE)
        # The detector's error rotates and scales about the center of the crop.
        cosine, sine = (math.exp(how.scale_error) * f(how.roll_error) for f in (math.cos, math.sin))
        jitter = np.array([[cosine, -sine], [sine, cosine]])
        middle = np.array([55.5, 55.5])
        return jitter @ matrix, jitter @ (offset - middle) + middle + np.array([how.shift_x, how.shift_y])

    def _skull_coordinates(self) -> tuple[Floats, Floats, Floats]:
        """x, y on the ellipsoid and its depth towards the camera; outside the silhouette, values of the nearest tangent plane."""
        inverse_squares = 1.0 / np.square(_SKULL)
        r = self.rotation
        view = r[2]  # the camera's axis in head coordinates
        x0, y0, z0 = (float(r[0, k]) * self.screen_x + float(r[1, k]) * self.screen_y for k in range(3))
        a = float(view @ (inverse_squares * view))
        b = sum(float(inverse_squares[k] * view[k]) * p for k, p in enumerate((x0, y0, z0)))
        c = sum(float(inverse_squares[k]) * p * p for k, p in enumerate((x0, y0, z0))) - 1.0
        depth = (np.sqrt(np.maximum(b * b - a * c, 0.0)) - b) * (1.0 / a)
        return x0 + float(view[0]) * depth, y0 + float(view[1]) * depth, depth

    def _face_mask(self) -> Floats:
        x, y = self.plane(8.0)
        return self.soft(face_outline(self.who, x, y), 1.6)


@functools.lru_cache(maxsize=8)
def pixel_grid(size: int) -> tuple[Floats, Floats]:
    """Column and row of the pixel centers in template pixels; at 112 they are the integers 0 to 111."""
    line = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(112.0 / size) - np.float32(0.5)
    column, row = np.meshgrid(line, line)
    column.flags.writeable = row.flags.writeable = False
    return column, row


def _rotation(yaw: float, pitch: float) -> NDArray[np.float64]:
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    about_y = np.array([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]])
    about_x = np.array([[1.0, 0.0, 0.0], [0.0, cp, sp], [0.0, -sp, cp]])
    return about_x @ about_y


def _similarity(
    source: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least-squares rotation, scale and shift (no reflection) from one set of 2-D points to another."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    power = float((s * s).sum())
    a = float((s * t).sum()) / power
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / power
    matrix = np.array([[a, -b], [b, a]])
    return matrix, target_mean - matrix @ source_mean


def skull_depth(x: float, y: float) -> float:
    """Depth of the skull at a point of the face, template pixels."""
    ax, ay, az = _SKULL
    return az * math.sqrt(max(1.0 - (x / ax) ** 2 - (y / ay) ** 2, 0.05))


def face_outline(who: Identity, x: Floats, y: Floats, grow: float = 0.0) -> Floats:
    """Approximate signed distance to the outline of face and skull, which narrows from the cheekbones to the chin."""
    height = np.where(y > 0, y * (1.0 / (who.chin + grow)), y * (-1.0 / (who.crown + grow)))
    width = (who.face_width + grow) * (1.0 - who.jaw_taper * np.square(np.maximum(y, 0.0) * (1.0 / who.chin)))
    across = np.abs(x) / np.maximum(width, 6.0)
    power = np.where(y > 0, np.float32(who.jaw_power), np.float32(2.5))  # skulls vary less than jaws
    return (power_norm(across, height, power) - 1.0) * who.face_width


def power_norm(u: Floats, v: Floats, power: float | Floats) -> Floats:
    """(|u|^p + |v|^p)^(1/p): the unit ball is a superellipse, from a diamond over an ellipse to a box with round corners."""
    floor = np.float32(1e-4)
    power = np.asarray(power, np.float32)
    return (np.maximum(np.abs(u), floor) ** power + np.maximum(np.abs(v), floor) ** power) ** (1.0 / power)
