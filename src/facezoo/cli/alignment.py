"""``--align``: the option of commands that accept photos instead of aligned faces."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facezoo.preprocessing import Preprocessing


def add_alignment(parser: argparse.ArgumentParser) -> None:
    """Declare ``--align`` and its options."""
    parser.add_argument(
        "--align", action="store_true", help="the images are photos: find the largest face of each and align it"
    )
    parser.add_argument(
        "--landmarks",
        type=Path,
        help="with --align: CSV or JSON with five points per photo; then no detector is needed",
    )
    parser.add_argument(
        "--detector", default="yunet", help="with --align: registered detector (default yunet, extra `align`)"
    )
    parser.add_argument("--detector-weights", type=Path, help="with --align: its weights, for yunet its ONNX file")


@contextlib.contextmanager
def aligned(options: argparse.Namespace, preprocessing: Preprocessing, paths: Sequence[Path]) -> Iterator[list[str]]:
    """The files to embed: temporary crops, deleted at the end of the block, or the images themselves.

    Without ``--align`` it warns on standard error about images that do not look like aligned crops.
    """
    from facezoo.data.aligning import aligned_files, unlike_crops

    if not options.align:
        for name in ("landmarks", "detector_weights"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} goes with --align")
        found = unlike_crops(paths, preprocessing)
        if found and not options.quiet:
            print(
                f"facezoo: {len(found)} of {len(paths)} images do not look like aligned crops, such as {found[0]}; "
                "figures hold for aligned faces, see --align",
                file=sys.stderr,
            )
        yield [str(path) for path in paths]
        return
    with aligned_files(
        paths,
        preprocessing,
        landmarks=options.landmarks,
        detector=options.detector,
        detector_weights=options.detector_weights,
    ) as crops:
        yield [str(path) for path in crops]
