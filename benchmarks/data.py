"""Images per second of five loaders, from files or packed, to normalized float batches with the same augmentation.

    python benchmarks/data.py --faces DATA/cls_data/train --images 10000 --workers 2

``standard`` for all: flip 0.5, shift of 6 pixels, brightness, contrast and saturation 0.2, bilinear rotation of 5 degrees, erasing
0.3. ``--without-sampling`` leaves out the rotation, which is all that is interpolated. The extra ``fast`` matters from files only.
Every loader runs once to warm up, then in turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets
from torchvision import transforms as v1
from torchvision.transforms import v2

from common import images_per_second, ratio_of_medians, seconds_in_turn, write_results
from facezoo.data import (
    ImageFolder,
    PackOptions,
    ResumableSampler,
    SeededDataset,
    augment_recipe,
    make_loader,
    open_source,
    pack,
    packed_loader,
    train_transform,
)
from facezoo.preprocessing import Preprocessing

BATCH = 128
HALF = [0.5, 0.5, 0.5]
AREA = augment_recipe("standard").erasing_area


def run(batches: Iterable[object], count: int) -> None:
    seen = 0
    for images, _ in batches:  # type: ignore[misc]
        assert images.dtype == torch.float32
        seen += len(images)
    assert seen == count // BATCH * BATCH, (seen, count)


def pil_steps(rotation: bool) -> list[Callable[..., object]]:
    turn = [v1.RandomRotation(5, interpolation=v1.InterpolationMode.BILINEAR)] if rotation else []
    return [v1.RandomHorizontalFlip(), *turn, v1.RandomCrop(112, padding=6), v1.ColorJitter(0.2, 0.2, 0.2)]


def torchvision_v1(rotation: bool) -> Callable[..., object]:
    finish = [v1.ToTensor(), v1.Normalize(HALF, HALF), v1.RandomErasing(0.3, AREA)]
    return v1.Compose([*pil_steps(rotation), *finish])


def torchvision_v2(rotation: bool) -> Callable[..., object]:
    turn = [v2.RandomRotation(5, interpolation=v2.InterpolationMode.BILINEAR)] if rotation else []
    color = v2.ColorJitter(0.2, 0.2, 0.2)
    steps = [v2.ToImage(), v2.RandomHorizontalFlip(), *turn, v2.RandomCrop(112, padding=6), color]
    return v2.Compose(
        [*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(HALF, HALF), v2.RandomErasing(0.3, AREA)]
    )


def timm_batches(root: Path, chosen: range, rotation: bool, workers: int) -> Callable[[], Iterable[object]] | None:
    """timm's own loader as it ships: fast collation to uint8, its prefetcher that normalizes and erases whole batches.

    The steps on PIL images before it are torchvision's, since timm has no small rotation of its own; they end in timm's
    conversion to uint8. Its erased rectangles have timm's ratios and this benchmark's areas.
    """
    try:
        from timm.data import create_loader
        from timm.data.random_erasing import RandomErasing
        from timm.data.transforms import ToNumpy
    except ImportError:
        return None
    dataset = Subset(datasets.ImageFolder(str(root)), chosen)
    loader = create_loader(
        dataset, (3, 112, 112), BATCH, is_training=True, num_workers=workers, mean=tuple(HALF), std=tuple(HALF), re_prob=0.3,
        device=torch.device("cpu"), persistent_workers=workers > 0,
    )  # fmt: skip
    loader.random_erasing = RandomErasing(0.3, *AREA, mode="const", device="cpu")
    # create_loader puts its own transform on the subset, which does not use it
    dataset.dataset.transform = v1.Compose([*pil_steps(rotation), ToNumpy()])
    return lambda: loader


def candidates(root: Path, packed: Path, count: int, workers: int, rotation: bool) -> dict[str, Callable[[], object]]:
    chosen = range(count)
    config = augment_recipe("standard")
    config = config if rotation else dataclasses.replace(config, rotation=0)
    transform = train_transform(Preprocessing(), config)

    def plain(transform: Callable[..., object]) -> DataLoader[object]:
        dataset = Subset(datasets.ImageFolder(str(root), transform), chosen)
        return DataLoader(
            dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )

    dataset = SeededDataset(ImageFolder(root).subset(chosen, transform), 0)
    sampler = ResumableSampler(count)
    files = make_loader(dataset, BATCH, sampler=sampler, drop_last=True, num_workers=workers)
    first, second = plain(torchvision_v1(rotation)), plain(torchvision_v2(rotation))
    loader = packed_loader(packed, BATCH, config, threads=max(workers, 1))
    found: dict[str, Callable[[], object]] = {
        "torchvision ImageFolder, v1": lambda: run(first, count),
        "torchvision ImageFolder, v2 on tensors": lambda: run(second, count),
        "facezoo from files": lambda: run(files, count),
        "facezoo packed": lambda: run(loader, count),
    }
    timm = timm_batches(root, chosen, rotation, workers)
    if timm is not None:
        found["timm create_loader"] = lambda: run(timm(), count)
    return found


def uint8_batches(packed: Path, count: int) -> Callable[[], object]:
    """What a GPU is given: gathered uint8 batches, one thread."""
    from facezoo.data import PackedFaces

    faces = PackedFaces(packed)
    order = torch.randperm(count).numpy()

    def gather() -> None:
        for start in range(0, count // BATCH * BATCH, BATCH):
            faces.gather(order[start : start + BATCH])

    return gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--faces", type=Path, required=True, help="folder with a folder per identity, 112x112")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--packed", type=Path, help="a packed folder of the same images, made if it is not there")
    parser.add_argument("--without-sampling", action="store_true", help="no rotation: nothing is interpolated")
    parser.add_argument("--name", default="data", help="name of the results")
    parser.add_argument("--without-fast", action="store_true", help="as if OpenCV and simplejpeg were not installed")
    options = parser.parse_args()
    if options.without_fast:
        sys.modules["cv2"] = sys.modules["simplejpeg"] = None  # type: ignore[assignment]

    torch.set_num_threads(options.workers)
    with tempfile.TemporaryDirectory() as temporary:
        links = Path(temporary) / "faces"
        dataset = ImageFolder(options.faces)
        count = min(options.images, len(dataset))
        for name in dataset.names[:count]:
            (links / name).parent.mkdir(parents=True, exist_ok=True)
            (links / name).symlink_to((options.faces / name).resolve())
        packed = options.packed or Path(temporary) / "packed"
        if not packed.exists():
            print(pack(open_source(links), packed, PackOptions()))
        found = candidates(links, packed, count, options.workers, not options.without_sampling)
        found["facezoo packed, uint8 batches only"] = uint8_batches(packed, count)
        seconds = seconds_in_turn(found, repeats=options.repeats)
    base = seconds["torchvision ImageFolder, v1"]
    rows = []
    for name, values in seconds.items():
        ratio, low, high = ratio_of_medians(base, values)
        speed = images_per_second(count // BATCH * BATCH, values)
        rows.append(
            {"loader": name, **speed, "times ImageFolder + v1": ratio, "95 % interval": f"{low:.2f}–{high:.2f}"}
        )
    what = "flip, shift, color, erasing" if options.without_sampling else "standard (with rotation)"
    note = (
        f"{count} images of 112×112, batches of {BATCH}, augmentation: {what}; {options.workers} workers or threads, "
        f"{options.repeats} runs in turn; the extra `fast` (OpenCV, simplejpeg) is "
        f"{'not ' if options.without_fast else ''}used from files."
    )
    write_results(options.name, "Loading faces", rows, note=note)


if __name__ == "__main__":
    main()
