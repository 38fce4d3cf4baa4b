"""A small folder of faces in noise, packed: for the tests of packing and of what can go wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from facezoo.data import PackOptions, open_source, pack

SMALL = PackOptions(size=(48, 40), images_per_shard=4)


def picture(number: int, size: tuple[int, int] = (40, 48)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def write_pictures(root: Path, images: int = 14, people: int = 3) -> Path:
    for number in range(images):
        path = root / f"p{number % people}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def packed(faces: Path, name: str = "packed", options: PackOptions = SMALL) -> Path:
    pack(open_source(faces), faces.parent / name, options)
    return faces.parent / name
