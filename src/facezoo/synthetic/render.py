"""Draws one face from its two tables: layers of soft shapes, back to front, in the coordinates of the head.

Nothing is drawn and then warped. The pixel grid is carried back through alignment and pose to head coordinates, once on the
ellipsoid of the skull and once on a plane per part that sticks out of it or lies behind it, and each layer is an implicit shape
in those coordinates whose edge is one pixel soft. Part and pose therefore move as they do on a head: the nose runs ahead of the
eyes, the far cheek narrows, the ears trail. Alignment is done as it is for photographs: the five landmarks are projected and
the similarity that best maps them to the ArcFace template (arXiv:1801.07698) is applied, with a detector's error on top.
"""

from __future__ import annotations

import functools
import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from facezoo.synthetic.parameters import Conditions, Identity

Floats = NDArray[np.floating]  # float32 wherever it is as large as the picture

# Left eye, right eye, nose tip, left and right corner of the mouth (left as seen in the picture), in pixels of a 112 × 112 crop.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
_SKULL = (43.0, 64.0, 37.0)  # half axes of the ellipsoid that carries the features of the face

# Colors are fractions of full scale, RGB; each ramp is read at a tone in [0, 1].
_SKIN = np.array([[0.93, 0.78, 0.68], [0.86, 0.67, 0.54], [0.74, 0.54, 0.41], [0.60, 0.41, 0.30], [0.44, 0.29, 0.21]])
_HAIR = np.array(
    [
        [0.05, 0.04, 0.04],
        [0.16, 0.10, 0.07],
        [0.33, 0.20, 0.12],
        [0.50, 0.25, 0.12],
        [0.74, 0.58, 0.36],
        [0.62, 0.61, 0.60],
    ]
)
_IRIS = np.array([[0.16, 0.09, 0.05], [0.36, 0.22, 0.09], [0.33, 0.40, 0.20], [0.40, 0.48, 0.52], [0.25, 0.45, 0.68]])
_LIPS = np.array([[0.86, 0.60, 0.54], [0.78, 0.42, 0.40], [0.66, 0.32, 0.32], [0.52, 0.27, 0.24]])


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
    head = _Head(who, how, size, rng)
    _draw_background(head)
    _draw_back_hair(head)
    _draw_neck_and_ears(head)
    _draw_skin(head)
    _draw_beard(head)
    _draw_mouth(head)
    _draw_nose(head)
    for side in (-1.0, 1.0):
        _draw_eye(head, side)
        _draw_brow(head, side)
    _draw_hair(head)
    _shade(head)
    _draw_occlusion(head)
    return _photograph(head)


# ---------------------------------------------------------------------------------------------------------------- geometry


@dataclass(frozen=True)
class _Patch:
    """A rectangle of the picture with its head coordinates; ``image`` is a view, so that blending into it changes the picture."""

    image: Floats  # (h, w, 3)
    x: Floats  # (h, w), template pixels
    y: Floats


