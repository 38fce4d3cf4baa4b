"""``facezoo gallery`` and ``identify``: identify the people on photos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo.cli.alignment import add_alignment, embed_photos
from facezoo.cli.foreign import add_foreign
from facezoo.cli.options import add_output, chance, note, print_json

_COMPARED = 200  # photos whose exact search says what FAISS misses

if TYPE_CHECKING:
    from torch import Tensor

    from facezoo.evaluation.gallery import Gallery, Identification
    from facezoo.training import TrainedNetwork


def add_gallery(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo gallery``."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="build a gallery from a folder with one folder of photos per person")
    build.add_argument(
        "folder",
        type=Path,
        help="folder/<person>/*.jpg, aligned faces, or see --align; or a packed folder, record file, ...",
    )
    _add_split(build)
    build.add_argument("--out", type=Path, required=True, metavar="GALLERY", help="file to write (.safetensors)")
    build.add_argument("--flip", choices=("none", "sum", "concat"), help="mirror augmentation (default: the network's)")
    _add_network(build, required=True)
    add = actions.add_parser("add", help="add a person, or more photos of a person")
    add.add_argument("gallery", type=Path, help="a gallery")
    add.add_argument("person", help="name of the person")
    add.add_argument("images", nargs="+", type=Path, help="aligned photos, or folders of them; or see --align")
    _add_network(add)
    remove = actions.add_parser("remove", help="remove a person")
    remove.add_argument("gallery", type=Path, help="a gallery")
    remove.add_argument("person", help="name of the person")
    show = actions.add_parser("list", help="list the people in a gallery")
    show.add_argument("gallery", type=Path, help="a gallery")
    test = actions.add_parser(
        "test", help="rank-k and TPIR at an FPIR on photos of people, some of them not in the gallery"
    )
    test.add_argument("gallery", type=Path, help="a gallery")
    test.add_argument(
        "folder", type=Path, help="folder/<person>/*.jpg; people who are not in the gallery are strangers"
    )
    _add_split(test)
    test.add_argument(
        "--fpir",
        type=float,
        nargs="+",
        default=[0.01, 0.1],
        help="false positive identification rates: fractions of strangers who get a name",
    )
    _add_network(test)
    for action in (build, add, remove, show, test):
        add_output(action)


def _add_split(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--split", choices=("train", "dev", "test"), help="split of a packed folder (default: all images)"
    )


def _add_network(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    again = "" if required else " (default: the network that the gallery was built with)"
    parser.add_argument(
        "--network", required=required, help=f"run folder, checkpoint, hf-hub:OWNER/NAME, local-dir:PATH, model{again}"
    )
    parser.add_argument("--model", help="the model that a bare weight file belongs to")
    parser.add_argument("--pretrained", metavar="TAG", help="weights that are registered for a model")
    add_foreign(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--batch-size", type=int, help="images per batch (default: 16 on a CPU, else 256)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images")
    add_alignment(parser)


def run_gallery(options: argparse.Namespace) -> None:
    """Build, change, show or test a gallery."""
    {"build": _build, "add": _add, "remove": _remove, "list": _list, "test": _test}[options.action](options)


def _build(options: argparse.Namespace) -> None:
    from facezoo.evaluation.calibration import Calibration, find_calibration, network_fingerprint
    from facezoo.evaluation.gallery import Gallery

    network = _load(options)
    found = find_calibration(network.path)
    calibration = None if found is None else Calibration.load(found)
    if options.flip is None:
        options.flip = calibration.flip if calibration is not None else network.preprocessing.flip
    people = _people(options, network, options.folder, options.flip)
    width = next(iter(people.values())).shape[1]
    gallery = Gallery.empty(
        width,
        source=str(options.network) if options.pretrained is None else f"{options.network}.{options.pretrained}",
        network=network_fingerprint(network.model),
        flip=options.flip,
        calibration=calibration if calibration is not None and calibration.flip == options.flip else None,
    ).add(people)
    gallery.save(options.out)
    note(options, f"{options.out}: {_size(gallery)}")


def _add(options: argparse.Namespace) -> None:
    from facezoo.evaluation.gallery import Gallery

    gallery = Gallery.load(options.gallery)
    network = _same_network(options, gallery)
    _, embeddings, _ = _embed(options, network, options.images, gallery.flip)
    gallery = gallery.add({options.person: embeddings})
    gallery.save(options.gallery)
    note(options, f"{options.gallery}: {options.person} with {len(embeddings)} photos; {_size(gallery)}")


def _remove(options: argparse.Namespace) -> None:
    from facezoo.evaluation.gallery import Gallery

    gallery = Gallery.load(options.gallery).remove(options.person)
    gallery.save(options.gallery)
    note(options, f"{options.gallery}: without {options.person}; {_size(gallery)}")


def _list(options: argparse.Namespace) -> None:
    from facezoo.evaluation.gallery import Gallery

    gallery = Gallery.load(options.gallery)
    photos = dict(zip(gallery.names, gallery.counts.tolist(), strict=True))
    if options.json:
        print_json({"network": gallery.source, "flip": gallery.flip, "people": photos})
        return
    print(f"{_size(gallery)}; network {gallery.source}, flip {gallery.flip}")
    for name, count in photos.items():
        print(f"{count:6}  {name}")


def _test(options: argparse.Namespace) -> None:
    from facezoo.evaluation.gallery import Gallery, GalleryError
    from facezoo.evaluation.identification import identification_metrics, search_gallery

    gallery = Gallery.load(options.gallery)
    network = _same_network(options, gallery)
    people = _people(options, network, options.folder, gallery.flip)
    names = [name for name, rows in people.items() for _ in range(len(rows))]
    import torch

    searches = search_gallery(torch.cat(list(people.values())), names, gallery.templates, gallery.names)
    metrics = identification_metrics(searches, fpirs=options.fpir)
    chosen = {}
    for fpir in options.fpir:
        try:
            chosen[fpir] = gallery.threshold(fpir)
        except GalleryError as error:
            print(f"facezoo: {error}", file=sys.stderr)
    at_chosen = {fpir: searches.at_threshold(limit) for fpir, limit in chosen.items()}
    if options.json:
        print_json(
            {
                "metrics": metrics.to_dict(),
                "at_own_threshold": {
                    str(fpir): {"threshold": chosen[fpir], **rates.to_dict()} for fpir, rates in at_chosen.items()
                },
            }
        )
        return
    print(metrics)
    for fpir, rates in at_chosen.items():
        print(f"threshold {chosen[fpir]:.6f}, from the gallery's own photos for FPIR {fpir:g}: {rates}")


def add_identify(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo identify``."""
    parser.add_argument("gallery", type=Path, help="a gallery, see facezoo gallery build")
    parser.add_argument("images", nargs="+", type=Path, help="aligned photos, or folders of them; or see --align")
    parser.add_argument("--top", type=int, default=3, help="candidates to show")
    parser.add_argument(
        "--fpir",
        type=float,
        default=0.01,
        help="fraction of strangers who may get a name, in a gallery of this size",
    )
    parser.add_argument("--threshold", type=float, help="cosine threshold to name a person, instead of --fpir")
    parser.add_argument(
        "--prior",
        type=float,
        default=0.5,
        help="prior probability that the person is in the gallery",
    )
    parser.add_argument("--engine", choices=("exact", "faiss"), default="exact", help="search")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="CSV",
        help="write one row per photo and candidate; for a photo left out, one row with the reason",
    )
    _add_network(parser)


