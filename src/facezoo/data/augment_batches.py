"""Augmentation of whole batches in torch, on any device: one resampling, one matrix product for color."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facezoo.data.augment_images import LUMA, Pixels, draw_occluder, flipped_and_shifted, low_resolution, recompress
from facezoo.data.augment_plan import Plan
from facezoo.data.augment_policies import apply_policies
from facezoo.data.batch_geometry import on_device, sampled

_IMAGES_AT_ONCE = 32


def needs_the_host(plan: Plan) -> bool:
    """Whether some images of a plan get an operation that works image by image: a GPU would be waited for at each of them."""
    chosen = (
        plan.occluded is not None and plan.occluded[:, 0] >= 0,
        plan.low_resolution is not None and plan.low_resolution != 1,
        plan.jpeg is not None and plan.jpeg != 0,
    )
    return any(bool(np.any(one)) for one in chosen)


@dataclass(frozen=True)
class Normalization:
    """From 0 … 255 to the network's input: ``pixels * scale + shift``, in its order of channels.

    Attributes:
        scale: per channel in the network's order, float32 (3, 1, 1).
        shift: likewise.
        reverse: the network takes B, G, R.
    """

    scale: Tensor
    shift: Tensor
    reverse: bool = False


def augment_batch(images: Tensor, plan: Plan) -> Tensor:
    """Apply a plan to a whole batch, except for the erased rectangles.

    Inside the image the rounded result differs by at most 2 gray levels from torchvision's operations with the same parameters
    (torchvision truncates after each step).

    Args:
        images: uint8 (N, H, W, 3), RGB.
        plan: of N images.

    Returns:
        float32 (N, 3, H, W), contiguous, from 0 to 255, on the device of ``images``.
    """
    result = torch.empty(len(images), 3, *plan.size, device=images.device)
    _augment(images, plan, None, result)
    return result


def normalized_batch(images: Tensor, plan: Plan, normalization: Normalization, out: Tensor | None = None) -> Tensor:
    """Apply a plan to a whole batch, including the erased rectangles, and normalize.

    On the CPU a few images are processed at a time, so that intermediate results stay in the cache. The result of an image does
    not depend on its batch or on the number of threads.

    Args:
        images: uint8 (N, H, W, 3), RGB.
        plan: of N images.
        normalization: of the network.
        out: where the result goes; None makes a tensor.

    Returns:
        float32 (N, 3, H, W), contiguous, on the device of ``images``.
    """
    result = torch.empty(len(images), 3, *plan.size, device=images.device) if out is None else out
    step = _IMAGES_AT_ONCE if images.device.type == "cpu" else len(images)
    for start in range(0, len(images), step):
        chosen = slice(start, start + step)
        part = plan.part(chosen)
        _augment(images[chosen], part, normalization, result[chosen])
        erase(result[chosen], part)
    return result


def erase(batch: Tensor, plan: Plan) -> Tensor:
    """Set the rectangles of a plan to 0 in place. In normalized images (N, 3, H, W), 0 is the mean color."""
    if plan.erase is None:
        return batch
    if batch.device.type != "cpu":  # a few kernels for all images, not one for each
        return batch.masked_fill_(_inside(on_device(batch.device, plan.erase, torch.int64), plan.size), 0.0)
    for index in np.flatnonzero(plan.erase[:, 2]):
        top, left, bottom, right = plan.erase[index].tolist()
        batch[int(index), :, top:bottom, left:right] = 0
    return batch


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether a pixel lies in its image's box (top, left, bottom, right), bool (N, 1, H, W)."""
    top, left, bottom, right = boxes.view(-1, 4, 1).unbind(1)
    y, x = (torch.arange(side, device=boxes.device) for side in size)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _augment(images: Tensor, plan: Plan, normalization: Normalization | None, out: Tensor) -> None:
    """Everything except the erased rectangles, into ``out``."""
    fill: Sequence[int] = (0, 0, 0)
    images = _occluded(images, plan)
    if plan.sampled is None or (not plan.sampled.any() and images.device.type == "cpu"):
        batch = _unsampled(images, plan)
    else:
        # The fill is subtracted, so that sampling can pad with 0; the constant of the color step adds it back.
        fill = plan.fill
        row = on_device(images.device, fill * images.shape[2])
        centered = images.to(torch.float32).flatten(2).sub_(row).view_as(images)
        assert plan.matrix is not None
        batch = sampled(centered.permute(0, 3, 1, 2), plan.matrix, plan.size, plan.sampled)
    if plan.has_policy:
        batch = batch.add_(on_device(batch.device, fill).view(3, 1, 1)).round_().clamp_(0, 255)
        batch, fill = apply_policies(batch, plan), (0, 0, 0)
    more = plan.hue is not None or plan.low_resolution is not None or plan.blur is not None or plan.jpeg is not None
    if plan.has_color:
        last = None if more else normalization
        _color(batch, plan, fill, last, out)
        if last is not None:
            return
    else:
        for channel in range(3):
            torch.add(batch[:, channel], fill[channel], out=out[:, channel])
    if more:
        out.copy_(_changed(out, plan))
    if normalization is not None:
        if normalization.reverse:
            out.copy_(out.flip(1))
        out.mul_(on_device(out.device, normalization.scale)).add_(on_device(out.device, normalization.shift))


def _occluded(images: Tensor, plan: Plan) -> Tensor:
    """With what is drawn on some of the faces; a drawing is made on the CPU."""
    chosen = np.flatnonzero(plan.occluded[:, 0] >= 0) if plan.occluded is not None else np.array([], dtype=np.int64)
    if not len(chosen):
        return images
    images = images.clone()
    for index in chosen.tolist():
        images[index] = torch.from_numpy(draw_occluder(images[index].cpu().numpy(), plan, index)).to(images.device)
    return images


