"""``facezoo preview`` and ``facezoo doctor``: inspect data before training."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facezoo.data._listing import unread_formats
from facezoo.data.augment import augment_recipe
from facezoo.data.augment_images import augment_image
from facezoo.data.augment_plan import columns_of, plan, uniforms
from facezoo.data.errors import DataError, first_few
from facezoo.data.sheets import check_picture_name, grid, write_picture
from facezoo.data.sources import Source

_GRAY = (128, 128, 128)


def contact_sheet(
    source: Source,
    file: str | os.PathLike[str],
    *,
    augment: str = "standard",
    images: int = 8,
    variants: int = 6,
    seed: int = 0,
) -> None:
    """Write a contact sheet: one row per image, the original first, then augmented variants.

    Args:
        source: from :func:`open_source`.
        file: ``.png`` or ``.jpg``.
        augment: a name of ``AUGMENT_RECIPES``.
        images: number of rows; the images are spread over the source.
        variants: augmented columns.
        seed: of the choice of images and of the augmentation.

    Raises:
        ValueError: no image, or another file type.
    """
    check_picture_name(file)
    if images < 1 or variants < 0:
        raise ValueError(f"expected at least 1 image and 0 variants; got {images} and {variants}")
    config = augment_recipe(augment)
    chosen = np.linspace(0, len(source) - 1, min(images, len(source))).astype(np.int64)
    first = source.pixels(int(chosen[0]))
    height, width = first.shape[:2]
    cells: list[NDArray[np.uint8]] = []
    for index in chosen:
        pixels = source.pixels(int(index))
        if pixels.shape != first.shape:
            pixels = np.asarray(
                Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), Image.Resampling.BILINEAR)
            )
        numbers = uniforms(seed, int(index), np.arange(variants), columns_of(config))
        drawn = plan(config, numbers, (height, width), _GRAY)
        cells.append(pixels)
        for number in range(variants):
            cell = np.array(augment_image(pixels, drawn, number))
            if drawn.erase is not None:
                top, left, bottom, right = drawn.erase[number]
                cell[top:bottom, left:right] = _GRAY
            cells.append(cell)
    write_picture(grid(cells, variants + 1), file)


@dataclass
class Diagnosis:
    """What :func:`examine` found.

    Attributes:
        images: number of images.
        looked_at: number of images that were read.
        identities: number of identities.
        splits: images by split.
        per_identity: fewest, median and most training images of a person.
        sizes: the most frequent sizes (height, width), each with its share of the images read.
        unreadable: names of images that cannot be decoded.
        duplicates: pairs of names of images with the same pixels; pairs with different identities first.
        contradictions: number of those pairs with different identities.
        mean: per channel, fraction of 1.
        std: likewise.
        images_per_second: speed of reading and decoding on one thread.
        readable: numbers of the images that were read and could be decoded.
        unread: names of photos whose format is not read; they are no images here.
    """

    images: int
    looked_at: int
    identities: int
    splits: dict[str, int]
    per_identity: tuple[int, float, int]
    sizes: list[tuple[tuple[int, int], float]]
    unreadable: list[str] = field(default_factory=list)
    duplicates: list[tuple[str, str]] = field(default_factory=list)
    contradictions: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    images_per_second: float = 0.0
    readable: list[int] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        fewest, median, most = self.per_identity
        splits = ", ".join(f"{count} {name}" for name, count in self.splits.items())
        sizes = ", ".join(f"{height}x{width} ({share:.0%})" for (height, width), share in self.sizes)
        lines = [
            f"images        {self.images} ({splits}), {self.looked_at} of them read",
            f"identities    {self.identities}; training images of each: {fewest} to {most}, median {median:g}",
            f"sizes         {sizes}",
            f"unreadable    {len(self.unreadable)}" + (f": {first_few(self.unreadable)}" if self.unreadable else ""),
            f"duplicates    {len(self.duplicates)} with the same pixels, {self.contradictions} of them of different identities"
            + (f": {first_few([' = '.join(pair) for pair in self.duplicates], 3)}" if self.duplicates else ""),
            f"mean, std     {_short(self.mean)}, {_short(self.std)}",
            f"reading       {self.images_per_second:.0f} images/s on one thread",
            *([f"left out      {unread_formats(self.unread)}"] if self.unread else []),
        ]
        return "\n".join(lines)


def examine(source: Source, *, most: int = 20_000) -> Diagnosis:
    """Examine the images of a source.

    Args:
        source: from :func:`open_source`.
        most: number of images to read, spread over the source. ``images``, ``splits`` and ``per_identity`` count all images.

    Raises:
        DataError: no image can be read.
        ValueError: ``most`` is below 1.
    """
    if most < 1:
        raise ValueError(f"the number of images to read is at least 1; got {most}")
    splits = list(source.splits)
    chosen = np.unique(np.linspace(0, len(source) - 1, min(most, len(source))).astype(np.int64))
    sizes: Counter[tuple[int, int]] = Counter()
    histogram = np.zeros((3, 256), dtype=np.int64)
    seen: dict[bytes, int] = {}
    unreadable: list[str] = []
    readable: list[int] = []
    duplicates: list[tuple[bool, int, int]] = []
    seconds = 0.0
    for index in chosen.tolist():
        started = time.perf_counter()
        try:
            pixels = np.array(source.pixels(index))  # a packed image is read when it is copied
        except DataError:
            unreadable.append(source.name(index))
            continue
        finally:
            seconds += time.perf_counter() - started
        readable.append(index)
        sizes[pixels.shape[0], pixels.shape[1]] += 1
        for channel in range(3):
            histogram[channel] += np.bincount(pixels[..., channel].reshape(-1), minlength=256)
        earlier = seen.setdefault(_digest(pixels), index)
        if earlier != index:
            duplicates.append((_agree(int(source.labels[earlier]), int(source.labels[index])), earlier, index))
    if not sizes:
        raise DataError(f"{source.root.as_posix()!r}: no image can be read: {first_few(unreadable)}")
    values, shares = np.arange(256) / 255, histogram / histogram.sum(axis=1, keepdims=True)
    mean = shares @ values
    return Diagnosis(
        images=len(source),
        looked_at=len(chosen),
        identities=len(source.identities),
        splits=dict(Counter(splits)),
        per_identity=_images_of_each(source, splits),
        sizes=[(size, count / sizes.total()) for size, count in sizes.most_common(3)],
        unreadable=unreadable,
        duplicates=[(source.name(first), source.name(second)) for _, first, second in sorted(duplicates)],
        contradictions=sum(not same for same, _, _ in duplicates),
        mean=tuple(mean.tolist()),
        std=tuple(np.sqrt(np.maximum(shares @ values**2 - mean**2, 0)).tolist()),
        images_per_second=len(chosen) / max(seconds, 1e-9),
        readable=readable,
        unread=list(source.unread),
    )


def _images_of_each(source: Source, splits: list[str]) -> tuple[int, float, int]:
    """Fewest, median and most training images of a person."""
    training = source.labels[(source.labels >= 0) & (np.array(splits) == "train")]
    counts = np.bincount(training, minlength=len(source.identities))
    counts = counts[counts > 0] if counts.any() else np.zeros(1, dtype=np.int64)
    return int(counts.min()), float(np.median(counts)), int(counts.max())


def _agree(one: int, other: int) -> bool:
    """Whether two labels may be one person: of an image without a label nobody says who it is."""
    return one == other or min(one, other) < 0


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    from hashlib import blake2b

    return blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest() + str(pixels.shape).encode()


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"
