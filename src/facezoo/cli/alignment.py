"""Photos on the command line: ``--align``, and embeddings of those that can be read."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from facezoo.evaluation.embedding import Flip
    from facezoo.preprocessing import Preprocessing
    from facezoo.training import TrainedNetwork

_MOST_TOLD = 20  # photos whose reason is printed


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
def aligned(
    options: argparse.Namespace,
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    left_out: dict[Path, str] | None = None,
) -> Iterator[list[str]]:
    """The files to embed: temporary crops, deleted at the end of the block, or the images themselves.

    Without ``--align`` it warns on standard error about images that do not look like aligned crops. With it, photos that give no
    crop are put into ``left_out``, with the reason; without such a dictionary they are an error.
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
        left_out=left_out,
    ) as crops:
        yield [str(path) for path in crops]


def embed_photos(
    options: argparse.Namespace, network: TrainedNetwork, images: Sequence[Path], *, flip: Flip, **batching: Any
) -> tuple[list[Path], Tensor, dict[Path, str]]:
    """Embed the photos among ``images``, aligned if requested.

    A photo that cannot be read, or has no face, does not cost the others: it is left out, and standard error says so.

    Args:
        options: with ``align`` and its options, and ``quiet``.
        network: the network.
        images: image files, or folders of them.
        flip: see :func:`facezoo.evaluation.embed_images`.
        **batching: likewise.

    Returns:
        The photos, their embeddings (N, D), and why others were left out.

    Raises:
        DataError: no photo is left.
    """
    from facezoo.data import DataError, list_images
    from facezoo.evaluation import embed_files

    paths = list_images(images)
    left_out: dict[Path, str] = {}
    found = len(paths)
    with aligned(options, network.preprocessing, paths, left_out) as files:
        if not files:
            raise DataError(f"none of the {len(paths)} photos can be used: {next(iter(left_out.values()))}")
        paths = [path for path in paths if path not in left_out]
        embeddings, unreadable = embed_files(network.model, files, flip=flip, **batching)
    left_out |= {paths[index]: reason for index, reason in unreadable.items()}
    for reason in list(left_out.values())[:_MOST_TOLD]:
        print(f"facezoo: warning: {reason}", file=sys.stderr)
    if left_out:
        print(f"facezoo: warning: photos left out: {len(left_out)} of {found}", file=sys.stderr)
    return [path for path in paths if path not in left_out], embeddings, left_out
