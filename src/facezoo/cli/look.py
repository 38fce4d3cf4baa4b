"""``facezoo preview`` and ``doctor``: inspect data."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from facezoo.cli.foreign import add_foreign
from facezoo.cli.options import at_least, number, print_json, print_result

if TYPE_CHECKING:
    from facezoo.data import Source
    from facezoo.data.speeds import Speeds
    from facezoo.deploy import TrainedNetwork


def add_preview(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo preview``."""
    parser.add_argument("data", type=Path, help="any source of faces that `pack` takes, or a packed folder")
    parser.add_argument("--augment", default="standard", help="recipe of augmentation (default standard)")
    parser.add_argument("--out", type=Path, default=Path("preview.png"), help="picture to write (default preview.png)")
    parser.add_argument("--images", type=at_least(1), default=8, help="rows (default 8)")
    parser.add_argument("--variants", type=at_least(0), default=6, help="augmented columns (default 6)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="seed of the augmentation (default 0)")


def run_preview(options: argparse.Namespace) -> None:
    """Write a contact sheet."""
    from facezoo.data.doctor import contact_sheet
    from facezoo.data.sources import open_source

    contact_sheet(
        open_source(options.data),
        options.out,
        augment=options.augment,
        images=options.images,
        variants=options.variants,
        seed=options.seed,
    )
    values = {"picture": str(options.out), "augment": options.augment, "variants": options.variants}
    text = f"{options.out}: each row is an image, as it is and {options.variants} times with {options.augment}"
    print_result(options, values, text)


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo doctor``."""
    parser.add_argument("data", type=Path, help="any source of faces that `pack` takes, or a packed folder")
    parser.add_argument(
        "--most", type=at_least(1), default=20_000, help="images to read, spread over all (default 20000)"
    )
    parser.add_argument(
        "--network",
        help="run folder, checkpoint, hf-hub:OWNER/NAME, model, ...: finds images that are nearer to another identity than to "
        "their own, and measures whether training waits for the images or for the network",
    )
    parser.add_argument("--model", help="the model that a bare weight file belongs to")
    parser.add_argument("--pretrained", metavar="TAG", help="weights that are registered for a model")
    add_foreign(parser)
    parser.add_argument("--suspects", type=Path, help="CSV file to write: all of those images")
    parser.add_argument(
        "--augment", default="standard", help="recipe of augmentation to measure with (default standard)"
    )
    parser.add_argument("--batch-size", type=at_least(1), default=32, help="images per batch (default 32)")
    parser.add_argument("--seconds", type=number, default=3, help="for each of the three speeds (default 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def run_doctor(options: argparse.Namespace) -> None:
    """Print what was found."""
    from facezoo.data.doctor import examine
    from facezoo.data.sources import open_source

    if options.suspects is not None and options.network is None:
        raise ValueError("--suspects needs a --network to find them")
    source = open_source(options.data)
    found = examine(source, most=options.most)
    result = dataclasses.asdict(found)
    del result["readable"]
    say(options, str(found))
    if options.network is not None:
        from facezoo.cli.networks import load_network

        network = load_network(options, options.device)
        result["suspects"] = _suspects(
            options, source, [row for row in found.readable if source.labels[row] >= 0], network
        )
        result["speeds"] = dataclasses.asdict(_speeds(options, source, found.readable, network))
    if options.json:
        print_json(result)


def say(options: argparse.Namespace, text: str) -> None:
    """Print a part of the result, which with ``--json`` comes as a whole at the end."""
    if not options.json:
        print(text)


def _suspects(
    options: argparse.Namespace, source: Source, rows: list[int], network: TrainedNetwork
) -> list[dict[str, object]]:
    from torch.utils.data import Subset

    from facezoo.columns import csv_text
    from facezoo.data.errors import first_few
    from facezoo.data.sources.dataset import SourceImages
    from facezoo.data.suspects import suspects
    from facezoo.evaluation import embed_images
    from facezoo.evaluation.embedding import default_transform
    from facezoo.files import write_atomic

    if not rows:
        say(options, "labels        none, so none can be wrong")
        return []
    images = Subset(SourceImages(source, default_transform(network.model)), rows)
    embeddings = embed_images(network.model, images, batch_size=options.batch_size)
    found = suspects(embeddings, source.labels[rows].tolist())
    names = [f"{source.name(rows[one.index])} (as {source.identities[one.other]}?)" for one in found]
    say(
        options,
        f"labels        {len(found)} of {len(rows)} images are nearer to another identity's mean than to their own"
        + (f": {first_few(names, 3)}" if found else ""),
    )
    header = ("image", "identity", "cosine", "nearest", "its cosine")
    table: list[list[object]] = []
    for one in found:
        own = source.identities[source.labels[rows[one.index]]]
        other = source.identities[one.other]
        table.append([source.name(rows[one.index]), own, f"{one.own:.4f}", other, f"{one.cosine:.4f}"])
    if options.suspects is not None:
        write_atomic(options.suspects, csv_text([header, *table]))
    return [dict(zip(header, row, strict=True)) for row in table]


def _speeds(options: argparse.Namespace, source: Source, rows: list[int], network: TrainedNetwork) -> Speeds:
    """Of batches as the trainer makes them, and of forward and backward passes through a copy of the network."""
    import copy
    from collections.abc import Iterable, Iterator
    from typing import Any

    import torch
    from torch import Tensor, nn
    from torch.utils.data import Subset

    from facezoo.data import PackedFaces, augment_recipe, is_packed, make_loader, packed_loader, train_transform
    from facezoo.data.loader import fits
    from facezoo.data.sources.dataset import SourceImages
    from facezoo.data.speeds import measure_speeds
    from facezoo.evaluation.embedding import device_of

    size = min(options.batch_size, len(rows))
    transform = train_transform(network.preprocessing, augment_recipe(options.augment))
    device = device_of(network.model, None)
    loader: Iterable[Any]
    if (
        is_packed(options.data)
        and fits(faces := PackedFaces(options.data, transform=transform), transform)
        and len(faces)
    ):
        size = min(size, len(faces))
        loader = packed_loader(faces, size, options.augment, device, preprocessing=network.preprocessing)
    else:
        loader = make_loader(Subset(SourceImages(source, transform), rows), size, drop_last=True)

    def start() -> Iterator[Tensor]:
        for item in loader:
            yield (item if isinstance(item, Tensor) else item[0]).to(device)

    trains = isinstance(network.model, nn.Module) and any(p.is_floating_point() for p in network.model.parameters())
    model = copy.deepcopy(network.model).train() if trains else network.model

    def step(images: Tensor) -> None:
        output = model.embed(images) if hasattr(model, "embed") else model(images)
        if trains and output.requires_grad:
            output.square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    what = "forward and backward" if trains else "forward"
    speeds = measure_speeds(start, step, seconds=options.seconds)
    say(options, f"{speeds} ({what}, batches of {size}, augmentation {options.augment})")
    return speeds