def run_identify(options: argparse.Namespace) -> None:
    """Print the person on each photo."""
    from facezoo.evaluation.gallery import Gallery

    gallery = Gallery.load(options.gallery)
    if options.threshold is not None and not -1 <= options.threshold <= 1:
        raise ValueError(f"--threshold is a cosine from -1 to 1, got {options.threshold}")
    if not 0 < options.prior < 1:
        raise ValueError(f"--prior is a probability between 0 and 1, got {options.prior}")
    if options.threshold is None:
        gallery.threshold(options.fpir)  # raises before photos are read
    network = _same_network(options, gallery)
    paths, embeddings, left_out = _embed(options, network, options.images, gallery.flip)
    answers = gallery.identify(
        embeddings,
        top=options.top,
        fpir=options.fpir,
        threshold=options.threshold,
        prior=options.prior,
        engine=options.engine,
    )
    if options.engine == "faiss":
        _say_recall(options, gallery, embeddings[:_COMPARED], answers)
    if options.out is not None:
        _write_csv(options.out, paths, answers, left_out)
    if options.json:
        found = [{"photo": str(path), **answer.to_dict()} for path, answer in zip(paths, answers, strict=True)]
        print_json([*found, *({"photo": str(path), "error": reason} for path, reason in left_out.items())])
    elif options.out is None:
        for path, answer in zip(paths, answers, strict=True):
            print(f"{path}: {_in_words(answer)}")


def _say_recall(
    options: argparse.Namespace, gallery: Gallery, embeddings: Tensor, answers: list[Identification]
) -> None:
    """How many of the nearest the graph has found, beside the exact search of the same photos."""
    exact = gallery.identify(embeddings, top=options.top, threshold=1.0)
    pairs = list(zip(exact, answers, strict=False))
    right = sum(len({one.name for one in a.candidates} & {one.name for one in b.candidates}) for a, b in pairs)
    total = sum(len(answer.candidates) for answer, _ in pairs)
    note(options, f"FAISS found {right} of the {total} nearest of {len(pairs)} photos")


