"""``facezoo convert`` and ``facezoo weights``: convert foreign weight files, and check registered weights."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from facezoo.cli.foreign import add_foreign, image_arguments, network_arguments
from facezoo.cli.options import note, print_json

if TYPE_CHECKING:
    from facezoo.weights import WeightsRecord


def add_convert(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo convert``."""
    parser.add_argument("file", type=Path, help="weight file of another library: safetensors, PyTorch or ONNX")
    parser.add_argument("--model", required=True, help="the model that the file belongs to")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write, for local-dir:DIR")
    parser.add_argument(
        "--license", metavar="ID", help="as the Hub writes it: apache-2.0, mit, cc-by-nc-4.0, other, ... (with --out)"
    )
    parser.add_argument("--source", metavar="TEXT", help="who trained the weights, on what (with --out)")
    parser.add_argument("--description", metavar="TEXT", default="", help="one line for the model card (with --out)")
    parser.add_argument(
        "--pretrained",
        metavar="TAG",
        help="instead of --out: the file is the download of these registered weights, whose record has the other values",
    )
    add_foreign(parser)


def run_convert(options: argparse.Namespace) -> None:
    """Write the folder, and print how to load it."""
    from facezoo.deploy.converting import convert, convert_registered
    from facezoo.deploy.networks import option_names
    from facezoo.weights import get_weights

    arguments, images = network_arguments(options), image_arguments(options)
    if options.pretrained is not None:
        given = [name for name in ("out", "license", "source") if getattr(options, name) is not None]
        if given or arguments or images:
            names = option_names([*given, *arguments, *images])
            raise ValueError(f"registered weights have {names} of their own; leave it out, or leave out --pretrained")
        record = get_weights(options.model, options.pretrained)
        folder, loads = convert_registered(options.file, record), f'"{record.model}", pretrained="{record.tag}"'
    else:
        missing = [f"--{name}" for name in ("out", "license", "source") if getattr(options, name) is None]
        if missing:
            raise ValueError(
                f"{', '.join(missing)} is missing (or --pretrained TAG, for the download of registered weights)"
            )
        convert(
            options.file,
            options.model,
            options.out,
            license=options.license,
            source=options.source,
            description=options.description,
            arguments=arguments,
            images=images,
        )
        folder, loads = options.out, f'"local-dir:{options.out}"'
    if options.json:
        print_json({"folder": str(folder), "create_model": f"create_model({loads})"})
    else:
        note(options, f"written: {folder}; create_model({loads}) loads it")


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo weights``."""
    parser.add_argument("action", choices=("check",), help="check: download, load strictly, compare embeddings")
    parser.add_argument(
        "weights", help="MODEL.TAG, or a tag that only one model has; see `facezoo models --pretrained`"
    )
    parser.add_argument(
        "--pairs", type=Path, metavar="FILE", help="pairs.txt of LFW: compare the published accuracy too"
    )
    parser.add_argument("--image-root", type=Path, help="folder of its images (default: beside the list)")


def run_weights(options: argparse.Namespace) -> None:
    """Check registered weights, and print the result."""
    from facezoo.data import read_lfw_pairs
    from facezoo.deploy.checking import check_on_lfw, check_weights

    record = _record(options.weights)
    pairs = None if options.pairs is None else read_lfw_pairs(options.pairs, options.image_root or options.pairs.parent)
    check = check_weights(record)
    lfw = None if pairs is None else check_on_lfw(record, pairs)
    if options.json:
        print_json({**check.to_dict(), "lfw": None if lfw is None else lfw.to_dict()})
        return
    print(check)
    if lfw is not None:
        print(lfw)


def _record(name: str) -> WeightsRecord:
    """The record called ``MODEL.TAG``, or by the tag alone if only one model has it."""
    from facezoo.registry import unknown_name_message
    from facezoo.weights import list_weights

    records = list_weights()
    found = [record for record in records if name in (record.name, record.tag)]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{len(found)} models have weights {name!r}: {', '.join(entry.name for entry in found[:8])}")
    hint = "`facezoo models --pretrained` lists all"
    raise ValueError(unknown_name_message("set of weights", name, [record.name for record in records], hint=hint))
