"""Augmentation of whole batches in torch, on any device: one sampling, one color product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facezoo.data.augment import Plan
from facezoo.data.augment_images import LUMA, Pixels, low_resolution, recompress


def runs_on_batches(plan: Plan) -> bool:
    """Whether :func:`augment_batch` knows all operations of a plan: RandAugment is done image by image."""
    return plan.rand_augment is None


def augment_batch(images: Tensor, plan: Plan) -> Tensor:
    """Carry out a plan on its whole batch, all but the erased rectangles.

    Against torchvision's operations with the same parameters the result, rounded, differs by at most 2 gray levels inside the image
    (torchvision's cut fractions off).

    Args:
        images: uint8 (N, H, W, 3), RGB.
        plan: of N images.

    Returns:
        float32 (N, 3, H, W), contiguous, from 0 to 255, on the device of ``images``.

    Raises:
        ValueError: the plan has RandAugment.
    """
    if not runs_on_batches(plan):
        raise ValueError("RandAugment has no batched form; augment_image does it image by image")
    batch = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    if plan.matrix is not None:
        batch = _sampled(batch, plan)
    batch = _colored(batch, plan)
    if plan.hue is not None and plan.hue.any():
        batch = _hue(batch, torch.tensor(plan.hue, dtype=torch.float32, device=batch.device))
    if plan.low_resolution is not None:
        batch = _one_by_one(batch, plan.low_resolution, 1, low_resolution)
    if plan.blur is not None and plan.blur.any():
        batch = _blurred(batch, plan.blur)
    if plan.jpeg is not None:
        batch = _one_by_one(batch, plan.jpeg, 0, recompress)
    return batch


def erase(batch: Tensor, plan: Plan) -> Tensor:
    """Set the rectangles of a plan to 0, in place: the mean color of normalized images (N, 3, H, W)."""
    if plan.erase is not None:
        for index in np.flatnonzero(plan.erase[:, 2]):
            top, left, bottom, right = plan.erase[index].tolist()
            batch[int(index), :, top:bottom, left:right] = 0
    return batch


def _sampled(batch: Tensor, plan: Plan) -> Tensor:
    """Bilinear, the fill all round. Where nothing is interpolated the weights are 0 and 1 up to rounding."""
    height, width = plan.size
    device = batch.device
    y, x = torch.meshgrid(
        torch.arange(height, device=device, dtype=torch.float32),
        torch.arange(width, device=device, dtype=torch.float32),
        indexing="ij",
    )
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).reshape(-1, 3)
    matrix = torch.tensor(plan.matrix, dtype=torch.float32, device=device)
    source = points @ matrix.transpose(1, 2)
    source = source[..., :2] / source[..., 2:]
    scale = torch.tensor([2 / width, 2 / height], device=device)
    grid = ((source + 0.5) * scale - 1).view(len(batch), height, width, 2)
    fill = torch.tensor(plan.fill, dtype=torch.float32, device=device).view(1, 3, 1, 1)
    return F.grid_sample(batch - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + fill


def _colored(batch: Tensor, plan: Plan) -> Tensor:
    def values(given: object) -> Tensor:
        if given is None:
            return torch.ones(len(batch), device=batch.device)
        return torch.as_tensor(np.asarray(given, dtype=np.float32), device=batch.device)

    if plan.brightness is None and plan.contrast is None and plan.saturation is None and plan.gray is None:
        return batch
    bright, contrast, saturation = values(plan.brightness), values(plan.contrast), values(plan.saturation)
    if plan.gray is not None:
        saturation = saturation * (1 - values(plan.gray))
    luma = torch.tensor(LUMA, dtype=torch.float32, device=batch.device)
    mixed = torch.eye(3, device=batch.device) * saturation.view(-1, 1, 1) + (1 - saturation).view(-1, 1, 1) * luma
    offset = (1 - contrast) * bright * (batch.mean(dim=(2, 3)) @ luma)
    product = torch.baddbmm(offset.view(-1, 1, 1), mixed * (bright * contrast).view(-1, 1, 1), batch.flatten(2))
    return product.view_as(batch).clamp_(0, 255)


def _hue(batch: Tensor, shift: Tensor) -> Tensor:
    """Turn the color circle: through HSV and back, without rounding."""
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
    k = (torch.tensor([5.0, 3.0, 1.0], device=batch.device).view(1, 3, 1, 1) + hue.unsqueeze(1)).remainder(6.0)
    turned = high.unsqueeze(1) - chroma.unsqueeze(1) * torch.minimum(k, 4 - k).clamp(0, 1)
    return torch.where((shift != 0).view(-1, 1, 1, 1), turned, batch)


def _blurred(batch: Tensor, sigmas: np.ndarray) -> Tensor:
    chosen = torch.as_tensor(np.flatnonzero(sigmas), device=batch.device)
    sigma = torch.as_tensor(sigmas[sigmas > 0], dtype=torch.float32, device=batch.device)
    steps = torch.arange(-4, 5, device=batch.device, dtype=torch.float32)
    kernel = torch.softmax(-(steps**2) / (2 * sigma.unsqueeze(1) ** 2), dim=1).repeat_interleave(3, dim=0)
    part = F.pad(batch[chosen], (4, 4, 4, 4), mode="reflect").flatten(0, 1).unsqueeze(0)
    part = F.conv2d(part, kernel.view(-1, 1, 1, 9), groups=len(kernel))
    part = F.conv2d(part, kernel.view(-1, 1, 9, 1), groups=len(kernel))
    result = batch.clone()
    result[chosen] = part.view(len(chosen), *batch.shape[1:])
    return result


def _one_by_one(batch: Tensor, values: np.ndarray, nothing: float, change: Callable[[Pixels, Any], Pixels]) -> Tensor:
    """Low resolution and JPEG: sizes and files differ from image to image, and few images have them."""
    batch = batch.clone()
    for index in np.flatnonzero(values != nothing):
        pixels = batch[int(index)].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        changed = torch.from_numpy(np.array(change(pixels, values[index].item())))
        batch[int(index)] = changed.permute(2, 0, 1).to(batch)
    return batch
