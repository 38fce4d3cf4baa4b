"""Occlusions of the face: glasses, scarf, hat, or an object in front of it."""

from __future__ import annotations

import math

import numpy as np

from facezoo.synthetic.color import SKIN, Floats, blend, cloth, ramp
from facezoo.synthetic.head import Head, pixel_grid, power_norm, skull_depth


def draw_occlusion(head: Head) -> None:
    """Draw the occlusion given by the conditions."""
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
        blend(head.image, np.float32(0.35) * head.soft(np.maximum(edge - 5.0, reach), 7.0), np.zeros(3))
        _draw_cloth(head, head.soft(np.maximum(edge, reach)), x, y)
    if how.block:
        _draw_block(head)


def _draw_cloth(head: Head, alpha: Floats, x: Floats, y: Floats) -> None:
    rng = head.rng
    color, angle, waves, strength = cloth(rng), 3.14 * rng.random(), 0.2 + 1.5 * rng.random(), 0.3 * rng.random()
    stripes = 1.0 + np.float32(strength) * np.sin((x * math.cos(angle) + y * math.sin(angle)) * np.float32(waves))
    blend(head.image, alpha, np.asarray(color, np.float32) * stripes[..., None])


def _draw_glasses(head: Head) -> None:
    who, how, rng = head.who, head.how, head.rng
    x, y = head.plane(skull_depth(0.0, who.eye_height) + 4.0)
    rim = cloth(rng) * 0.6
    u, v = np.abs(x) - np.float32(who.eye_spacing + 0.5), y - np.float32(who.eye_height + 1.5)
    lens = power_norm(u * (1 / how.glasses_width), v * (1 / how.glasses_height), how.glasses_power) - 1.0
    distance = lens * min(how.glasses_width, how.glasses_height)
    if how.glasses_tint > 0.0:
        blend(head.image, np.float32(how.glasses_tint) * head.soft(distance), 0.3 * cloth(rng))
    else:
        glare = head.soft(np.abs(u + v - (16.0 * rng.random() - 8.0)) - 2.5, 3.0)
        blend(head.image, np.float32(0.25 * rng.random()) * head.soft(distance) * glare, np.ones(3))
    blend(head.image, head.soft(np.abs(distance) - 0.5 * how.glasses_rim), rim)
    bridge = np.maximum(
        np.abs(v + 2.5 - 0.06 * np.square(x)) - 0.5 * how.glasses_rim, np.abs(x) - (who.eye_spacing - how.glasses_width)
    )
    temple = np.maximum(np.abs(v + 2.0) - 0.5 * how.glasses_rim, who.eye_spacing + how.glasses_width - np.abs(x))
    temple = np.maximum(temple, np.abs(x) - who.face_width)
    blend(head.image, head.soft(np.minimum(bridge, temple)), rim)


def _draw_block(head: Head) -> None:
    """An object in front of the face: a rounded shape that reaches in from a side, skin-colored or of any color."""
    how, rng = head.how, head.rng
    column, row = pixel_grid(head.size)
    turn = 6.28 * rng.random()
    dx = column - np.float32(56.0 + how.block_distance * math.cos(how.block_angle))
    dy = row - np.float32(64.0 + how.block_distance * math.sin(how.block_angle))
    u = (math.cos(turn) * dx + math.sin(turn) * dy) * (1 / how.block_width)
    v = (math.cos(turn) * dy - math.sin(turn) * dx) * (1 / how.block_height)
    distance = (power_norm(u, v, how.block_power) - 1.0) * min(how.block_width, how.block_height)
    skin = ramp(SKIN, rng.random())  # the hand of any person: its tone is independent of the face
    color = skin * (0.6 + 0.4 * rng.random()) if rng.random() < 0.4 else cloth(rng)
    blend(head.image, np.float32(0.3) * head.soft(distance - 2.0, 6.0), np.zeros(3))
    shade = (1.0 - 0.15 * np.clip(u + v, -1.0, 1.0))[..., None]
    blend(head.image, head.soft(distance), np.asarray(color, np.float32) * shade)
