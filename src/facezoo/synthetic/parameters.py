"""The parameters of a synthetic face: one table for the person and one for the picture.

Each table is a frozen dataclass whose fields have their own range, so that a parameter, its range and its meaning are on one
line. Lengths are template pixels, the pixels of the 112 × 112 ArcFace crop; the origin of the head is the middle of the face at
the height of the mouth's upper third; x points right, y down, z towards the camera. Angles are radians.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import numpy as np

# Part of every random key and of the record beside written images. Raise it when the drawing changes, so that old sets stay
# distinct.
FORMAT_VERSION = 1

# Identity numbers are divided into disjoint ranges, so that sets of any size share no person. Training, dev and
# test images are of identities [0, 2^40), verification images of [2^40, 2^41), the LFW-style protocol has those from 2^41 on.
TRAINING_IDENTITIES = range(1 << 40)
VERIFICATION_IDENTITIES = range(1 << 40, 1 << 41)
LFW_IDENTITIES = range(1 << 41, 1 << 42)

_Table = TypeVar("_Table")


def _between(low: float, high: float) -> Any:
    """A value drawn uniformly between two ends. It does not depend on the difficulty."""
    return field(metadata={"low": low, "high": high, "neutral": None})


def _around(neutral: float, low: float, high: float) -> Any:
    """A value drawn uniformly between two ends, then moved towards ``neutral`` as the difficulty falls to 0."""
    return field(metadata={"low": low, "high": high, "neutral": neutral})


def _chance(probability: float) -> Any:
    """An event of the given probability at difficulty 1; it never happens at difficulty 0."""
    return field(metadata={"probability": probability})


@dataclass(frozen=True)
class Identity:
    """The person: everything that is the same in all images of one person."""

    # Head
    face_width: float = _between(32.5, 40.5)  # half the width of the face
    chin: float = _between(38.0, 48.5)  # y of the chin
    crown: float = _between(52.0, 60.0)  # height of the crown above the origin
    jaw_taper: float = _between(0.02, 0.42)  # 0: a square jaw; larger: a pointed chin
    jaw_power: float = _between(1.9, 3.0)  # exponent of the outline: 2 an ellipse, 3 a box with round corners
    ear_size: float = _between(5.0, 9.5)
    ear_height: float = _between(-15.0, -6.0)
    cheekbones: float = _between(0.0, 5.0)  # relief, template pixels
    chin_relief: float = _between(0.5, 5.0)
    brow_relief: float = _between(0.0, 4.0)
    socket_depth: float = _between(1.0, 5.0)
    neck_width: float = _between(17.0, 27.0)
    # Skin
    skin_tone: float = _between(0.0, 1.0)  # light to dark
    skin_redness: float = _between(-1.0, 1.0)
    freckles: float = _between(-1.2, 1.0)  # density; none below 0
    mole_x: float = _between(-24.0, 24.0)
    mole_y: float = _between(-6.0, 34.0)
    mole_radius: float = _between(-0.9, 1.9)  # none below 0.4
    second_mole_x: float = _between(-26.0, 26.0)
    second_mole_y: float = _between(-38.0, 24.0)
    second_mole_radius: float = _between(-1.6, 1.7)
    furrows: float = _between(0.0, 1.0)  # lines from the nose to the corners of the mouth
    eye_bags: float = _between(0.0, 1.0)
    # Eyes
    eye_spacing: float = _between(14.8, 20.2)  # half the distance of the pupils
    eye_height: float = _between(-22.5, -17.5)  # y of the pupils
    eye_width: float = _between(5.6, 9.2)  # half the width of the opening
    eye_opening: float = _between(2.1, 4.6)  # half its height
    eye_slant: float = _between(-0.22, 0.26)  # positive: the outer corner is higher
    iris_radius: float = _between(2.5, 3.5)
    iris_tone: float = _between(0.0, 1.0)  # brown, green, gray, blue
    lid_crease: float = _between(-0.5, 1.0)
    lashes: float = _between(0.2, 1.0)
    # Brows
    brow_height: float = _between(6.0, 11.5)  # above the pupils
    brow_thickness: float = _between(1.0, 3.8)
    brow_length: float = _between(6.5, 11.5)  # half the length
    brow_shift: float = _between(-1.5, 2.5)  # outwards from the pupil
    brow_arch: float = _between(-0.5, 3.6)
    brow_slant: float = _between(-0.26, 0.20)  # positive: the outer end is lower
    brow_strength: float = _between(0.35, 1.0)
    # Nose
    nose_tip: float = _between(-4.5, 5.0)  # y of the tip
    nose_width: float = _between(4.6, 9.8)  # half the width at the nostrils
    bridge_width: float = _between(1.8, 4.8)
    nose_depth: float = _between(6.0, 15.0)
    nostril: float = _between(0.8, 2.0)
    nose_bend: float = _between(-1.3, 1.3)  # sideways
    # Mouth
    mouth_height: float = _between(17.0, 25.0)  # y of the middle line
    mouth_width: float = _between(9.5, 17.0)  # half the width
    upper_lip: float = _between(0.9, 3.6)
    lower_lip: float = _between(1.5, 5.0)
    cupid_bow: float = _between(0.0, 1.0)
    mouth_corner: float = _between(-1.6, 1.4)  # positive: corners lower than the middle
    lip_tone: float = _between(0.0, 1.0)
    # Hair
    baldness: float = _between(0.0, 1.0)  # bald above 0.9
    hairline: float = _between(-49.0, -31.0)
    hairline_power: float = _between(1.7, 4.5)  # shape of the face opening in the hair
    hair_tilt: float = _between(-0.30, 0.30)  # side parting
    hair_fringe: float = _between(-1.0, 2.5)  # amplitude of an uneven fringe; even below 0
    fringe_waves: float = _between(0.15, 0.55)
    hair_volume: float = _between(0.5, 8.0)
    hair_length: float = _between(-26.0, 52.0)  # y to which it covers the sides
    hair_inset: float = _between(-1.0, 5.0)  # extent on the cheeks
    hair_curl: float = _between(0.0, 1.0)
    hair_tone: float = _between(0.0, 1.0)  # black, brown, auburn, blond, gray
    # Beard
    beard: float = _between(-1.6, 1.0)  # strength of a full beard; none below 0
    moustache: float = _between(-1.2, 1.0)  # none below 0
    # Seed of the textures of skin and hair
    texture: float = _between(0.0, 1.0)


@dataclass(frozen=True)
class Conditions:
    """The picture: everything that differs between the images of one person and is independent of the person."""

    # Pose and the error of the landmark detector
    yaw: float = _around(0.0, -0.62, 0.62)
    pitch: float = _around(0.0, -0.32, 0.32)
    roll_error: float = _around(0.0, -0.12, 0.12)
    scale_error: float = _around(0.0, -0.08, 0.08)  # logarithm
    shift_x: float = _around(0.0, -4.0, 4.0)
    shift_y: float = _around(0.0, -4.0, 4.0)
    # Light
    light_angle: float = _between(0.0, 2.0 * np.pi)  # direction in the image plane
    light_tilt: float = _around(0.35, 0.15, 1.15)  # away from the camera's axis
    light_strength: float = _around(0.35, 0.15, 0.95)  # directed share of the light
    second_light: float = _around(0.0, -0.25, 0.25)  # warm from one side, cold from the other
    exposure: float = _around(0.0, -0.55, 0.45)  # logarithm of the gain after automatic exposure
    temperature: float = _around(0.0, -0.34, 0.34)  # logarithm, red against blue
    tint: float = _around(0.0, -0.12, 0.12)  # logarithm, green against the others
    contrast: float = _around(1.0, 0.65, 1.35)
    saturation: float = _around(1.0, 0.35, 1.35)
    monochrome: bool = _chance(0.12)
    cast_shadow: bool = _chance(0.3)
    shadow_angle: float = _between(0.0, 2.0 * np.pi)
    shadow_offset: float = _between(-18.0, 26.0)
    shadow_strength: float = _between(0.25, 0.6)
    # Expression
    smile: float = _around(0.1, -0.7, 1.0)
    mouth_open: float = _around(0.0, -3.5, 5.5)  # template pixels; closed below 0
    eyes_open: float = _around(1.0, 0.35, 1.3)
    brow_raise: float = _around(0.0, -2.0, 3.0)
    frown: float = _around(0.0, -0.1, 0.2)
    gaze_x: float = _around(0.0, -2.4, 2.4)
    gaze_y: float = _around(0.0, -0.9, 0.9)
    # What changes from day to day
    hair_length_change: float = _around(0.0, -14.0, 14.0)
    hair_volume_change: float = _around(0.0, -2.5, 2.5)
    hairline_change: float = _around(0.0, -5.0, 5.0)
    hair_tilt_change: float = _around(0.0, -0.2, 0.2)
    hair_tone_change: float = _around(0.0, -0.08, 0.08)
    hair_dyed: bool = _chance(0.2)
    dyed_tone: float = _between(0.0, 1.0)
    tan: float = _around(0.0, -0.12, 0.12)  # added to the tone of the skin
    lipstick: bool = _chance(0.15)
    lipstick_hue: float = _between(0.0, 1.0)
    stubble: float = _around(0.0, -0.8, 0.45)  # none below 0
    shaved: bool = _chance(0.3)
    # In front of the face
    glasses: bool = _chance(0.22)
    glasses_width: float = _between(8.5, 12.5)
    glasses_height: float = _between(5.5, 10.0)
    glasses_power: float = _between(2.0, 6.0)
    glasses_rim: float = _between(0.6, 1.9)
    glasses_tint: float = _between(-1.0, 0.85)  # opacity of the lenses; clear below 0
    hat: bool = _chance(0.16)
    hat_brim: float = _between(-46.0, -31.0)
    hat_tilt: float = _between(-0.2, 0.2)
    scarf: bool = _chance(0.08)
    scarf_edge: float = _between(20.0, 36.0)
    block: bool = _chance(0.16)  # a hand, a cup, a telephone
    block_angle: float = _between(0.0, 2.0 * np.pi)
    block_distance: float = _between(24.0, 42.0)
    block_width: float = _between(8.0, 18.0)
    block_height: float = _between(10.0, 24.0)
    block_power: float = _between(1.6, 6.0)
    # Camera
    blur: float = _around(0.0, -0.5, 1.5)  # σ, template pixels; sharp below 0
    low_resolution: bool = _chance(0.2)
    resolution: float = _between(0.35, 0.7)
    noise: float = _around(0.0, 0.0, 0.05)  # σ, fraction of full scale
    jpeg_quality: float = _around(95.0, 25.0, 95.0)
    # Seed of everything else: background, clothes, colors of things, noise
    texture: float = _between(0.0, 1.0)


def sample_identity(seed: int, identity: int) -> Identity:
    """Person number ``identity`` of the population ``seed``; it depends only on these two numbers."""
    return _sample(Identity, random_stream(seed, identity), 1.0)


def sample_conditions(seed: int, identity: int, image: int, difficulty: float) -> Conditions:
    """The conditions of one image. ``difficulty`` (fraction) scales the same random draw, so that difficulties are comparable."""
    return _sample(Conditions, random_stream(seed, identity, image), difficulty)


def random_stream(*key: int | str) -> np.random.Generator:
    """An independent random generator for a key.

    The key is hashed as text, so consecutive or huge numbers are as good as others, and no two keys share a stream.
    """
    text = "/".join(["facezoo-synthetic-faces", str(FORMAT_VERSION), *map(str, key)])
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little"))


def _sample(table: type[_Table], rng: np.random.Generator, difficulty: float) -> _Table:
    values: dict[str, float | bool] = {}
    rows = fields(table)  # type: ignore[arg-type]
    # One draw per row, used or not, so that no value depends on another row or on the difficulty.
    for row, draw in zip(rows, rng.random(len(rows)).tolist(), strict=True):
        spec = row.metadata
        if "probability" in spec:
            values[row.name] = draw < spec["probability"] * difficulty
            continue
        value = spec["low"] + draw * (spec["high"] - spec["low"])
        if spec["neutral"] is not None:
            value = spec["neutral"] + difficulty * (value - spec["neutral"])
        values[row.name] = value
    return table(**values)