def _in_words(answer: Identification) -> str:
    shown = ", ".join(
        f"{one.name} (cosine {one.cosine:.4f}"
        + (")" if one.probability is None else f", probability {chance(one.probability)})")
        for one in answer.candidates
    )
    if answer.name is None:
        return f"unknown; nearest: {shown} (threshold {answer.threshold:.6f})"
    return f"{shown} (threshold {answer.threshold:.6f})"


def _write_csv(path: Path, photos: list[Path], answers: list[Identification], left_out: dict[Path, str]) -> None:
    from facezoo.columns import csv_text
    from facezoo.files import write_atomic

    rows: list[list[object]] = [
        ["photo", "identity", "rank", "candidate", "cosine", "probability", "threshold", "error"]
    ]
    for photo, answer in zip(photos, answers, strict=True):
        for rank, one in enumerate(answer.candidates, start=1):
            probability = "" if one.probability is None else repr(one.probability)
            rows.append(
                [photo, answer.name or "", rank, one.name, repr(one.cosine), probability, repr(answer.threshold), ""]
            )
    rows.extend([photo, "", "", "", "", "", "", reason] for photo, reason in left_out.items())
    write_atomic(path, csv_text(rows))


# -- networks and photos ------------------------------------------------------------------------------------------------------


def _load(options: argparse.Namespace) -> TrainedNetwork:
    from facezoo.cli.networks import load_network

    return load_network(options, options.device)


def _same_network(options: argparse.Namespace, gallery: Gallery) -> TrainedNetwork:
    """The gallery's network. Raises ValueError if the given network is another one."""
    from facezoo.evaluation.calibration import network_fingerprint

    if options.network is None:
        options.network = gallery.source
        try:
            network = _load(options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the network {gallery.source}, with which {options.gallery} was built, cannot be opened: give --network and the "
                f"other options of that time, such as --model ({error})"
            ) from error
    else:
        network = _load(options)
    if gallery.network is not None and network_fingerprint(network.model) != gallery.network:
        raise ValueError(
            f"{options.network} is not the network that {options.gallery} was built with ({gallery.source}): its weights differ, "
            "and embeddings of two networks cannot be compared; build the gallery anew"
        )
    return network


def _embed(
    options: argparse.Namespace, network: TrainedNetwork, images: list[Path], flip: Any
) -> tuple[list[Path], Tensor, dict[Path, str]]:
    return embed_photos(
        options, network, images, flip=flip, batch_size=options.batch_size, num_workers=options.num_workers,
        progress=_watched(options),
    )  # fmt: skip


def _people(options: argparse.Namespace, network: TrainedNetwork, place: Path, flip: Any) -> dict[str, Tensor]:
    """Embeddings by person, from a folder with one folder per person, or from a packed folder, record file, ..."""
    from torch.utils.data import Subset

    from facezoo.data import ImageFolder
    from facezoo.data.errors import first_few
    from facezoo.data.sources.dataset import SourceImages
    from facezoo.data.sources.source import SOURCES, open_source
    from facezoo.evaluation import embed_images
    from facezoo.evaluation.embedding import default_transform
    from facezoo.evaluation.gallery import rows_by_person

    others = [SOURCES[name] for name in SOURCES.list() if name not in ("folder", "layout")]
    if not place.is_file() and not any(kind.recognizes(place) for kind in others):
        if options.split is not None:
            raise ValueError(f"{place} is a folder of people, which has no splits; --split is for packed folders")
        photos = ImageFolder(place)
        owner = {path: photos.classes[label] for path, label in photos.samples}
        paths, embeddings, _ = _embed(options, network, list(owner), flip)
        people = rows_by_person(embeddings, [owner[path] for path in paths])
        if missing := [name for name in photos.classes if name not in people]:
            print(f"facezoo: warning: no photo is left of {len(missing)} people: {first_few(missing)}", file=sys.stderr)
        return people
    source = open_source(place)
    rows = [
        row
        for row, (label, split) in enumerate(zip(source.labels.tolist(), source.splits, strict=True))
        if label >= 0 and options.split in (None, split)
    ]
    if not rows:
        raise ValueError(f"{place} has no labeled images" + (f" in the split {options.split}" if options.split else ""))
    embeddings = embed_images(
        network.model, Subset(SourceImages(source, default_transform(network.model)), rows), flip=flip,
        batch_size=options.batch_size, num_workers=options.num_workers, progress=_watched(options),
    )  # fmt: skip
    return rows_by_person(embeddings, [source.identities[source.labels[row]] for row in rows])


def _watched(options: argparse.Namespace) -> bool:
    return sys.stderr.isatty() and not options.quiet


def _size(gallery: Gallery) -> str:
    return f"{len(gallery):,} people, {int(gallery.counts.sum()):,} photos"
