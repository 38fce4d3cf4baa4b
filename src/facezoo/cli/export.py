"""The command ``facezoo export``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from facezoo.cli.networks import add_source, is_random_model, load_network
from facezoo.cli.options import note, print_json


def add_export(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo export``."""
    add_source(parser, also=", or random weights, to measure speed")
    parser.add_argument("--out", type=Path, required=True, help="file to write: .onnx, or .pt2 (torch.export)")
    parser.add_argument("--output", choices=("embedding", "logits"), default="embedding", help="output of the file")
    parser.add_argument("--no-fuse", action="store_true", help="do not fold the batch norms")
    parser.add_argument("--int8", action="store_true", help="quantize to 8-bit integers (ONNX, needs --calibration)")
    parser.add_argument("--calibration", nargs="+", type=Path, help="images, or folders of images, to calibrate --int8")
    parser.add_argument("--calibration-images", type=int, default=256, help="largest number of calibration images")
    parser.add_argument("--pairs", type=Path, help="list of pairs to measure the loss of accuracy by --int8")
    parser.add_argument(
        "--image-root", type=Path, help="folder that the names in --pairs are relative to (default: beside the list)"
    )


def run_export(options: argparse.Namespace) -> None:
    """Write the file after checking it against PyTorch."""
    from facezoo.data import list_images
    from facezoo.deploy import ExportedNetwork, compare_recognition, export
    from facezoo.evaluation.inputs import open_pairs

    if options.int8 != (options.calibration is not None):
        raise ValueError("--int8 and --calibration go together")
    if options.pairs is not None and not options.int8:
        raise ValueError("--pairs measures what --int8 costs; a file in float32 gives what the network gives")
    files = [str(path) for path in list_images(options.calibration)] if options.int8 else None
    pairs = None if options.pairs is None else open_pairs(options.pairs, options.image_root)
    model = load_network(options, random=True).model
    report = export(
        model,
        options.out,
        output=options.output,
        fused=not options.no_fuse,
        calibration=files,
        calibration_images=options.calibration_images,
    )
    note(options, str(report))
    if is_random_model(options) and not options.quiet:
        print(f"facezoo: {options.network} has random weights: good for measuring speed, not faces", file=sys.stderr)
    drop = None if pairs is None else compare_recognition(model, ExportedNetwork(options.out), pairs)
    if options.json:
        print_json({**dataclasses.asdict(report), "recognition": None if drop is None else dataclasses.asdict(drop)})
    elif drop is not None:
        print(drop)
