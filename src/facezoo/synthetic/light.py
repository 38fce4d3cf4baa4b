"""Light on the relief of the face."""

from __future__ import annotations

import math

import numpy as np

from facezoo.synthetic.color import Floats
from facezoo.synthetic.head import Head, skull_depth


def _bump(x: Floats, y: Floats, center: tuple[float, float], width: tuple[float, float]) -> Floats:
    u, v = (x - np.float32(center[0])) * (1 / width[0]), (y - np.float32(center[1])) * (1 / width[1])
    return np.exp(-(u * u + v * v))


def _relief(head: Head) -> Floats:
    """Depth of the lit surface towards the camera, template pixels: the skull and its protruding parts."""
    who = head.who
    x, y = head.x, head.y
    depth = head.relief.copy()
    plane = skull_depth(0.0, who.nose_tip) + 0.55 * who.nose_depth
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


def shade(head: Head) -> None:
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
