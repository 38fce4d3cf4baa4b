"""``facezoo export``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from facezoo.cli.networks import add_source, is_random_model, load_network


def add_export(parser: argparse.ArgumentParser) -> None:
    """The file to write, and whether in 8-bit integers."""
    add_source(parser, also=", or with random weights, to measure speed")
    parser.add_argument("--out", type=Path, required=True, help="file to write: .onnx, or .pt2 (torch.export)")
    parser.add_argument("--img-size", type=int, help="side of the images of a named model, pixels (default 112)")
    parser.add_argument(
        "--output", choices=("embedding", "logits"), default="embedding", help="what the file gives (default embedding)"
    )
    parser.add_argument("--no-fuse", action="store_true", help="keep the batch norms as they are")
    parser.add_argument("--int8", action="store_true", help="quantize to 8-bit integers (ONNX, needs --calibration)")
    parser.add_argument(
        "--calibration", nargs="+", type=Path, help="images, or folders of them, to calibrate --int8 with"
    )
    parser.add_argument("--calibration-images", type=int, default=256, help="use at most so many (default 256)")
    parser.add_argument(
        "--pairs", type=Path, help="list of pairs on which the loss of --int8 in recognition is measured"
    )
    parser.add_argument(
        "--image-root", type=Path, help="folder that the names in --pairs are relative to (default: beside the list)"
    )


def run_export(options: argparse.Namespace) -> None:
    """Write the file, checked against PyTorch."""
    from facezoo.cli.embedding_files import list_images
    from facezoo.data import read_pairs
    from facezoo.deploy import ExportedNetwork, compare_recognition, export

    if options.int8 != (options.calibration is not None):
        raise ValueError("--int8 and --calibration go together")
    if options.pairs is not None and not options.int8:
        raise ValueError("--pairs measures what --int8 costs; a file in float32 gives what the network gives")
    files = [str(path) for path in list_images(options.calibration)] if options.int8 else None
    pairs = None if options.pairs is None else read_pairs(options.pairs, options.image_root or options.pairs.parent)
    size: dict[str, Any] = {} if options.img_size is None else {"img_size": options.img_size}
    model = load_network(options, random=True, **size).model
    print(
        export(
            model,
            options.out,
            output=options.output,
            fused=not options.no_fuse,
            calibration=files,
            calibration_images=options.calibration_images,
        )
    )
    if is_random_model(options):
        print(f"facezoo: {options.network} has random weights: good for measuring speed, not faces", file=sys.stderr)
    if pairs is not None:
        print(compare_recognition(model, ExportedNetwork(options.out), pairs))
