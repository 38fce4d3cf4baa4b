"""Networks on the command line: a run, a checkpoint, a repository, another library's weights, or a name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from facezoo.cli.foreign import add_foreign, image_arguments, network_arguments

if TYPE_CHECKING:
    import torch

    from facezoo.deploy import TrainedNetwork


def add_source(parser: argparse.ArgumentParser, *, also: str = "") -> None:
    """Declare the network and the options to open it. ``also``: further kinds that this command accepts."""
    parser.add_argument(
        "network",
        help="run folder (its best checkpoint is taken), folder of facezoo convert, checkpoint, hf-hub:OWNER/NAME, local-dir:PATH, "
        "exported file (.onnx, .pt2), weight file (with --model), registered weights (MODEL.TAG), or name of a model (with "
        f"--pretrained{also})",
    )
    parser.add_argument(
        "--model", help="the model that a bare weight file belongs to, of any library that facezoo reads"
    )
    parser.add_argument(
        "--pretrained", metavar="TAG", help="weights that are registered for a model, see `facezoo info`"
    )
    add_foreign(parser)


def load_network(
    options: argparse.Namespace, device: str | torch.device = "cpu", *, random: bool = False
) -> TrainedNetwork:
    """Open the network of the options of :func:`add_source`, see :func:`facezoo.deploy.open_network`."""
    from facezoo.deploy.networks import open_network

    return open_network(
        options.network,
        model=options.model,
        pretrained=options.pretrained,
        device=device,
        random=random,
        arguments=network_arguments(options),
        images=image_arguments(options),
    )


def is_random_model(options: argparse.Namespace) -> bool:
    """Whether the options of :func:`add_source` name a model without weights."""
    from facezoo.deploy.networks import is_random

    return is_random(options.network, options.model, options.pretrained)
