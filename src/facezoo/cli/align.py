"""``facezoo align``: align the faces on photos."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from facezoo.cli.options import image_size, print_result


def add_align(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo align``."""
    parser.add_argument("photos", type=Path, help="folder of photos; its subfolders (one per person) are kept")
    parser.add_argument("--out", type=Path, required=True, help="folder for the crops; report.csv is written there too")
    parser.add_argument(
        "--landmarks", type=Path, help="CSV or JSON with five points per photo; then no detector is needed"
    )
    parser.add_argument("--detector", default="yunet", help="registered detector (default yunet, extra `align`)")
    parser.add_argument(
        "--detector-weights", type=Path, help="its weights: for yunet the ONNX file of OpenCV's model zoo"
    )
    parser.add_argument(
        "--faces",
        choices=("largest", "central", "all"),
        default="largest",
        help="which faces of a photo (default largest)",
    )
    parser.add_argument(
        "--size", type=image_size, default=112, help="pixels of the crops, such as 112 or 112x96 (default 112)"
    )
    parser.add_argument("--sheet", type=Path, help="picture to write (.png, .jpg): up to 100 of the crops")


def run_align(options: argparse.Namespace) -> None:
    """Align, and name the photos without a face."""
    from facezoo.data.aligning import align_folder

    report = align_folder(
        options.photos,
        options.out,
        landmarks=options.landmarks,
        detector=options.detector,
        detector_weights=options.detector_weights,
        which=options.faces,
        size=options.size,
        sheet=options.sheet,
    )
    rows = [dict(zip(report.rows[0], row, strict=True)) for row in report.rows[1:]]
    print_result(options, {**dataclasses.asdict(report), "rows": rows}, report)
    if report.without_face:
        print(f"facezoo: without a face: {', '.join(report.without_face[:5])}", file=sys.stderr)
