"""Networks as commands are given them: a run, a checkpoint, a repository, another library's weights, or a name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo.cli.foreign import add_foreign, flags, image_arguments, network_arguments, with_images

if TYPE_CHECKING:
    import torch

    from facezoo.training import TrainedNetwork


def add_source(parser: argparse.ArgumentParser, *, also: str = "") -> None:
    """The network, and what else it takes to find it. ``also``: what this command takes besides."""
    parser.add_argument(
        "network",
        help="run folder (its best checkpoint is taken), checkpoint, hf-hub:OWNER/NAME, local-dir:PATH, weight file "
        f"(with --model), or name of a model (with --pretrained{also})",
    )
    parser.add_argument(
        "--model", help="the model that a bare weight file belongs to, of any library that facezoo reads"
    )
    parser.add_argument(
        "--pretrained", metavar="TAG", help="weights that are registered for a model, see `facezoo info`"
    )
    add_foreign(parser)


def load_network(
    options: argparse.Namespace, device: str | torch.device = "cpu", *, random: bool = False, **given: Any
) -> TrainedNetwork:
    """The network that the options of :func:`add_source` name, in evaluation mode.

    Args:
        options: the parsed command line.
        device: where the network goes.
        random: whether the name of a model alone will do; its weights are then random.
        given: arguments of :func:`facezoo.create_model` that the command line has; a checkpoint of ``facezoo train`` knows its own.

    Raises:
        ValueError: options that contradict one another, or a name that is neither a file nor a model.
        CheckpointError: weights that are missing or do not fit.
    """
    from facezoo.models import create_model, is_model, list_models
    from facezoo.registry import unknown_name_message
    from facezoo.training import TrainedNetwork, load_trained
    from facezoo.weights import fetch_weights, get_weights, is_pretrained_name, list_weights

    name, given = options.network, {**network_arguments(options), **given}
    if options.model is not None and options.pretrained is not None:
        raise ValueError(f"--model is for a weight file, --pretrained for the name of a model; {name} cannot be both")
    if options.pretrained is not None:
        model = create_model(name, pretrained=options.pretrained, **given)
        path = fetch_weights(get_weights(name, options.pretrained)).path
    elif options.model is not None:
        model, path = create_model(options.model, checkpoint_path=name, **given), Path(name)
    elif is_pretrained_name(name) and given:
        model, path = create_model(name, **given), Path(name)
    elif is_pretrained_name(name) or Path(name).exists():
        if described := [*given, *image_arguments(options)]:
            raise ValueError(
                f"{name} describes itself; {flags(described)} goes with a weight file of another library (--model), or with the "
                "name of a model"
            )
        return load_trained(name, device)
    elif not is_model(name):
        raise ValueError(f"no file {name}; {unknown_name_message('model', name, list_models())}")
    elif not random:
        tags = ", ".join(record.tag for record in list_weights(name)) or "none is registered"
        raise ValueError(
            f"{name} is a model without weights: name a checkpoint, or choose with --pretrained TAG ({tags})"
        )
    else:
        model, path = create_model(name, **given), Path(name)
    model.preprocessing = with_images(model.preprocessing, options)  # and so it is saved and exported
    return TrainedNetwork(path, model.to(device).eval(), None, model.preprocessing, (), {})


def is_random_model(options: argparse.Namespace) -> bool:
    """Whether the options of :func:`add_source` name a model and no weights."""
    from facezoo.weights import is_pretrained_name

    return (
        options.model is None
        and options.pretrained is None
        and not is_pretrained_name(options.network)
        and not Path(options.network).exists()
    )
