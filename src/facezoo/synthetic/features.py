"""Neck and ears, skin, eyes, nose and mouth."""

from __future__ import annotations

import math

import numpy as np

from facezoo.synthetic.color import IRIS, LIPS, blend, cloth, ramp, unit
from facezoo.synthetic.head import Head, power_norm, skull_depth


def draw_neck_and_ears(head: Head) -> None:
    """Neck, collar and both ears."""
    who, how = head.who, head.how
    x, y = head.plane(-12.0)
    shade = 0.72 - 0.15 * how.light_strength
    blend(head.image, head.soft(np.maximum(np.abs(x) - who.neck_width, 10.0 - y)), shade * head.skin)
    blend(head.image, head.soft(56.0 + np.abs(x) * -0.25 - y), cloth(head.rng))
    for side in (-1.0, 1.0):
        center = side * (who.face_width + 0.35 * who.ear_size)
        ear = head.patch(center, who.ear_height, 2.2 * who.ear_size, plane=-4.0)
        u, v = ear.x - center, ear.y - who.ear_height
        distance = (power_norm(u * (1 / (0.55 * who.ear_size)), v * (1 / (1.25 * who.ear_size)), 2.3) - 1) * (
            0.6 * who.ear_size
        )
        blend(ear.image, head.soft(distance), 0.93 * head.skin * np.array([1.03, 0.95, 0.94]))
        inner = (power_norm(u * (1 / (0.26 * who.ear_size)), v * (1 / (0.8 * who.ear_size)), 2.0) - 1) * (
            0.3 * who.ear_size
        )
        blend(ear.image, np.float32(0.4) * head.soft(inner, 2.0), 0.55 * head.skin)


def draw_skin(head: Head) -> None:
    """The face: complexion, spots and lines."""
    who = head.who
    fixed = np.random.default_rng(int(who.texture * 2**53))
    blend(head.image, head.face_mask, head.skin)
    # Warm cheeks and nose.
    blush = np.exp(np.square(np.abs(head.x) - 20.0) * (-1 / 110.0) + np.square(head.y - 6.0) * (-1 / 130.0))
    blend(head.image, np.float32(0.10 + 0.08 * who.skin_redness) * blush * head.face_mask, np.array([0.80, 0.36, 0.32]))
    if who.freckles > 0.0:
        for x, y, r in fixed.random((int(10 + 34 * who.freckles), 3)) * [56.0, 30.0, 0.5] + [-28.0, -14.0, 0.1]:
            _draw_spot(head, x, y, r, 0.28)
    _draw_spot(head, who.mole_x, who.mole_y, who.mole_radius - 0.4, 0.85)
    _draw_spot(head, who.second_mole_x, who.second_mole_y, who.second_mole_radius - 0.4, 0.85)
    for side in (-1.0, 1.0):
        _draw_lines(head, side)


def _draw_spot(head: Head, x: float, y: float, radius: float, strength: float) -> None:
    if radius <= 0.0:
        return
    spot = head.patch(x, y, radius + 2.5)
    distance = np.hypot(spot.x - np.float32(x), spot.y - np.float32(y)) - np.float32(radius + 0.3)
    blend(spot.image, np.float32(strength) * head.soft(distance), head.skin * np.array([0.55, 0.42, 0.36]))


def _draw_lines(head: Head, side: float) -> None:
    """Furrow beside the mouth, deeper in a smile, and the bag under the eye."""
    who, how = head.who, head.how
    depth = 0.12 + 0.45 * who.furrows + 0.25 * max(how.smile, 0.0)
    cheek = head.patch(side * (who.nose_width + 6.0), 0.5 * (who.nose_tip + who.mouth_height), 15.0)
    u, along = cheek.x * np.float32(side), (cheek.y - who.nose_tip) * (1 / (who.mouth_height - who.nose_tip))
    curve = who.nose_width + 1.0 + (head.mouth_width - who.nose_width + 2.5) * np.clip(along, 0, 1) ** 1.4
    within = np.clip(1.0 - np.abs(along - 0.55) * 1.8, 0.0, 1.0)
    blend(cheek.image, np.float32(depth) * within * head.soft(np.abs(u - curve) - 0.5, 2.2), 0.62 * head.skin)
    bag = head.patch(side * who.eye_spacing, who.eye_height + who.eye_opening + 3.0, 13.0)
    u = (bag.x * np.float32(side) - who.eye_spacing) * (1 / (who.eye_width * 0.95))
    under = bag.y - (who.eye_height + who.eye_opening + 3.0 - 2.2 * np.square(u))
    strength = np.float32(0.08 + 0.5 * who.eye_bags) * np.clip(1.2 - np.square(u), 0.0, 1.0)
    blend(bag.image, strength * head.soft(np.abs(under) - 0.4, 2.2), 0.62 * head.skin)


