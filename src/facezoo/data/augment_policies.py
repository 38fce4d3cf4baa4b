"""RandAugment and TrivialAugment on whole batches: each operation is done once, for all images that drew it.

Pixels are whole numbers from 0 to 255 in float32. The operations are Pillow's, which torchvision has too: those on colors and gray
values give the same numbers as :func:`facezoo.data.augment_images.augment_image`; shears and rotations differ by rounding, and at
the border, where the libraries mix in the fill differently.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facezoo.data.augment_images import RAND, TRIVIAL, Space
from facezoo.data.augment_plan import Floats, Plan
from facezoo.data.batch_geometry import constant_on, on_device, sampled

_LUMA = (19595, 38470, 7471)  # of 65,536: Pillow's gray value in whole numbers


def apply_policies(batch: Tensor, plan: Plan) -> Tensor:
    """RandAugment's operations one after the other, then TrivialAugment's.

    Args:
        batch: float32 (N, 3, H, W), whole numbers from 0 to 255.
        plan: of N images.

    Returns:
        Such a batch; ``batch`` itself may be changed.
    """
    rounds = [] if plan.rand_augment is None else [(drawn, RAND) for drawn in plan.rand_augment.transpose(1, 0, 2)]
    if plan.trivial_augment is not None:
        rounds.append((plan.trivial_augment, TRIVIAL))
    for drawn, space in rounds:
        for operation in np.unique(drawn[:, 0]).astype(int).tolist():
            if operation == 0:
                continue
            rows = np.flatnonzero(drawn[:, 0] == operation)
            where = on_device(batch.device, rows, torch.int64)
            batch[where] = _changed(batch[where], operation, drawn[rows, 1], plan, space)
    return batch


def _changed(images: Tensor, operation: int, strength: Floats, plan: Plan, space: Space) -> Tensor:
    """One of the operations; ``strength`` (N,) from -1 to 1 is that share of the largest."""
    if operation <= 5:
        return _moved(images, operation, strength, plan, space)
    if operation <= 9:
        amount = on_device(images.device, 1 + space.color * strength).view(-1, 1, 1, 1)
        plain = _PLAIN[operation](images)
        return (plain + amount * (images - plain)).clamp_(0, 255).floor_()
    size = np.abs(strength)
    if operation == 10:
        step = on_device(images.device, 2.0 ** np.rint(space.bits * size)).view(-1, 1, 1, 1)
        return (images / step).floor_().mul_(step)
    if operation == 11:
        limit = on_device(images.device, 255 * (1 - size), torch.float64).view(-1, 1, 1, 1)
        return torch.where(images < limit, images, 255 - images)
    return _stretched(images) if operation == 12 else _equalized(images)


def _moved(images: Tensor, operation: int, strength: Floats, plan: Plan, space: Space) -> Tensor:
    """Shears, shifts and the rotation."""
    height, width = images.shape[2:]
    maps = np.tile(np.eye(3), (len(strength), 1, 1))  # between corners of pixels, as Pillow counts
    if operation in (1, 2):
        maps[:, operation - 1, 2 - operation] = space.shear * strength
    elif operation in (3, 4):
        side = width if operation == 3 else height
        maps[:, operation - 3, 2] = -np.trunc(space.shift(side) * strength)
    else:
        angle = -np.deg2rad(space.degrees * strength)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
        center = np.array([width / 2, height / 2])
        maps[:, :2, :2], maps[:, :2, 2] = turn, center - turn @ center
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    maps = (np.eye(3) - half) @ maps @ (np.eye(3) + half)
    fill = constant_on(images.device, tuple(plan.fill)).view(3, 1, 1)
    return sampled(images - fill, maps, plan.size).add_(fill).round_().clamp_(0, 255)


def _gray(images: Tensor) -> Tensor:
    """Pillow's gray value, (N, 1, H, W)."""
    red, green, blue = (
        images[:, channel : channel + 1].to(torch.int32) * weight for channel, weight in enumerate(_LUMA)
    )
    return (red + green + blue + 0x8000).bitwise_right_shift(16).to(images.dtype)


def _black(images: Tensor) -> Tensor:
    return torch.zeros((), device=images.device)


def _mean_gray(images: Tensor) -> Tensor:
    return (_gray(images).double().mean(dim=(2, 3), keepdim=True) + 0.5).floor().to(images.dtype)


def _smooth(images: Tensor) -> Tensor:
    """Each pixel mixed with its neighbors; those at the edge stay."""
    kernel = torch.ones(3, 1, 3, 3, device=images.device)
    kernel[:, :, 1, 1] = 5
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = (F.conv2d(images, kernel, groups=3) / 13).add_(0.5).floor_().clamp_(0, 255)
    return result


# What an image is mixed with, or moved away from: brightness, saturation, contrast, sharpness.
_PLAIN: dict[int, Callable[[Tensor], Tensor]] = {6: _black, 7: _gray, 8: _mean_gray, 9: _smooth}


def _stretched(images: Tensor) -> Tensor:
    """Each channel from its smallest and largest value to 0 and 255."""
    low, high = (images.double().flatten(2).aminmax(dim=2, keepdim=True)[index].unsqueeze(3) for index in (0, 1))
    scale = torch.full_like(high, 255) / (high - low).clamp_min(
        1
    )  # torch multiplies by 1 / x where 255 is a plain number
    changed = (images * scale - low * scale).clamp(0, 255).floor()
    return torch.where(high > low, changed, images.double()).to(images.dtype)


def _equalized(images: Tensor) -> Tensor:
    """Each channel by the table that makes its values equally frequent."""
    values = images.flatten(2).flatten(0, 1).to(torch.int64)  # (N * 3, pixels)
    counts = torch.zeros(len(values), 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(1, values, torch.ones_like(values))
    below = counts.cumsum(1) - counts
    largest = values.amax(dim=1, keepdim=True)
    step = (values.shape[1] - counts.gather(1, largest)) // 255
    table = (below + step // 2) // step.clamp_min(1)
    changed = table.clamp_max(255).gather(1, values)
    return torch.where(step > 0, changed, values).view(images.shape).to(images.dtype)
