"""``facezoo preview`` and ``doctor``: inspect data."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_preview(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo preview``."""
    parser.add_argument("data", type=Path, help="any source of faces that `pack` takes, or a packed folder")
    parser.add_argument("--augment", default="standard", help="recipe of augmentation (default standard)")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="picture to write (default preview.png)")
    parser.add_argument("--images", type=int, default=8, help="rows (default 8)")
    parser.add_argument("--variants", type=int, default=6, help="augmented columns (default 6)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the augmentation (default 0)")


def run_preview(options: argparse.Namespace) -> None:
    """Write a contact sheet."""
    from facezoo.data.doctor import contact_sheet
    from facezoo.data.sources import open_source

    contact_sheet(
        open_source(options.data),
        options.out,
        augment=options.augment,
        images=options.images,
        variants=options.variants,
        seed=options.seed,
    )
    print(f"{options.out}: each row is an image, as it is and {options.variants} times with {options.augment}")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo doctor``."""
    parser.add_argument("data", type=Path, help="any source of faces that `pack` takes, or a packed folder")
    parser.add_argument(
        "--most", type=int, default=20_000, help="number of images to read, spread over the data (default 20000)"
    )


def run_doctor(options: argparse.Namespace) -> None:
    """Print the diagnosis."""
    from facezoo.data.doctor import examine
    from facezoo.data.sources import open_source

    print(examine(open_source(options.data), most=options.most))