class _Head:
    """The picture under work, and the map from its pixels to head coordinates."""

    def __init__(self, who: Identity, how: Conditions, size: int, rng: np.random.Generator) -> None:
        self.who, self.how, self.size, self.rng = who, how, size, rng
        self.pixel = 112.0 / size  # width of a pixel in template pixels
        self.image: Floats = np.zeros((size, size, 3), np.float32)
        self.rotation = _rotation(how.yaw, how.pitch)
        self.mouth_width = who.mouth_width * (1.0 + 0.16 * how.smile)
        self.corner_lift = who.mouth_corner - 2.4 * how.smile
        self.to_picture, self.offset = self._align()
        column, row = _pixel_grid(size)
        inverse = np.linalg.inv(self.to_picture)
        dx, dy = column - float(self.offset[0]), row - float(self.offset[1])
        self.screen_x: Floats = float(inverse[0, 0]) * dx + float(inverse[0, 1]) * dy
        self.screen_y: Floats = float(inverse[1, 0]) * dx + float(inverse[1, 1]) * dy
        self.x, self.y, self.relief = self._skull_coordinates()
        self.face_mask = self._face_mask()
        self.hair_mask: Floats = np.zeros_like(self.x)
        tone = float(np.clip(who.skin_tone + how.tan, 0.0, 1.0))
        self.skin = _ramp(_SKIN, tone) * np.array([1 + 0.05 * who.skin_redness, 1.0, 1 - 0.04 * who.skin_redness])
        self.hair = _ramp(_HAIR, how.dyed_tone if how.hair_dyed else _unit(who.hair_tone + how.hair_tone_change))

    def patch(self, x: float, y: float, radius: float, *, plane: float | None = None) -> _Patch:
        """The rectangle around a point of the face, on the skull or on the plane z = ``plane``."""
        depth = _skull_depth(x, y) if plane is None else plane
        center = self.to_picture @ (self.rotation @ np.array([x, y, depth]))[:2] + self.offset
        reach = radius * 1.15
        left, right = (math.floor((center[0] + 0.5 + s * reach) / self.pixel) for s in (-1, 1))
        top, bottom = (math.floor((center[1] + 0.5 + s * reach) / self.pixel) for s in (-1, 1))
        window = (slice(max(top, 0), max(bottom + 1, 0)), slice(max(left, 0), max(right + 1, 0)))
        if plane is None:
            return _Patch(self.image[window], self.x[window], self.y[window])
        return _Patch(self.image[window], *self.plane(plane, window))

    def plane(self, z: float, window: tuple[slice, slice] = (slice(None), slice(None))) -> tuple[Floats, Floats]:
        """Head coordinates x and y of the pixels, where they meet the plane at depth ``z`` (template pixels)."""
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
                [-who.eye_spacing, who.eye_height, _skull_depth(who.eye_spacing, who.eye_height)],
                [who.eye_spacing, who.eye_height, _skull_depth(who.eye_spacing, who.eye_height)],
                [who.nose_bend, who.nose_tip, _skull_depth(0.0, who.nose_tip) + who.nose_depth],
                [-self.mouth_width, mouth_y, _skull_depth(self.mouth_width, mouth_y)],
                [self.mouth_width, mouth_y, _skull_depth(self.mouth_width, mouth_y)],
            ]
        )
        matrix, offset = _similarity((points @ self.rotation.T)[:, :2], ARCFACE_TEMPLATE)
        # The detector's error turns and scales about the middle of the crop.
        cosine, sine = (math.exp(how.scale_error) * f(how.roll_error) for f in (math.cos, math.sin))
        jitter = np.array([[cosine, -sine], [sine, cosine]])
        middle = np.array([55.5, 55.5])
        return jitter @ matrix, jitter @ (offset - middle) + middle + np.array([how.shift_x, how.shift_y])

    def _skull_coordinates(self) -> tuple[Floats, Floats, Floats]:
        """x, y on the ellipsoid and its depth towards the camera; outside its silhouette, those of the nearest tangent plane."""
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
        return self.soft(_face_outline(self.who, x, y), 1.6)


@functools.lru_cache(maxsize=8)
def _pixel_grid(size: int) -> tuple[Floats, Floats]:
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


def _skull_depth(x: float, y: float) -> float:
    ax, ay, az = _SKULL
    return az * math.sqrt(max(1.0 - (x / ax) ** 2 - (y / ay) ** 2, 0.05))


def _face_outline(who: Identity, x: Floats, y: Floats, grow: float = 0.0) -> Floats:
    """Signed distance, roughly, to the outline of face and skull, which narrows from the cheekbones to the chin."""
    height = np.where(y > 0, y * (1.0 / (who.chin + grow)), y * (-1.0 / (who.crown + grow)))
    width = (who.face_width + grow) * (1.0 - who.jaw_taper * np.square(np.maximum(y, 0.0) * (1.0 / who.chin)))
    across = np.abs(x) / np.maximum(width, 6.0)
    power = np.where(y > 0, np.float32(who.jaw_power), np.float32(2.5))  # skulls differ less than jaws
    return (_power_norm(across, height, power) - 1.0) * who.face_width


def _power_norm(u: Floats, v: Floats, power: float | Floats) -> Floats:
    """(|u|^p + |v|^p)^(1/p): the unit ball is a superellipse, from a diamond over an ellipse to a box with round corners."""
    floor = np.float32(1e-4)
    power = np.asarray(power, np.float32)
    return (np.maximum(np.abs(u), floor) ** power + np.maximum(np.abs(v), floor) ** power) ** (1.0 / power)


# ------------------------------------------------------------------------------------------------------------------ color


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _ramp(stops: NDArray[np.float64], tone: float) -> NDArray[np.float64]:
    where = np.linspace(0.0, 1.0, len(stops))
    return np.array([np.interp(tone, where, stops[:, channel]) for channel in range(3)])


def _blend(image: Floats, alpha: Floats, color: NDArray[np.floating]) -> None:
    """Lay a color, (3,) or (h, w, 3), over ``image`` in place with coverage ``alpha`` (h, w)."""
    image += alpha[..., None] * (np.asarray(color, np.float32) - image)


