"""Options for weight files without a description: the network's arguments and its preprocessing."""

from __future__ import annotations

import argparse
from typing import Any

from facezoo.cli.options import image_size

_OF_THE_NETWORK = ("num_classes", "embedding_dim", "img_size", "stem", "in_chans")
_OF_THE_IMAGES = ("mean", "std", "channel_order", "crop")


def _values(text: str) -> tuple[float, ...]:
    """One number per channel: ``0.5`` for all, or ``0.485,0.456,0.406``."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number per channel (such as 0.5, or 0.485,0.456,0.406)"
        ) from None


def _crop(text: str) -> tuple[int, int, int, int]:
    """Top, left, bottom and right: ``0,8,112,104``."""
    sides = text.split(",")
    if len(sides) != 4 or not all(side.strip().isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a crop: top, left, bottom, right in pixels of a face of 112x112 (such as 0,8,112,104)"
        )
    top, left, bottom, right = map(int, sides)
    return top, left, bottom, right


def add_foreign(parser: argparse.ArgumentParser) -> None:
    """Declare the options for the network and the preprocessing of a foreign weight file."""
    group = parser.add_argument_group("weight files of other libraries")
    group.add_argument(
        "--embedding-dim", type=int, metavar="N", help="width of the embedding, 0 for none (default 512)"
    )
    group.add_argument(
        "--num-classes", type=int, metavar="N", help="classes of its classifier (default 0: it has none)"
    )
    group.add_argument("--img-size", type=image_size, metavar="SIDE", help="pixels: a side, or 112x96, height first")
    group.add_argument("--stem", help="face or imagenet (default face)")
    group.add_argument("--in-chans", type=int, metavar="N", help="channels of the images (default 3)")
    group.add_argument(
        "--mean", type=_values, metavar="M", help="mean on [0, 1]: 0.5, or one per channel: 0.485,0.456,0.406"
    )
    group.add_argument("--std", type=_values, metavar="S", help="standard deviation on [0, 1], likewise")
    group.add_argument("--channel-order", choices=("rgb", "bgr"), help="order of the channels (default rgb)")
    group.add_argument(
        "--crop",
        type=_crop,
        metavar="T,L,B,R",
        help="part of a 112x112 face that is the network's input: top,left,bottom,right, such as 0,8,112,104",
    )


def network_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of ``create_model`` that were given."""
    given = {name: getattr(options, name, None) for name in _OF_THE_NETWORK}
    arguments = {name: value for name, value in given.items() if value is not None}
    if arguments.get("embedding_dim") == 0:
        arguments["embedding_dim"] = None
    return arguments


def image_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of the preprocessing that were given."""
    given = {name: getattr(options, name, None) for name in _OF_THE_IMAGES}
    return {name: value for name, value in given.items() if value is not None}
