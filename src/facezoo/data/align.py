"""Alignment of faces: five points, a closed-form similarity transform, and one warp.

The transform is the least-squares solution of Umeyama (1991). In two dimensions, with points as complex numbers, it is one
division.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

ARCFACE_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""ArcFace's template (1801.07698): both eyes, nose, both corners of the mouth; x and y in pixels of a 112×112 crop.

Left and right are those of the image. (0, 0) is the center of the first pixel.
"""

TEMPLATES = MappingProxyType({"arcface": ARCFACE_POINTS})


def template_points(size: int | tuple[int, int] = 112, template: str = "arcface") -> Tensor:
    """The five points of a template for crops of ``size`` (a side, or height and width), float64 (5, 2), x and y.

    112×96 is the middle part of 112×112, as in SphereFace and MobileFaceNet. Other sizes are scaled so that the longer side fits.

    Raises:
        ValueError: an unknown template.
    """
    if template not in TEMPLATES:
        raise ValueError(f"unknown template {template!r}; known: {', '.join(TEMPLATES)}")
    height, width = (size, size) if isinstance(size, int) else size
    scale = max(height, width) / 112
    points = torch.tensor(TEMPLATES[template], dtype=torch.float64)
    # pixel centers: the corner of the image is at -0.5
    points = (points + 0.5) * scale - 0.5
    return points - torch.tensor([(112 * scale - width) / 2, (112 * scale - height) / 2], dtype=torch.float64)


def similarity_transform(source: Tensor, target: Tensor) -> Tensor:
    """The rotation, scale and translation that map ``source`` to ``target`` with the least squared error; no reflections.

    Args:
        source: (N, K, 2) points, x and y, with K >= 2.
        target: (K, 2) or (N, K, 2).

    Returns:
        float64 (N, 2, 3): ``matrix @ (x, y, 1)`` maps source to target.

    Raises:
        ValueError: shapes that do not match, NaN or infinite points, or a face whose points are all the same.
    """
    if source.ndim != 3 or source.shape[-1] != 2 or source.shape[1] < 2:
        raise ValueError(f"landmarks: expected (N, K, 2) with at least 2 points, got {tuple(source.shape)}")
    if target.shape not in (source.shape, source.shape[1:]):
        raise ValueError(f"target: expected {tuple(source.shape[1:])} points, got {tuple(target.shape)}")
    source, target = source.to(torch.float64), target.to(torch.float64).expand(source.shape)
    if not (torch.isfinite(source).all() and torch.isfinite(target).all()):
        raise ValueError("landmarks: a coordinate is NaN or infinite")
    middle, goal = source.mean(dim=1, keepdim=True), target.mean(dim=1, keepdim=True)
    a, b = (
        torch.view_as_complex((points - center).contiguous()) for points, center in ((source, middle), (target, goal))
    )
    spread = (a.real**2 + a.imag**2).sum(dim=1)
    if bool((spread <= 1e-12).any()):
        index = int((spread <= 1e-12).nonzero()[0])
        raise ValueError(f"landmarks: all points of face {index} lie in one place")
    turn = (a.conj() * b).sum(dim=1) / spread
    linear = torch.stack([torch.stack([turn.real, -turn.imag], -1), torch.stack([turn.imag, turn.real], -1)], -2)
    shift = goal.transpose(1, 2) - linear @ middle.transpose(1, 2)
    return torch.cat([linear, shift], dim=2)


def align_faces(
    images: Tensor | Sequence[Tensor],
    landmarks: Tensor,
    *,
    size: int | tuple[int, int] = 112,
    template: str = "arcface",
    antialias: bool = True,
) -> Tensor:
    """Cut aligned faces out of images, on the images' device.

    Args:
        images: uint8 or float (N, C, H, W), or N images (C, H, W) of any sizes; one face per image.
        landmarks: (N, 5, 2): both eyes, nose, both corners of the mouth, left before right as in the image; x and y in pixels,
            with (0, 0) at the center of the first pixel.
        size: of the crops in pixels: one side, or height and width.
        template: name of the template that the points are moved to.
        antialias: where a face is more than twice as large as its crop, first average over blocks of pixels.

    Returns:
        (N, C, height, width), in the images' dtype. Pixels outside an image are 0.

    Raises:
        ValueError: see :func:`similarity_transform`; or the numbers of images and faces differ.
    """
    if len(images) != len(landmarks):
        raise ValueError(f"expected one face per image, got {len(images)} images and {len(landmarks)} faces")
    height, width = (size, size) if isinstance(size, int) else size
    forward = similarity_transform(landmarks.detach().cpu(), template_points(size, template))
    if not len(images):
        raise ValueError("expected at least one image")
    crops = [_warp(image, matrix, height, width, antialias) for image, matrix in zip(images, forward, strict=True)]
    return torch.stack(crops)


def _warp(image: Tensor, forward: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """One crop, bilinear. ``forward`` maps pixels of the image to those of the crop."""
    if image.ndim != 3:
        raise ValueError(f"expected images (C, H, W), got {tuple(image.shape)}")
    full = torch.cat([forward, forward.new_tensor([[0.0, 0.0, 1.0]])])
    pixels = image.to(torch.float32).unsqueeze(0)
    shrink = int(1 / float(torch.linalg.det(forward[:, :2]).sqrt())) if antialias else 1
    shrink = max(1, min(shrink, *image.shape[1:]))
    if shrink > 1:
        pixels = F.avg_pool2d(pixels, shrink, ceil_mode=True, count_include_pad=False)
        # pixel k of the small image is the middle of pixels k·s to k·s + s - 1
        full = full @ full.new_tensor([[shrink, 0, (shrink - 1) / 2], [0, shrink, (shrink - 1) / 2], [0, 0, 1]])
    backward = torch.linalg.inv(full)[:2].to(torch.float32).to(image.device)
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device), torch.arange(width, device=image.device), indexing="ij"
    )
    # written out: autocast would round the factors of a matrix product
    source = x[..., None] * backward[:, 0] + y[..., None] * backward[:, 1] + backward[:, 2]
    extent = torch.tensor([pixels.shape[3], pixels.shape[2]], dtype=torch.float32, device=image.device)
    grid = (2 * source + 1) / extent - 1
    crop = F.grid_sample(pixels, grid.unsqueeze(0), mode="bilinear", padding_mode="zeros", align_corners=False)[0]
    return (crop if image.is_floating_point() else crop.round().clamp(0, 255)).to(image.dtype)


def looks_aligned(landmarks: Tensor, size: tuple[int, int], *, tolerance: float = 0.08) -> bool:
    """Whether the points of a face lie where an aligned crop of ``size`` (height, width) has them.

    Args:
        landmarks: (5, 2), x and y in pixels.
        size: of the image.
        tolerance: largest mean distance, as a fraction of the longer side.
    """
    distance = (landmarks.to(torch.float64) - template_points(size)).norm(dim=1).mean()
    return bool(distance <= tolerance * max(size))