def _cloth(rng: np.random.Generator) -> NDArray[np.float64]:
    """Any color, dull ones more often."""
    return rng.random() * (0.35 + 0.65 * rng.random(3))


def _noise_field(rng: np.random.Generator, cells: tuple[int, int], size: int, channels: int = 3) -> Floats:
    """Smooth noise in [0, 1], (size, size, channels): a coarse random grid enlarged."""
    coarse = (rng.random((*cells, channels)) * 255.0).astype(np.uint8)
    picture = Image.fromarray(coarse[..., 0] if channels == 1 else coarse).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return np.asarray(picture, np.float32).reshape(size, size, channels) * np.float32(1 / 255)


# -------------------------------------------------------------------------------------------------------------- background


def _draw_background(head: _Head) -> None:
    """Smooth and busy grounds of any color, at times with a straight edge such as a door or a horizon."""
    rng, size = head.rng, head.size
    cells = int(rng.integers(2, 4 if rng.random() < 0.6 else 28))
    base, strength = _cloth(rng), rng.random()
    texture = _noise_field(rng, (cells, int(rng.integers(2, 28 if cells > 8 else 4))), size)
    head.image[:] = np.asarray(base, np.float32) + np.float32(strength) * (texture - np.float32(0.4))
    if rng.random() < 0.5:
        column, row = _pixel_grid(size)
        angle, place = 2 * math.pi * rng.random(), 60.0 * rng.random() - 30.0
        line = (column - 56.0) * math.cos(angle) + (row - 56.0) * math.sin(angle) - place
        _blend(head.image, head.soft(line) * np.float32(0.4 + 0.6 * rng.random()), _cloth(rng))
    np.clip(head.image, 0.0, 1.0, out=head.image)


# ---------------------------------------------------------------------------------------------------- hair, neck and ears


def _is_bald(head: _Head) -> bool:
    return head.who.baldness > 0.92


def _hair_color(head: _Head, x: Floats, y: Floats) -> Floats:
    """Strands: stripes along the hair, bent into curls."""
    who = head.who
    curl = np.float32(2.0 + 9.0 * who.hair_curl)
    phase = np.float32(6.28 * who.texture)
    bend = curl * np.sin(y * np.float32(0.12 + 0.2 * who.hair_curl) + phase)
    strand = np.sin(x * np.float32(0.8) + bend + phase) * np.sin(x * np.float32(0.31) - y * np.float32(0.13) + phase)
    tone = np.float32(1.0) + np.float32(0.15) * strand
    return np.asarray(head.hair, np.float32) * tone[..., None] + np.float32(0.02) * strand[..., None]


def _hair_volume(head: _Head) -> float:
    return max(head.who.hair_volume + head.how.hair_volume_change, 0.3)


def _draw_back_hair(head: _Head) -> None:
    """Hair behind neck and shoulders, for those who wear it long."""
    who, how = head.who, head.how
    length = who.hair_length + how.hair_length_change
    if _is_bald(head) or length < 8.0:
        return
    x, y = head.plane(-16.0)
    distance = (
        np.maximum(_power_norm(x * (1 / (who.face_width + 2.0 + 1.6 * _hair_volume(head))), y * (1 / 68.0), 3.0) - 1, 0)
        * 30
    )
    _blend(head.image, head.soft(np.maximum(distance - 0.5, y - length), 1.5), 0.7 * _hair_color(head, x, y))


def _draw_neck_and_ears(head: _Head) -> None:
    who, how = head.who, head.how
    x, y = head.plane(-12.0)
    shade = 0.72 - 0.15 * how.light_strength
    _blend(head.image, head.soft(np.maximum(np.abs(x) - who.neck_width, 10.0 - y)), shade * head.skin)
    _blend(head.image, head.soft(56.0 + np.abs(x) * -0.25 - y), _cloth(head.rng))
    for side in (-1.0, 1.0):
        center = side * (who.face_width + 0.35 * who.ear_size)
        ear = head.patch(center, who.ear_height, 2.2 * who.ear_size, plane=-4.0)
        u, v = ear.x - center, ear.y - who.ear_height
        distance = (_power_norm(u * (1 / (0.55 * who.ear_size)), v * (1 / (1.25 * who.ear_size)), 2.3) - 1) * (
            0.6 * who.ear_size
        )
        _blend(ear.image, head.soft(distance), 0.93 * head.skin * np.array([1.03, 0.95, 0.94]))
        inner = (_power_norm(u * (1 / (0.26 * who.ear_size)), v * (1 / (0.8 * who.ear_size)), 2.0) - 1) * (
            0.3 * who.ear_size
        )
        _blend(ear.image, np.float32(0.4) * head.soft(inner, 2.0), 0.55 * head.skin)