def _changed(batch: Tensor, plan: Plan) -> Tensor:
    """The operations after the color step."""
    if plan.hue is not None and plan.hue.any():
        batch = _hue(batch, on_device(batch.device, plan.hue))
    if plan.low_resolution is not None:
        batch = _one_by_one(batch, plan.low_resolution, 1, low_resolution)
    if plan.blur is not None and plan.blur.any():
        batch = _blurred(batch, plan.blur)
    if plan.jpeg is not None:
        batch = _one_by_one(batch, plan.jpeg, 0, recompress)
    return batch


def _unsampled(images: Tensor, plan: Plan) -> Tensor:
    """Flips and shifts by whole pixels without a grid, float (N, 3, H, W)."""
    if plan.matrix is None:
        return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    batch = torch.empty(len(images), 3, *plan.size)
    flipped_and_shifted(images.numpy(), plan.matrix, plan.fill, batch.permute(0, 2, 3, 1).numpy())
    return batch


def _color(batch: Tensor, plan: Plan, fill: Sequence[int], normalization: Normalization | None, out: Tensor) -> None:
    """Brightness, contrast, saturation, gray and (if given) the normalization, as one matrix product per image, into ``out``.

    With luma y the pixel x becomes ``b (c (s x + (1 - s) y) + (1 - c) mean(y))``. The fill was subtracted from ``batch``.
    """
    device = batch.device

    def values(given: object) -> Tensor:
        if given is None:
            return torch.ones(len(batch), 1, 1, device=device)
        return on_device(device, given).view(-1, 1, 1)

    bright, contrast, saturation = values(plan.brightness), values(plan.contrast), values(plan.saturation)
    if plan.gray is not None:
        saturation = saturation * (1 - values(plan.gray))
    luma, filled = on_device(device, LUMA), on_device(device, fill).view(3, 1)
    matrix = (torch.eye(3, device=device) * saturation + (1 - saturation) * luma) * (bright * contrast)
    mean = ((batch.mean(dim=(2, 3)) + filled.flatten()) * luma).sum(dim=1).view(-1, 1, 1)
    constant = (matrix * filled.flatten()).sum(dim=2, keepdim=True) + (1 - contrast) * bright * mean
    low, high = torch.zeros(3), torch.full((3,), 255.0)
    if normalization is not None:
        scale, shift = normalization.scale.view(3, 1), normalization.shift.view(3, 1)
        low, high = shift.flatten(), (255 * scale + shift).flatten()
        if normalization.reverse:
            matrix, constant = matrix.flip(1), constant.flip(1)
        factor = on_device(device, scale)
        matrix, constant = matrix * factor, constant * factor + on_device(device, shift)
    torch.baddbmm(constant, matrix, batch.flatten(2), out=out.view(len(out), 3, -1))
    if bool((low == low[0]).all() and (high == high[0]).all()):  # one call with numbers as limits is faster
        out.clamp_(float(low[0]), float(high[0]))
        return
    for channel in range(3):
        out[:, channel].clamp_(float(low[channel]), float(high[channel]))


def _hue(batch: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue: to HSV and back, without rounding."""
    high, which = batch.max(dim=1)
    low = batch.amin(dim=1)
    chroma = high - low
    red, green, blue = (batch / 255).unbind(1)
    span = (chroma / 255).clamp_min(1e-12)
    sixth = torch.where(
        which == 0, (green - blue) / span, torch.where(which == 1, 2 + (blue - red) / span, 4 + (red - green) / span)
    )
    hue = (sixth / 6 + shift.view(-1, 1, 1)).remainder(1.0) * 6
    # value - chroma * max(0, min(k, 4 - k, 1)), with k = (n + hue) mod 6 for n = 5, 3, 1
    k = (on_device(batch.device, [5.0, 3.0, 1.0]).view(1, 3, 1, 1) + hue.unsqueeze(1)).remainder(6.0)
    turned = high.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)
    return torch.where((shift != 0).view(-1, 1, 1, 1), turned, batch)


def _blurred(batch: Tensor, sigmas: np.ndarray) -> Tensor:
    chosen = on_device(batch.device, np.flatnonzero(sigmas), torch.int64)
    sigma = on_device(batch.device, sigmas[sigmas > 0])
    steps = torch.arange(-4, 5, device=batch.device, dtype=torch.float32)
    kernel = torch.softmax(-(steps**2) / (2 * sigma.unsqueeze(1) ** 2), dim=1).repeat_interleave(3, dim=0)
    part = F.pad(batch[chosen], (4, 4, 4, 4), mode="reflect").flatten(0, 1).unsqueeze(0)
    part = F.conv2d(part, kernel.view(-1, 1, 1, 9), groups=len(kernel))
    part = F.conv2d(part, kernel.view(-1, 1, 9, 1), groups=len(kernel))
    result = batch.clone()
    result[chosen] = part.view(len(chosen), *batch.shape[1:])
    return result


def _one_by_one(batch: Tensor, values: np.ndarray, nothing: float, change: Callable[[Pixels, Any], Pixels]) -> Tensor:
    """Low resolution and JPEG, image by image: their sizes differ, and few images have them."""
    batch = batch.clone()
    for index in np.flatnonzero(values != nothing):
        pixels = batch[int(index)].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        changed = torch.from_numpy(np.array(change(pixels, values[index].item())))
        batch[int(index)] = changed.permute(2, 0, 1).to(batch)
    return batch
