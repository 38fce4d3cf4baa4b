"""Hair, brows and beard."""

from __future__ import annotations

import numpy as np

from facezoo.synthetic.color import HAIR, Floats, blend, ramp
from facezoo.synthetic.head import Head, face_outline, power_norm


def _is_bald(head: Head) -> bool:
    return head.who.baldness > 0.92


def _hair_color(head: Head, x: Floats, y: Floats) -> Floats:
    """Color of the strands: stripes along the hair, bent into curls."""
    who = head.who
    curl = np.float32(2.0 + 9.0 * who.hair_curl)
    phase = np.float32(6.28 * who.texture)
    bend = curl * np.sin(y * np.float32(0.12 + 0.2 * who.hair_curl) + phase)
    strand = np.sin(x * np.float32(0.8) + bend + phase) * np.sin(x * np.float32(0.31) - y * np.float32(0.13) + phase)
    tone = np.float32(1.0) + np.float32(0.15) * strand
    return np.asarray(head.hair, np.float32) * tone[..., None] + np.float32(0.02) * strand[..., None]


def _hair_volume(head: Head) -> float:
    return max(head.who.hair_volume + head.how.hair_volume_change, 0.3)


def draw_back_hair(head: Head) -> None:
    """Hair behind neck and shoulders, if it is long."""
    who, how = head.who, head.how
    length = who.hair_length + how.hair_length_change
    if _is_bald(head) or length < 8.0:
        return
    x, y = head.plane(-16.0)
    distance = (
        np.maximum(power_norm(x * (1 / (who.face_width + 2.0 + 1.6 * _hair_volume(head))), y * (1 / 68.0), 3.0) - 1, 0)
        * 30
    )
    blend(head.image, head.soft(np.maximum(distance - 0.5, y - length), 1.5), 0.7 * _hair_color(head, x, y))


def draw_hair(head: Head) -> None:
    """Hair on the skull: inside the enlarged outline of the head, outside the opening for the face."""
    who, how = head.who, head.how
    if _is_bald(head):
        return
    volume, length = _hair_volume(head), who.hair_length + how.hair_length_change
    x, y = head.plane(0.0)
    outer = face_outline(who, x, y, grow=volume)
    # The opening lies at the depth of the forehead, so it moves with the face.
    u, v = head.x, head.y
    line = who.hairline + how.hairline_change
    tilt = who.hair_tilt + how.hair_tilt_change
    fringe = max(who.hair_fringe, 0.0)
    edge = v - tilt * u - fringe * np.sin(u * np.float32(who.fringe_waves) + np.float32(6.28 * who.texture))
    width = who.face_width - who.hair_inset
    opening = (power_norm(u * (1 / width), (edge - 14.0) * (1 / (14.0 - line)), who.hairline_power) - 1.0) * 30.0
    # The hair ends at its length; the side of the skull has a thin fade.
    distance = np.maximum(np.maximum(outer, -opening), v - length)
    head.hair_mask = head.soft(distance, 1.8)
    shadow = head.soft(distance - 1.5, 5.0) * head.face_mask
    blend(head.image, np.float32(0.35) * shadow, 0.5 * head.skin)
    blend(head.image, head.hair_mask, _hair_color(head, x, y))


def draw_brow(head: Head, side: float) -> None:
    """One eyebrow; ``side`` as in :func:`draw_eye`."""
    who, how = head.who, head.how
    center, height = who.eye_spacing + who.brow_shift, who.eye_height - who.brow_height - how.brow_raise
    patch = head.patch(side * center, height, who.brow_length + 6.0)
    u, v = patch.x * np.float32(side) - np.float32(center), patch.y - np.float32(height)
    along = u * (1 / who.brow_length)
    line = who.brow_slant * u + how.frown * u * -1.0 - who.brow_arch * (1.0 - np.square(along - 0.15))
    half = 0.5 * who.brow_thickness * (1.0 - 0.35 * along - 0.3 * np.square(along))
    distance = np.maximum(np.abs(v - line) - half, np.abs(u) - who.brow_length)
    hairs = 0.85 + 0.15 * np.sin(u * np.float32(2.6) + v * np.float32(1.7))
    color = 0.75 * ramp(HAIR, min(who.hair_tone, 0.75)) + 0.06 * head.skin
    blend(patch.image, np.float32(who.brow_strength) * hairs * head.soft(distance, 1.4), color)


def draw_beard(head: Head) -> None:
    """Beard, stubble and moustache."""
    who, how = head.who, head.how
    full, lip = max(who.beard, 0.0), max(who.moustache, 0.0)
    if how.shaved:
        full, lip = 0.25 * full, 0.25 * lip
    full = max(full, 0.45 * max(how.stubble, 0.0))
    if full <= 0.05 and lip <= 0.05:
        return
    x, y = head.x, head.y
    color = 0.8 * ramp(HAIR, who.hair_tone) + 0.08 * head.skin
    grain = np.float32(0.82) + np.float32(0.18) * np.sin(x * np.float32(2.1)) * np.sin(y * np.float32(1.9) + x)
    if full > 0.05:
        cheek_line = 0.5 * (who.nose_tip + who.mouth_height) + 8.0 - 0.016 * np.square(x)
        blend(head.image, np.float32(0.9 * full) * grain * head.face_mask * head.soft(cheek_line - y, 5.0), color)
    if lip > 0.05:
        middle = 0.5 * (who.nose_tip + 3.0 + who.mouth_height - who.upper_lip) + 0.5
        bar = np.maximum(np.abs(y - middle - 0.010 * np.square(x)) - 2.3, np.abs(x) - 0.95 * who.mouth_width)
        blend(head.image, np.float32(0.5 + 0.5 * lip) * grain * head.soft(bar, 2.0), color)
