"""Alignment error in pixels: crops turned, scaled and pasted into photographs, then aligned by their known landmarks.

    python benchmarks/alignment.py --faces DATA/cls_data/dev

A photograph is noise of 480×640 with one aligned face in it, turned by up to 40° and 0.8 to 3 times as large. The error is the
shift between the crop and the original, found by correlation to a hundredth of a pixel (scikit-image), in the middle of the face.
Landmarks are exact, whole pixels, or off by a detector's 1 % of the face.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from skimage.registration import phase_cross_correlation

from common import write_results
from facezoo.data import ImageFolder
from facezoo.data.align import align_faces, template_points
from facezoo.data.image import read_pixels


def photograph(crop: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The picture, uint8 (480, 640, 3), and the five points in it, (5, 2)."""
    angle, scale = random.uniform(-40, 40), random.uniform(0.8, 3)
    matrix = cv2.getRotationMatrix2D((55.5, 55.5), angle, scale)
    matrix[:, 2] += np.array([320, 240]) + random.uniform(-40, 40, 2) - 55.5
    picture = random.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    picture = cv2.warpAffine(
        crop, matrix, (640, 480), dst=picture, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_TRANSPARENT
    )
    return picture, template_points(112).numpy() @ matrix[:, :2].T + matrix[:, 2]


def error(crop: np.ndarray, found: np.ndarray) -> float:
    """Pixels between two pictures of one face."""
    middle = (slice(20, 92), slice(20, 92))
    gray = [
        cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float), (0, 0), 1)[middle]
        for image in (crop, found)
    ]
    window = np.outer(np.hanning(72), np.hanning(72))
    shift = phase_cross_correlation(
        *((image - image.mean()) * window for image in gray), upsample_factor=100, normalization=None
    )[0]
    return float(np.hypot(*shift))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=Path, required=True, help="aligned faces, a folder per person, 112x112")
    parser.add_argument("--images", type=int, default=100)
    options = parser.parse_args()
    samples = ImageFolder(options.faces).samples
    step = max(len(samples) // options.images, 1)
    errors: dict[str, list[float]] = {"exact": [], "whole pixels": [], "off by 1 % of the face": []}
    for number, (path, _) in enumerate(samples[::step][: options.images]):
        random = np.random.default_rng(number)
        crop = read_pixels(path)
        picture, points = photograph(crop, random)
        scale = np.linalg.norm(points[0] - points[1]) / 35.24
        noisy = points + random.normal(0, 0.01 * 112 * scale, points.shape)
        for name, given in zip(errors, (points, np.rint(points), noisy), strict=True):
            image = torch.from_numpy(picture).permute(2, 0, 1)
            found = align_faces([image], torch.from_numpy(given)[None])[0].permute(1, 2, 0).numpy()
            errors[name].append(error(crop, found))
    rows = [
        {
            "landmarks": name,
            "median": float(np.median(values)),
            "99 %": float(np.quantile(values, 0.99)),
            "largest": max(values),
        }
        for name, values in errors.items()
    ]
    note = f"{options.images} faces in photographs of 480×640; errors in pixels of the crop of 112×112."
    write_results("alignment", "Alignment error", rows, note=note)


if __name__ == "__main__":
    main()
