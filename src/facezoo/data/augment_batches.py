"""Augmentation of whole batches in torch, on any device: one resampling, one matrix product for color."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facezoo.data.augment_images import (
    draw_occluder,
    fastest,
    flipped_and_shifted,
    low_resolution,
    recompress,
    split_channels,
)
from facezoo.data.augment_plan import LUMA, Plan
from facezoo.data.augment_policies import apply_policies
from facezoo.data.batch_geometry import constant_on, on_device, sampled
from facezoo.data.image import Pixels

_IMAGES_AT_ONCE = 16
_KEPT = threading.local()


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

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Scale and shift on a device."""
        scale, shift = (constant_on(device, tuple(one.flatten().tolist())) for one in (self.scale, self.shift))
        return scale.view(3, 1, 1), shift.view(3, 1, 1)

    def apply(self, batch: Tensor, out: Tensor) -> None:
        """Write a batch (N, 3, H, W), R, G, B, normalized into ``out``, which may be the same; ``batch`` itself may be changed."""
        batch = batch.flip(1) if self.reverse else batch
        scale, shift = self.on(batch.device)
        torch.add(batch.mul_(scale), shift, out=out)


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


def normalized_batch(
    images: Tensor | Sequence[Pixels], plan: Plan, normalization: Normalization, out: Tensor | None = None
) -> Tensor:
    """Apply a plan to a whole batch, including the erased rectangles, and normalize.

    On the CPU a few images are changed at a time, so that intermediate results stay in the cache. The result of an image does
    not depend on its batch or on the number of threads.

    Args:
        images: uint8 (N, H, W, 3), RGB; or N arrays (H, W, 3), which are read where they lie, for a result on the CPU.
        plan: of N images.
        normalization: of the network.
        out: where the result goes; None makes a tensor.

    Returns:
        float32 (N, 3, H, W), contiguous, on the device of ``images``.
    """
    if out is None:
        device = images.device if isinstance(images, Tensor) else None
        out = torch.empty(len(images), 3, *plan.size, device=device)
    _augment(images, plan, normalization, out)
    return out


def erase(batch: Tensor, plan: Plan) -> Tensor:
    """Set the rectangles of a plan to 0 in place. In normalized images, float32 (N, 3, H, W), 0 is the mean color."""
    if plan.erase is None:
        return batch
    if batch.device.type != "cpu":  # a few kernels for all images, not one for each
        return batch.masked_fill_(_inside(on_device(batch.device, plan.erase, torch.int64), plan.size), 0.0)
    images = batch.numpy()  # a slice of an array takes a fifth of the time of a tensor's
    for index in np.flatnonzero(plan.erase[:, 2]).tolist():
        top, left, bottom, right = plan.erase[index].tolist()
        images[index, :, top:bottom, left:right] = 0
    return batch


