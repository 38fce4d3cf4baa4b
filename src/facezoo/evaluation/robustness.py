"""How a network's equal error rate grows as images get worse: blurred, noisy, small, turned, dark, occluded."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor
from torch.utils.data import Dataset

from facezoo.evaluation.clusters import people_of
from facezoo.evaluation.embedding import Embedder, Flip, default_transform, embed_images
from facezoo.evaluation.metrics import VerificationMetrics, verification_metrics
from facezoo.evaluation.pairs import pair_scores
from facezoo.evaluation.scores import format_figure, jsonable

if TYPE_CHECKING:
    from facezoo.data import PairList

Degrade = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _blur(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(strength * image.width / 112))


def _noise(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    return Image.fromarray((pixels + rng.normal(0, strength, pixels.shape)).clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(strength))
    return Image.open(io.BytesIO(file.getvalue())).convert("RGB")


def _low_resolution(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    small = (max(1, round(image.width / strength)), max(1, round(image.height / strength)))
    return image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BILINEAR)


def _rotation(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return image.rotate(strength * rng.choice([-1, 1]), Image.Resampling.BILINEAR)


def _shift(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    x, y = (strength * image.width * rng.choice([-1, 1]) for _ in range(2))
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BILINEAR)


def _brightness(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(strength)


def _occlusion(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    pixels = np.array(image)
    side = round(strength * min(pixels.shape[:2]))
    top, left = (int(rng.integers(0, size - side + 1)) for size in pixels.shape[:2])
    pixels[top : top + side, left : left + side] = 128
    return Image.fromarray(pixels)


DEGRADATIONS: dict[str, tuple[Degrade, tuple[float, float, float], str]] = {
    "blur": (_blur, (1, 2, 4), "sigma in pixels of a face of 112"),
    "noise": (_noise, (10, 25, 50), "standard deviation of 255"),
    "jpeg": (_jpeg, (30, 15, 5), "quality"),
    "low resolution": (_low_resolution, (2, 4, 7), "times smaller"),
    "rotation": (_rotation, (5, 10, 20), "degrees"),
    "shift": (_shift, (0.03, 0.06, 0.12), "of the side"),
    "brightness": (_brightness, (0.6, 0.35, 0.15), "times"),
    "occlusion": (_occlusion, (0.2, 0.35, 0.5), "of the side"),
}
"""Name -> function, three strengths, and their unit."""


@dataclass(frozen=True)
class RobustnessTable:
    """Equal error rates of one network on one list of pairs, by degradation and strength.

    Attributes:
        clean: the figures without any.
        figures: degradation -> one record per strength.
    """

    clean: VerificationMetrics
    figures: dict[str, tuple[VerificationMetrics, ...]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict of EER and interval, fractions of 1."""
        content = {
            "clean": {"eer": self.clean.eer, "interval": self.clean.eer_interval},
            **{
                name: [
                    {"strength": strength, "eer": one.eer, "interval": one.eer_interval}
                    for strength, one in zip(DEGRADATIONS[name][1], found, strict=True)
                ]
                for name, found in self.figures.items()
            },
        }
        return cast("dict[str, Any]", jsonable(content))

    def __str__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"{'EER clean':<{width}}  {_cell(self.clean)}"]
        for name, found in self.figures.items():
            strengths, unit = DEGRADATIONS[name][1:]
            cells = "  ".join(f"{s:g}: {_cell(one)}" for s, one in zip(strengths, found, strict=True))
            lines.append(f"{name:<{width}}  {cells}  ({unit})")
        return "\n".join(lines)


def measure_robustness(
    model: Embedder,
    pairs: PairList,
    *,
    names: Sequence[str] = tuple(DEGRADATIONS),
    flip: Flip = "none",
    batch_size: int | None = None,
    num_workers: int = 0,
    bootstrap: int = 200,
    seed: int = 0,
) -> RobustnessTable:
    """Degrade the second image of every pair, and measure the equal error rate.

    What is random (noise, the place of an occlusion) depends on the image and ``seed`` alone.

    Args:
        model: see :func:`embed_images`.
        pairs: labeled pairs.
        names: which of :data:`DEGRADATIONS`.
        flip: see :func:`embed_images`.
        batch_size: see :func:`embed_images`.
        num_workers: see :func:`embed_images`.
        bootstrap: resamples for the intervals.
        seed: seed of the degradations and of the resampling.

    Raises:
        ValueError: pairs without labels, or an unknown degradation.
    """
    if pairs.labels is None:
        raise ValueError("robustness is measured on labeled pairs; this list has none")
    if unknown := [name for name in names if name not in DEGRADATIONS]:
        raise ValueError(f"unknown degradation {unknown[0]!r}; known: {', '.join(DEGRADATIONS)}")
    transform, labels = default_transform(model), pairs.labels
    people = people_of(pairs)

    def embed(degrade: Degrade | None, strength: float) -> Tensor:
        images: Any = _Degraded(pairs, transform, degrade, strength, seed)
        return embed_images(model, images, flip=flip, batch_size=batch_size, num_workers=num_workers)

    def figures(second: Tensor) -> VerificationMetrics:
        scores = pair_scores(torch.cat([clean, second]), pairs.left, pairs.right + len(clean))
        return verification_metrics(scores, labels, bootstrap=bootstrap, seed=seed, people=people)

    clean = embed(None, 0)
    return RobustnessTable(
        figures(clean),
        {
            name: tuple(figures(embed(DEGRADATIONS[name][0], strength)) for strength in DEGRADATIONS[name][1])
            for name in names
        },
    )


def _cell(metrics: VerificationMetrics) -> str:
    fewest = min(metrics.num_genuine, metrics.num_impostor)
    return " ".join(format_figure(metrics.eer, metrics.eer_interval, step=1 / fewest, percent=True)).strip()


class _Degraded(Dataset[Tensor]):
    def __init__(
        self,
        pairs: PairList,
        transform: Callable[[Any], Tensor],
        degrade: Degrade | None,
        strength: float,
        seed: int,
    ) -> None:
        self.pairs, self.transform, self.degrade, self.strength, self.seed = pairs, transform, degrade, strength, seed

    def __len__(self) -> int:
        return len(self.pairs.paths)

    def __getitem__(self, index: int) -> Tensor:
        image = Image.fromarray(np.ascontiguousarray(self.pairs.pixels(index)))
        if self.degrade is not None:
            name = zlib.crc32(self.pairs.paths[index].name.encode())
            image = self.degrade(image, self.strength, np.random.default_rng([self.seed, name]))
        return self.transform(image)