def _draw_hair(head: _Head) -> None:
    """Hair on the skull: inside the grown outline of the head and outside the opening that it leaves for the face."""
    who, how = head.who, head.how
    if _is_bald(head):
        return
    volume, length = _hair_volume(head), who.hair_length + how.hair_length_change
    x, y = head.plane(0.0)
    outer = _face_outline(who, x, y, grow=volume)
    # The opening is as deep as the forehead: it moves with the face.
    u, v = head.x, head.y
    line = who.hairline + how.hairline_change
    tilt = who.hair_tilt + how.hair_tilt_change
    fringe = max(who.hair_fringe, 0.0)
    edge = v - tilt * u - fringe * np.sin(u * np.float32(who.fringe_waves) + np.float32(6.28 * who.texture))
    width = who.face_width - who.hair_inset
    opening = (_power_norm(u * (1 / width), (edge - 14.0) * (1 / (14.0 - line)), who.hairline_power) - 1.0) * 30.0
    # Below its length the hair ends; the side of the cropped skull shows through as a thin fade.
    distance = np.maximum(np.maximum(outer, -opening), v - length)
    head.hair_mask = head.soft(distance, 1.8)
    shadow = head.soft(distance - 1.5, 5.0) * head.face_mask
    _blend(head.image, np.float32(0.35) * shadow, 0.5 * head.skin)
    _blend(head.image, head.hair_mask, _hair_color(head, x, y))


# -------------------------------------------------------------------------------------------------------- skin and features


def _draw_skin(head: _Head) -> None:
    who = head.who
    fixed = np.random.default_rng(int(who.texture * 2**53))
    _blend(head.image, head.face_mask, head.skin)
    # Warm cheeks and nose.
    blush = np.exp(np.square(np.abs(head.x) - 20.0) * (-1 / 110.0) + np.square(head.y - 6.0) * (-1 / 130.0))
    _blend(
        head.image, np.float32(0.10 + 0.08 * who.skin_redness) * blush * head.face_mask, np.array([0.80, 0.36, 0.32])
    )
    if who.freckles > 0.0:
        for x, y, r in fixed.random((int(10 + 34 * who.freckles), 3)) * [56.0, 30.0, 0.5] + [-28.0, -14.0, 0.1]:
            _draw_spot(head, x, y, r, 0.28)
    _draw_spot(head, who.mole_x, who.mole_y, who.mole_radius - 0.4, 0.85)
    _draw_spot(head, who.second_mole_x, who.second_mole_y, who.second_mole_radius - 0.4, 0.85)
    for side in (-1.0, 1.0):
        _draw_lines(head, side)


def _draw_spot(head: _Head, x: float, y: float, radius: float, strength: float) -> None:
    if radius <= 0.0:
        return
    spot = head.patch(x, y, radius + 2.5)
    distance = np.hypot(spot.x - np.float32(x), spot.y - np.float32(y)) - np.float32(radius + 0.3)
    _blend(spot.image, np.float32(strength) * head.soft(distance), head.skin * np.array([0.55, 0.42, 0.36]))


def _draw_lines(head: _Head, side: float) -> None:
    """Furrow beside the mouth, deeper in a smile, and the bag under the eye."""
    who, how = head.who, head.how
    depth = 0.12 + 0.45 * who.furrows + 0.25 * max(how.smile, 0.0)
    cheek = head.patch(side * (who.nose_width + 6.0), 0.5 * (who.nose_tip + who.mouth_height), 15.0)
    u, along = cheek.x * np.float32(side), (cheek.y - who.nose_tip) * (1 / (who.mouth_height - who.nose_tip))
    curve = who.nose_width + 1.0 + (head.mouth_width - who.nose_width + 2.5) * np.clip(along, 0, 1) ** 1.4
    within = np.clip(1.0 - np.abs(along - 0.55) * 1.8, 0.0, 1.0)
    _blend(cheek.image, np.float32(depth) * within * head.soft(np.abs(u - curve) - 0.5, 2.2), 0.62 * head.skin)
    bag = head.patch(side * who.eye_spacing, who.eye_height + who.eye_opening + 3.0, 13.0)
    u = (bag.x * np.float32(side) - who.eye_spacing) * (1 / (who.eye_width * 0.95))
    under = bag.y - (who.eye_height + who.eye_opening + 3.0 - 2.2 * np.square(u))
    strength = np.float32(0.08 + 0.5 * who.eye_bags) * np.clip(1.2 - np.square(u), 0.0, 1.0)
    _blend(bag.image, strength * head.soft(np.abs(under) - 0.4, 2.2), 0.62 * head.skin)


