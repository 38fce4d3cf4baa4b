"""``facezoo pack``: pack any source of faces into a packed folder."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from facezoo.cli.options import image_size, print_result


def add_pack(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo pack``."""
    parser.add_argument(
        "source",
        type=Path,
        nargs="+",
        help="folder of faces, data folder, list .csv/.tsv/.txt, train.rec, .bin, LMDB, tar shards, parquet, or "
        "hf-hub:owner/name; several become one set; with --verify a packed folder",
    )
    parser.add_argument(
        "--same-people",
        type=Path,
        help="of several sources: CSV with lines 'source,identity,person', sources counted from 0; all other identities "
        "are people of their own",
    )
    parser.add_argument("--out", type=Path, help="folder to write; an interrupted run is resumed")
    parser.add_argument("--kind", default="auto", help="kind of the source, if it is not recognized (default auto)")
    parser.add_argument("--size", type=image_size, default=112, help="pixels, such as 112 or 112x96 (default 112)")
    parser.add_argument("--keep-jpeg", action="store_true", help="store the image files unchanged, with any size")
    parser.add_argument(
        "--min-images", type=int, default=1, help="leave out identities with fewer training images (default 1)"
    )
    parser.add_argument(
        "--alignment",
        default="arcface",
        help="template that the faces are aligned to, written down with them; `none` if nobody knows (default arcface)",
    )
    parser.add_argument("--threads", type=int, help="number of decoding threads (default: one per core)")
    parser.add_argument("--verify", action="store_true", help="read a packed folder and compare all its checksums")


def run_pack(options: argparse.Namespace) -> None:
    """Pack or verify, and print the result."""
    from facezoo.data import PackedFolder, PackOptions, is_packed, open_source, pack
    from facezoo.data.packing import with_eta
    from facezoo.data.sources import Together, read_same_people

    first = options.source[0]
    if options.verify and options.out is None:
        folder = PackedFolder(first)
        folder.verify()
        values = {"folder": str(first), "images": len(folder), "identities": len(folder.identities)}
        text = f"{first}: {len(folder)} images of {len(folder.identities)} identities are what was written"
        print_result(options, values, text)
        return
    if options.out is None:
        raise ValueError("name the folder to make with --out, or check a packed folder with --verify")
    if len(options.source) == 1 and is_packed(first):
        raise ValueError(f"{first} is packed already; --verify checks it")
    if len(options.source) == 1 and options.same_people is not None:
        raise ValueError("--same-people joins identities of several sources; name at least two")
    size = (options.size, options.size) if isinstance(options.size, int) else options.size
    settings = PackOptions(
        size=size, keep_files=options.keep_jpeg, min_images=options.min_images, threads=options.threads,
        alignment=None if options.alignment == "none" else options.alignment,
    )  # fmt: skip
    terminal = sys.stderr.isatty()
    progress = with_eta(lambda text: print(f"\r{text}   ", end="", file=sys.stderr, flush=True)) if terminal else None
    sources = [open_source(source, options.kind) for source in options.source]
    same = None if options.same_people is None else read_same_people(options.same_people)
    source = sources[0] if len(sources) == 1 else Together(sources, same)
    report = pack(source, options.out, settings, progress=progress)
    if terminal:
        print(file=sys.stderr)
    if options.verify:
        PackedFolder(options.out).verify()
    print_result(options, dataclasses.asdict(report), report)