def _inside(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Whether a pixel lies in its image's box (top, left, bottom, right), bool (N, 1, H, W)."""
    top, left, bottom, right = boxes.view(-1, 4, 1).unbind(1)
    y, x = (torch.arange(side, device=boxes.device) for side in size)
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
    return (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _augment(images: Tensor | Sequence[Pixels], plan: Plan, normalization: Normalization | None, out: Tensor) -> None:
    """Everything, into ``out``; the erased rectangles only with a normalization."""
    on_cpu = out.device.type == "cpu"
    images = _occluded(images, plan)
    # Not whether one of these images is interpolated: the result of the others must not depend on that.
    interpolated = plan.matrix is not None and (not on_cpu or plan.sampled is not None)
    if plan.matrix is not None and not interpolated:
        images = _shifted(images, plan)
    # Sampling pads with 0, so the fill is subtracted before it and added by what comes after it.
    fill = tuple(plan.fill) if interpolated else (0, 0, 0)
    without_fill = (0, 0, 0) if plan.has_policy else fill
    fused = normalization if plan.color_is_last else None
    step = _IMAGES_AT_ONCE if on_cpu else max(1, len(images))
    results = out.split(step)
    colors = _Colors.of(plan, out.device, without_fill, fused).parts(step) if plan.has_color else None
    for number, start in enumerate(range(0, len(images), step)):
        rows = slice(start, start + step)
        part, pixels, result = plan.part(rows), images[rows], results[number]
        if not isinstance(pixels, Tensor):
            pixels = torch.from_numpy(np.stack(pixels))
        batch = _sampled(pixels, part) if interpolated else _floats(_channels_apart(pixels))
        if plan.has_policy:
            batch = batch.add_(constant_on(batch.device, fill).view(3, 1, 1)).round_().clamp_(0, 255)
            batch = apply_policies(batch, part)
        if colors is not None:
            colors[number].apply(batch, result)
        else:
            if any(without_fill):
                batch.add_(constant_on(batch.device, without_fill).view(3, 1, 1))
            if fused is not None:
                fused.apply(batch, result)
            else:
                result.copy_(batch)
        if not plan.color_is_last:
            result.copy_(_changed(result, part))
            if normalization is not None:
                normalization.apply(result, result)
    if normalization is not None:
        erase(out, plan)


def _occluded(images: Tensor | Sequence[Pixels], plan: Plan) -> Tensor | Sequence[Pixels]:
    """With what is drawn on some of the faces; a drawing is made on the CPU."""
    chosen = np.flatnonzero(plan.occluded[:, 0] >= 0).tolist() if plan.occluded is not None else []
    if not chosen:
        return images
    if isinstance(images, Tensor):
        images = images.clone()
        for index in chosen:
            images[index] = torch.from_numpy(draw_occluder(images[index].cpu().numpy(), plan, index)).to(images.device)
        return images
    changed = list(images)
    for index in chosen:
        changed[index] = draw_occluder(images[index], plan, index)
    return changed


def _shifted(images: Tensor | Sequence[Pixels], plan: Plan) -> Tensor:
    """Flips and shifts by whole pixels without a grid, uint8 (N, H, W, 3), on the CPU."""
    assert plan.matrix is not None
    result = _scratch("shifted", (len(images), *plan.size, 3), torch.uint8)
    sources = list(images.numpy()) if isinstance(images, Tensor) else images
    flipped_and_shifted(sources, plan.matrix, plan.fill, result.numpy())
    return result


def _sampled(images: Tensor, plan: Plan) -> Tensor:
    """Sampled by the matrices of a plan, float32 (N, 3, H, W), less its fill."""
    assert plan.matrix is not None
    interpolated = np.zeros(len(images), dtype=np.bool_) if plan.sampled is None else plan.sampled
    fill = constant_on(images.device, tuple(plan.fill) * images.shape[2])
    centered = _floats(images).flatten(2).sub_(fill).view(images.shape)
    return sampled(centered.permute(0, 3, 1, 2), plan.matrix, plan.size, interpolated, plan.inside)


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


def _channels_apart(images: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) as (N, 3, H, W), for :func:`_floats`.

    On the CPU with OpenCV in memory that the next call of this thread uses again, each channel by itself: to split and convert
    them to floats takes a third of the time.
    """
    if images.device.type != "cpu" or fastest() != "cv2":
        return images.permute(0, 3, 1, 2)
    count, height, width, channels = images.shape
    # A row more than needed: with planes a multiple of 4096 bytes apart, this takes three times as long.
    memory = _scratch("channels", (channels, count * height + 1, width), torch.uint8).numpy()[:, :-1]
    split_channels(images.numpy().reshape(count * height, width, channels), memory)
    return torch.from_numpy(memory.reshape(channels, count, height, width).swapaxes(0, 1))


def _floats(images: Tensor) -> Tensor:
    """As float32. On the CPU in memory that the next call of this thread uses again, and contiguous, also if ``images`` are not.

    On a CPU a matrix product takes a third of the time if each channel of an image lies by itself.
    """
    if images.device.type != "cpu":
        return images.to(torch.float32)
    return _scratch("floats", images.shape, torch.float32).copy_(images)


def _scratch(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Memory of this thread, used again while the shape stays the same. Fresh memory costs several times the operations on it."""
    kept: Tensor | None = getattr(_KEPT, name, None)
    if kept is None or kept.shape != shape:
        with torch.inference_mode(False):  # a later batch may not be in it
            kept = torch.empty(shape, dtype=dtype)
        setattr(_KEPT, name, kept)
    return kept


@dataclass(frozen=True)
class _Colors:
    """Brightness, contrast, saturation, gray and (if given) the normalization, as one matrix product per image.

    A pixel becomes ``matrix @ pixel + of_means @ mean + constant``, where ``mean`` is that of its image: contrast needs it.

    Attributes:
        matrix: (N, 3, 3).
        of_means: (N, 3, 3).
        constant: (N, 3, 1).
        low, high: limits of the result, per channel.
    """

    matrix: Tensor
    of_means: Tensor
    constant: Tensor
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def of(
        cls, plan: Plan, device: torch.device, fill: tuple[int, ...], normalization: Normalization | None
    ) -> _Colors:
        """The colors of a plan, for pixels from which ``fill`` was subtracted."""
        matrix, slope = plan.colors()
        numbers = np.empty((len(matrix), 3, 7))
        numbers[:, :, :3] = matrix
        numbers[:, :, 3:6] = slope[:, None, None] * LUMA
        numbers[:, :, 6] = numbers[:, :, :3] @ fill + numbers[:, :, 3:6] @ fill
        low, high = np.zeros(3), np.full(3, 255.0)
        if normalization is not None:
            scale, low = normalization.scale.flatten().numpy(), normalization.shift.flatten().numpy()
            high = 255 * scale + low
            numbers = (numbers[:, ::-1] if normalization.reverse else numbers) * scale[:, None]
            numbers[:, :, 6] += low
        colors, of_means, constant = on_device(device, numbers).split((3, 3, 1), dim=2)
        return cls(colors, of_means, constant, tuple(low.tolist()), tuple(high.tolist()))

    def parts(self, count: int) -> list[_Colors]:
        """The colors of ``count`` images at a time, in order; of fewer at the end."""
        parts = (numbers.split(count) for numbers in (self.matrix, self.of_means, self.constant))
        return [_Colors(a, b, c, self.low, self.high) for a, b, c in zip(*parts, strict=True)]

    def apply(self, batch: Tensor, out: Tensor) -> None:
        """Write the changed ``batch`` (N, 3, H, W) into ``out``."""
        pixels, result = batch.flatten(2), out.view(len(out), 3, -1)
        means = pixels.mean(dim=2, keepdim=True)
        constant = torch.empty_like(self.constant)  # given as out, so that autocast does not round it
        torch.baddbmm(self.constant, self.of_means, means, out=constant)
        # On a CPU the product is in the cache, so that the memory of the result is passed through once.
        product = _scratch("product", result.shape, result.dtype) if result.device.type == "cpu" else result
        torch.baddbmm(constant, self.matrix, pixels, out=product)
        if len({*self.low}) == len({*self.high}) == 1:  # one call with numbers as limits is faster
            torch.clamp(product, self.low[0], self.high[0], out=result)
            return
        for channel in range(3):
            torch.clamp(product[:, channel], self.low[channel], self.high[channel], out=result[:, channel])


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
    k = (constant_on(batch.device, (5.0, 3.0, 1.0)).view(1, 3, 1, 1) + hue.unsqueeze(1)).remainder(6.0)
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