def _draw_eye(head: _Head, side: float) -> None:
    who, how = head.who, head.how
    patch = head.patch(side * who.eye_spacing, who.eye_height, who.eye_width + 7.0)
    # Local coordinates: u outwards, v down, turned by the slant.
    cosine, sine = math.cos(who.eye_slant), math.sin(who.eye_slant)
    dx, dy = patch.x * np.float32(side) - np.float32(who.eye_spacing), patch.y - np.float32(who.eye_height)
    u, v = cosine * dx - sine * dy, sine * dx + cosine * dy
    bow = 1.0 - np.square(u * (1 / who.eye_width))
    opening = who.eye_opening * how.eyes_open
    upper, lower = -opening * bow, 0.62 * opening * bow
    lid_distance = np.maximum(upper - v, v - lower)
    lid = head.soft(lid_distance)
    within = np.clip(bow * 3.0 + 0.4, 0.0, 1.0)
    _blend(
        patch.image,
        np.float32(0.35) * within * head.soft(np.abs(v + 0.5 * opening) - opening - 2.0, 4.0),
        0.68 * head.skin,
    )
    _blend(patch.image, lid, np.array([0.90, 0.88, 0.86]))
    gaze_u, gaze_v = how.gaze_x * side, how.gaze_y - 0.2 * opening
    radius = np.hypot(u - np.float32(gaze_u), v - np.float32(gaze_v))
    iris = _ramp(_IRIS, who.iris_tone)
    _blend(patch.image, lid * head.soft(radius - who.iris_radius), 0.55 * iris)
    _blend(patch.image, lid * head.soft(radius - (who.iris_radius - 0.7)), iris)
    _blend(patch.image, lid * head.soft(radius - 0.42 * who.iris_radius), np.array([0.03, 0.03, 0.03]))
    glint = np.hypot(u - np.float32(gaze_u - 0.9 * side), v - np.float32(gaze_v - 0.9)) - np.float32(0.45)
    _blend(patch.image, lid * head.soft(glint), np.array([1.0, 1.0, 1.0]))
    # Lash line, lower lid, crease.
    lash = np.abs(v - upper) - (0.35 + 0.65 * who.lashes)
    dark = 0.25 * head.hair + 0.12 * head.skin
    _blend(patch.image, within * head.soft(lash), dark)
    _blend(patch.image, np.float32(0.4) * within * head.soft(np.abs(v - lower) - 0.3), 0.55 * head.skin)
    if who.lid_crease > 0.0:
        crease = np.abs(v - 1.05 * upper + 1.6 + 1.2 * who.lid_crease) - 0.3
        _blend(patch.image, np.float32(0.35 + 0.3 * who.lid_crease) * within * head.soft(crease, 1.4), 0.55 * head.skin)


def _draw_brow(head: _Head, side: float) -> None:
    who, how = head.who, head.how
    center, height = who.eye_spacing + who.brow_shift, who.eye_height - who.brow_height - how.brow_raise
    patch = head.patch(side * center, height, who.brow_length + 6.0)
    u, v = patch.x * np.float32(side) - np.float32(center), patch.y - np.float32(height)
    along = u * (1 / who.brow_length)
    line = who.brow_slant * u + how.frown * u * -1.0 - who.brow_arch * (1.0 - np.square(along - 0.15))
    half = 0.5 * who.brow_thickness * (1.0 - 0.35 * along - 0.3 * np.square(along))
    distance = np.maximum(np.abs(v - line) - half, np.abs(u) - who.brow_length)
    hairs = 0.85 + 0.15 * np.sin(u * np.float32(2.6) + v * np.float32(1.7))
    color = 0.75 * _ramp(_HAIR, min(who.hair_tone, 0.75)) + 0.06 * head.skin
    _blend(patch.image, np.float32(who.brow_strength) * hairs * head.soft(distance, 1.4), color)


