"""The same training from image files and from a packed folder: seconds per epoch, and EER with its interval.

    python benchmarks/training_packed.py FACES                               # everybody, 64 pixels, two epochs, one thread
    python benchmarks/training_packed.py FACES --people 250 --loaded         # quick; the table says that the machine was busy

FACES has cls_data/, ver_data/ and val_pairs.txt. Network, settings, seed and order of the images are the same. Files are scaled
whenever they are read; packing scales once, which counts as time of its own. The augmentations of the two draw other numbers, so
their EER differ by chance; the last column says whether each lies in the other's 95 % interval.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from common import write_results
from facezoo.data import PackOptions, eval_transform, open_face_data, open_source, pack
from facezoo.evaluation import evaluate_pairs
from facezoo.training import TrainConfig, Trainer, load_trained


def some_people(faces: Path, root: Path, people: int) -> Path:
    """Links to the first people, and to everything of the pairs."""
    chosen = sorted(path.name for path in (faces / "cls_data" / "train").iterdir() if path.is_dir())
    for split in ("train", "dev"):
        (root / "cls_data" / split).mkdir(parents=True)
        for name in chosen[: people or None]:
            if (faces / "cls_data" / split / name).is_dir():
                (root / "cls_data" / split / name).symlink_to((faces / "cls_data" / split / name).resolve())
    for name in ("ver_data", "val_pairs.txt"):
        (root / name).symlink_to((faces / name).resolve())
    return root


def train(data: Path, out: Path, options: argparse.Namespace) -> dict[str, object]:
    """One training: its row of the table, with EER and interval as numbers."""
    config = TrainConfig.from_dict({}).replace(
        data=str(data), out=str(out), model="resnet18", stem="imagenet", img_size=options.size, epochs=options.epochs,
        batch_size=64, num_workers=options.workers, seed=0, eval_every=options.epochs, progress=False, device="cpu",
    )  # fmt: skip
    result = Trainer(config).fit(overwrite=True)
    network = load_trained(result.last)
    pairs = open_face_data(data, eval_transform=eval_transform(network.preprocessing)).val_pairs
    metrics = evaluate_pairs(network.model, pairs).metrics
    seconds = [row["train_seconds"] for row in result.history]
    low, high = metrics.eer_interval
    return {
        "seconds": seconds,
        "speed": result.history[-1]["images_per_second"],
        "eer": metrics.eer,
        "low": low,
        "high": high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--people", type=int, default=0, help="the first so many people; 0 for all")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument(
        "--workers", type=int, default=0, help="processes (files) or threads (packed) that make batches"
    )
    parser.add_argument("--loaded", action="store_true", help="other work runs beside it; the table says so")
    parser.add_argument("--name", default="training_packed", help="name of the results")
    options = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        root = some_people(options.faces.resolve(), Path(temporary) / "faces", options.people)
        start = time.monotonic()
        report = pack(
            open_source(root), Path(temporary) / "packed", PackOptions(size=(options.size, options.size), threads=1)
        )
        packing = time.monotonic() - start
        found = {
            "image files": train(root, Path(temporary) / "files-run", options),
            "packed": train(Path(temporary) / "packed", Path(temporary) / "packed-run", options),
        }
    rows = []
    for (name, row), other in zip(found.items(), reversed(found.values()), strict=True):
        rows.append(
            {
                "data": name,
                "seconds per epoch": ", ".join(f"{value:.1f}" for value in row["seconds"]),
                "img/s, last epoch": row["speed"],
                "EER %": f"{100 * row['eer']:.1f} ({100 * row['low']:.1f}–{100 * row['high']:.1f})",
                "inside the other's interval": "yes" if other["low"] <= row["eer"] <= other["high"] else "no",
            }
        )
    people = options.people or "all"
    note = (
        f"resnet18 with the stem for ImageNet at {options.size} pixels, {report.images} images of {people} people, "
        f"{options.epochs} epochs, one thread, {options.workers} workers; validation pairs. "
        f"Packing took {packing:.1f} s on one thread, once. "
        f"{'The machine was busy with other work.' if options.loaded else 'The machine was quiet.'}"
    )
    write_results(options.name, "Training from files and from a packed folder", rows, note=note)


if __name__ == "__main__":
    main()