def draw_eye(head: Head, side: float) -> None:
    """One eye; ``side`` is -1 for the left of the picture, 1 for the right."""
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
    blend(
        patch.image,
        np.float32(0.35) * within * head.soft(np.abs(v + 0.5 * opening) - opening - 2.0, 4.0),
        0.68 * head.skin,
    )
    blend(patch.image, lid, np.array([0.90, 0.88, 0.86]))
    gaze_u, gaze_v = how.gaze_x * side, how.gaze_y - 0.2 * opening
    radius = np.hypot(u - np.float32(gaze_u), v - np.float32(gaze_v))
    iris = ramp(IRIS, who.iris_tone)
    blend(patch.image, lid * head.soft(radius - who.iris_radius), 0.55 * iris)
    blend(patch.image, lid * head.soft(radius - (who.iris_radius - 0.7)), iris)
    blend(patch.image, lid * head.soft(radius - 0.42 * who.iris_radius), np.array([0.03, 0.03, 0.03]))
    glint = np.hypot(u - np.float32(gaze_u - 0.9 * side), v - np.float32(gaze_v - 0.9)) - np.float32(0.45)
    blend(patch.image, lid * head.soft(glint), np.array([1.0, 1.0, 1.0]))
    # Lash line, lower lid, crease.
    lash = np.abs(v - upper) - (0.35 + 0.65 * who.lashes)
    dark = 0.25 * head.hair + 0.12 * head.skin
    blend(patch.image, within * head.soft(lash), dark)
    blend(patch.image, np.float32(0.4) * within * head.soft(np.abs(v - lower) - 0.3), 0.55 * head.skin)
    if who.lid_crease > 0.0:
        crease = np.abs(v - 1.05 * upper + 1.6 + 1.2 * who.lid_crease) - 0.3
        blend(patch.image, np.float32(0.35 + 0.3 * who.lid_crease) * within * head.soft(crease, 1.4), 0.55 * head.skin)


def draw_nose(head: Head) -> None:
    """Outline of the wings and the nostrils, on the plane of the tip; the ridge itself is relief and comes from the light."""
    who = head.who
    plane = skull_depth(0.0, who.nose_tip) + 0.55 * who.nose_depth
    patch = head.patch(who.nose_bend, who.nose_tip, who.nose_width + 9.0, plane=plane)
    u, v = np.abs(patch.x - np.float32(who.nose_bend)), patch.y - np.float32(who.nose_tip)
    wing = np.hypot(u - np.float32(who.nose_width - 2.4), v - np.float32(0.6)) - 2.7
    outer = np.clip((u - (who.nose_width - 2.6)) * 0.7, 0.0, 1.0)
    blend(patch.image, np.float32(0.5) * outer * head.soft(np.abs(wing) - 0.3, 1.6), 0.55 * head.skin)
    base = np.abs(v - 3.4 + np.float32(0.12) * u) - 0.5
    blend(patch.image, np.float32(0.35) * head.soft(np.maximum(base, u - who.nose_width), 2.0), 0.6 * head.skin)
    hole = (
        power_norm((u - 0.48 * who.nose_width) * (1 / (0.30 * who.nose_width)), (v - 2.3) * (1 / who.nostril), 2.0)
        - 1.0
    )
    blend(patch.image, np.float32(0.85) * head.soft(hole * who.nostril, 1.3), 0.22 * head.skin)
    light = np.hypot(u, v + 1.2) - np.float32(1.0)
    blend(patch.image, np.float32(0.12) * head.soft(light, 3.0), np.array([1.0, 1.0, 1.0]))


def draw_mouth(head: Head) -> None:
    """Lips, teeth, and the fold above the chin."""
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
    lips = ramp(LIPS, unit(0.75 * who.lip_tone + 0.35 * who.skin_tone)) * 0.6 + 0.4 * head.skin * np.array(
        [1.0, 0.75, 0.74]
    )
    if how.lipstick:
        lips = np.array([0.75, 0.10 + 0.25 * how.lipstick_hue, 0.15 + 0.3 * (1 - how.lipstick_hue)]) * (
            0.6 + 0.4 * how.lipstick_hue
        )
    ends = head.soft(np.abs(patch.x) - half)
    blend(patch.image, ends * head.soft(np.maximum(top - v, v + gap)), 0.86 * lips)
    blend(patch.image, ends * head.soft(np.maximum(gap - v, v - bottom)), lips)
    shine = np.abs(v - gap - 0.45 * who.lower_lip) - 0.3
    blend(patch.image, np.float32(0.2) * bow * head.soft(shine, 2.0), np.array([1.0, 0.92, 0.9]))
    inside = ends * head.soft(np.abs(v) - gap)
    if how.mouth_open > 0.8:
        blend(patch.image, inside, np.array([0.22, 0.06, 0.06]))
        teeth = head.soft(np.maximum(np.abs(v + 0.35 * gap) - 0.75 * gap, np.abs(patch.x) - 0.85 * half))
        blend(patch.image, inside * teeth, np.array([0.93, 0.91, 0.86]))
    blend(patch.image, np.float32(0.75) * ends * head.soft(np.abs(np.abs(v) - gap) - 0.35), 0.35 * lips)
    chin = np.abs(v - bottom - 2.6 + 1.2 * square) - 0.6
    blend(patch.image, np.float32(0.28) * bow * head.soft(chin, 2.6), 0.6 * head.skin)