def _draw_nose(head: _Head) -> None:
    """Outline of the wings and the nostrils, on the plane of the tip; the ridge itself is relief and comes from the light."""
    who = head.who
    plane = _skull_depth(0.0, who.nose_tip) + 0.55 * who.nose_depth
    patch = head.patch(who.nose_bend, who.nose_tip, who.nose_width + 9.0, plane=plane)
    u, v = np.abs(patch.x - np.float32(who.nose_bend)), patch.y - np.float32(who.nose_tip)
    wing = np.hypot(u - np.float32(who.nose_width - 2.4), v - np.float32(0.6)) - 2.7
    outer = np.clip((u - (who.nose_width - 2.6)) * 0.7, 0.0, 1.0)
    _blend(patch.image, np.float32(0.5) * outer * head.soft(np.abs(wing) - 0.3, 1.6), 0.55 * head.skin)
    base = np.abs(v - 3.4 + np.float32(0.12) * u) - 0.5
    _blend(patch.image, np.float32(0.35) * head.soft(np.maximum(base, u - who.nose_width), 2.0), 0.6 * head.skin)
    hole = (
        _power_norm((u - 0.48 * who.nose_width) * (1 / (0.30 * who.nose_width)), (v - 2.3) * (1 / who.nostril), 2.0)
        - 1.0
    )
    _blend(patch.image, np.float32(0.85) * head.soft(hole * who.nostril, 1.3), 0.22 * head.skin)
    light = np.hypot(u, v + 1.2) - np.float32(1.0)
    _blend(patch.image, np.float32(0.12) * head.soft(light, 3.0), np.array([1.0, 1.0, 1.0]))


def _draw_mouth(head: _Head) -> None:
    who, how = head.who, head.how
    patch = head.patch(0.0, who.mouth_height, 1.15 * head.mouth_width + 7.0)
    half = head.mouth_width
    along = np.clip(patch.x * (1 / half), -1.3, 1.3)
    square = np.square(along)
    v = patch.y - np.float32(who.mouth_height) - head.corner_lift * square
    bow = np.maximum(1.0 - square, 0.0)
    gap = 0.5 * max(how.mouth_open, 0.0) * bow
    thin = 1.0 - 0.3 * max(how.smile, 0.0)
    dip = 1.0 - who.cupid_bow * 0.55 * np.exp(square * -22.0)
    top = -gap - thin * who.upper_lip * np.sqrt(bow) * dip
    bottom = gap + thin * who.lower_lip * bow
    lips = _ramp(_LIPS, _unit(0.75 * who.lip_tone + 0.35 * who.skin_tone)) * 0.6 + 0.4 * head.skin * np.array(
        [1.0, 0.75, 0.74]
    )
    if how.lipstick:
        lips = np.array([0.75, 0.10 + 0.25 * how.lipstick_hue, 0.15 + 0.3 * (1 - how.lipstick_hue)]) * (
            0.6 + 0.4 * how.lipstick_hue
        )
    ends = head.soft(np.abs(patch.x) - half)
    _blend(patch.image, ends * head.soft(np.maximum(top - v, v + gap)), 0.86 * lips)
    _blend(patch.image, ends * head.soft(np.maximum(gap - v, v - bottom)), lips)
    shine = np.abs(v - gap - 0.45 * who.lower_lip) - 0.3
    _blend(patch.image, np.float32(0.2) * bow * head.soft(shine, 2.0), np.array([1.0, 0.92, 0.9]))
    inside = ends * head.soft(np.abs(v) - gap)
    if how.mouth_open > 0.8:
        _blend(patch.image, inside, np.array([0.22, 0.06, 0.06]))
        teeth = head.soft(np.maximum(np.abs(v + 0.35 * gap) - 0.75 * gap, np.abs(patch.x) - 0.85 * half))
        _blend(patch.image, inside * teeth, np.array([0.93, 0.91, 0.86]))
    _blend(patch.image, np.float32(0.75) * ends * head.soft(np.abs(np.abs(v) - gap) - 0.35), 0.35 * lips)
    chin = np.abs(v - bottom - 2.6 + 1.2 * square) - 0.6
    _blend(patch.image, np.float32(0.28) * bow * head.soft(chin, 2.6), 0.6 * head.skin)


def _draw_beard(head: _Head) -> None:
    who, how = head.who, head.how
    full, lip = max(who.beard, 0.0), max(who.moustache, 0.0)
    if how.shaved:
        full, lip = 0.25 * full, 0.25 * lip
    full = max(full, 0.45 * max(how.stubble, 0.0))
    if full <= 0.05 and lip <= 0.05:
        return
    x, y = head.x, head.y
    color = 0.8 * _ramp(_HAIR, who.hair_tone) + 0.08 * head.skin
    grain = np.float32(0.82) + np.float32(0.18) * np.sin(x * np.float32(2.1)) * np.sin(y * np.float32(1.9) + x)
    if full > 0.05:
        cheek_line = 0.5 * (who.nose_tip + who.mouth_height) + 8.0 - 0.016 * np.square(x)
        _blend(head.image, np.float32(0.9 * full) * grain * head.face_mask * head.soft(cheek_line - y, 5.0), color)
    if lip > 0.05:
        middle = 0.5 * (who.nose_tip + 3.0 + who.mouth_height - who.upper_lip) + 0.5
        bar = np.maximum(np.abs(y - middle - 0.010 * np.square(x)) - 2.3, np.abs(x) - 0.95 * who.mouth_width)
        _blend(head.image, np.float32(0.5 + 0.5 * lip) * grain * head.soft(bar, 2.0), color)


# ------------------------------------------------------------------------------------------------------------------- light


def _bump(x: Floats, y: Floats, center: tuple[float, float], width: tuple[float, float]) -> Floats:
    u, v = (x - np.float32(center[0])) * (1 / width[0]), (y - np.float32(center[1])) * (1 / width[1])
    return np.exp(-(u * u + v * v))


def _relief(head: _Head) -> Floats:
    """Depth of the lit surface towards the camera, template pixels: the skull and what stands out of it."""
    who = head.who
    x, y = head.x, head.y
    depth = head.relief.copy()
    plane = _skull_depth(0.0, who.nose_tip) + 0.55 * who.nose_depth
    nx, ny = head.plane(plane)
    bridge = who.eye_height - 4.0
    rise = np.clip((ny - bridge) * (1 / (who.nose_tip - bridge)), 0.0, 1.0)
    half = who.bridge_width + (0.62 * who.nose_width - 0.5 * who.bridge_width) * rise * rise
    under = head.soft(ny - who.nose_tip - 2.0, 5.0)
    depth += (
        who.nose_depth
        * (0.25 + 0.75 * rise)
        * np.clip(rise * 6.0, 0, 1)
        * under
        * np.exp(-np.square((nx - who.nose_bend * rise) / half))
    )
    side = np.abs(x)
    depth -= who.socket_depth * _bump(side, y, (who.eye_spacing - 1.0, who.eye_height - 1.0), (9.0, 5.5))
    depth += who.brow_relief * _bump(side, y, (who.eye_spacing, who.eye_height - who.brow_height), (11.0, 4.5))
    depth += (who.cheekbones + 1.5 * max(head.how.smile, 0.0)) * _bump(side, y, (21.0, 3.0), (9.0, 8.0))
    depth += who.chin_relief * _bump(side, y, (0.0, who.chin - 7.0), (9.0, 6.5))
    depth += 2.0 * _bump(side, y, (0.0, who.mouth_height), (head.mouth_width, 6.0))
    return depth


def _shade(head: _Head) -> None:
    """Ambient plus directed light on the relief, a second light of another color, and at times a cast shadow."""
    how = head.how
    depth = _relief(head)
    step = np.float32(1.0 / (2.0 * head.pixel) * math.sqrt(abs(np.linalg.det(head.to_picture))))
    gx, gy = np.zeros_like(depth), np.zeros_like(depth)
    gx[:, 1:-1] = (depth[:, 2:] - depth[:, :-2]) * step
    gy[1:-1] = (depth[2:] - depth[:-2]) * step
    np.clip(gx, -2.5, 2.5, out=gx)
    np.clip(gy, -2.5, 2.5, out=gy)
    inverse_length = 1.0 / np.sqrt(gx * gx + gy * gy + 1.0)
    across = math.sin(how.light_tilt)
    light = (across * math.cos(how.light_angle), across * math.sin(how.light_angle), math.cos(how.light_tilt))
    facing = (light[2] - gx * light[0] - gy * light[1]) * inverse_length
    diffuse = np.maximum(facing, 0.0)
    shading = (1.0 - how.light_strength) + how.light_strength * 1.25 * diffuse
    if how.cast_shadow:
        cosine, sine = math.cos(how.shadow_angle), math.sin(how.shadow_angle)
        shadow = head.soft(head.screen_x * cosine + head.screen_y * sine - how.shadow_offset, 4.0)
        shading = shading * (1.0 - np.float32(how.shadow_strength) * shadow)
    on_head = np.maximum(head.face_mask, head.hair_mask)
    factor = (1.0 + on_head * (shading - 1.0))[..., None]
    if how.second_light:
        side = (-gx * math.cos(how.shadow_angle) - gy * math.sin(how.shadow_angle)) * inverse_length * on_head
        factor = factor * (
            1.0 + np.float32(how.second_light) * side[..., None] * np.array([1.0, 0.1, -1.0], np.float32)
        )
    head.image *= factor
    gloss = np.maximum(facing, 0.0) ** 12 * np.float32(0.16 * how.light_strength) * head.face_mask
    head.image += gloss[..., None]


# --------------------------------------------------------------------------------------------------------------- occlusion


def _draw_occlusion(head: _Head) -> None:
    how = head.how
    if how.glasses:
        _draw_glasses(head)
    if how.scarf:
        x, y = head.plane(26.0)
        edge = how.scarf_edge + 0.006 * np.square(x)
        _draw_cloth(head, head.soft(edge - y), x, y)
    if how.hat:
        x, y = head.plane(12.0)
        edge = y - how.hat_brim - how.hat_tilt * x + 0.004 * np.square(x)
        reach = np.abs(x) - head.who.face_width - 9.0
        _blend(head.image, np.float32(0.35) * head.soft(np.maximum(edge - 5.0, reach), 7.0), np.zeros(3))
        _draw_cloth(head, head.soft(np.maximum(edge, reach)), x, y)
    if how.block:
        _draw_block(head)


def _draw_cloth(head: _Head, alpha: Floats, x: Floats, y: Floats) -> None:
    rng = head.rng
    color, angle, waves, strength = _cloth(rng), 3.14 * rng.random(), 0.2 + 1.5 * rng.random(), 0.3 * rng.random()
    stripes = 1.0 + np.float32(strength) * np.sin((x * math.cos(angle) + y * math.sin(angle)) * np.float32(waves))
    _blend(head.image, alpha, np.asarray(color, np.float32) * stripes[..., None])


def _draw_glasses(head: _Head) -> None:
    who, how, rng = head.who, head.how, head.rng
    x, y = head.plane(_skull_depth(0.0, who.eye_height) + 4.0)
    rim = _cloth(rng) * 0.6
    u, v = np.abs(x) - np.float32(who.eye_spacing + 0.5), y - np.float32(who.eye_height + 1.5)
    lens = _power_norm(u * (1 / how.glasses_width), v * (1 / how.glasses_height), how.glasses_power) - 1.0
    distance = lens * min(how.glasses_width, how.glasses_height)
    if how.glasses_tint > 0.0:
        _blend(head.image, np.float32(how.glasses_tint) * head.soft(distance), 0.3 * _cloth(rng))
    else:
        glare = head.soft(np.abs(u + v - (16.0 * rng.random() - 8.0)) - 2.5, 3.0)
        _blend(head.image, np.float32(0.25 * rng.random()) * head.soft(distance) * glare, np.ones(3))
    _blend(head.image, head.soft(np.abs(distance) - 0.5 * how.glasses_rim), rim)
    bridge = np.maximum(
        np.abs(v + 2.5 - 0.06 * np.square(x)) - 0.5 * how.glasses_rim, np.abs(x) - (who.eye_spacing - how.glasses_width)
    )
    temple = np.maximum(np.abs(v + 2.0) - 0.5 * how.glasses_rim, who.eye_spacing + how.glasses_width - np.abs(x))
    temple = np.maximum(temple, np.abs(x) - who.face_width)
    _blend(head.image, head.soft(np.minimum(bridge, temple)), rim)


def _draw_block(head: _Head) -> None:
    """Something held in front of the face: a rounded shape that reaches in from a side, skin-colored or of any color."""
    how, rng = head.how, head.rng
    column, row = _pixel_grid(head.size)
    turn = 6.28 * rng.random()
    dx = column - np.float32(56.0 + how.block_distance * math.cos(how.block_angle))
    dy = row - np.float32(64.0 + how.block_distance * math.sin(how.block_angle))
    u = (math.cos(turn) * dx + math.sin(turn) * dy) * (1 / how.block_width)
    v = (math.cos(turn) * dy - math.sin(turn) * dx) * (1 / how.block_height)
    distance = (_power_norm(u, v, how.block_power) - 1.0) * min(how.block_width, how.block_height)
    skin = _ramp(_SKIN, rng.random())  # anybody's hand: its tone says nothing about the face
    color = skin * (0.6 + 0.4 * rng.random()) if rng.random() < 0.4 else _cloth(rng)
    _blend(head.image, np.float32(0.3) * head.soft(distance - 2.0, 6.0), np.zeros(3))
    shade = (1.0 - 0.15 * np.clip(u + v, -1.0, 1.0))[..., None]
    _blend(head.image, head.soft(distance), np.asarray(color, np.float32) * shade)


# ------------------------------------------------------------------------------------------------------------------ camera


def _photograph(head: _Head) -> NDArray[np.uint8]:
    """Automatic exposure, color of the light, tone curve, lens, sensor, compression."""
    how, rng, size = head.how, head.rng, head.size
    image = np.maximum(head.image, 0.0)
    # The meter looks at the middle of the picture, as a camera does. It takes most of the brightness of the skin away.
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
