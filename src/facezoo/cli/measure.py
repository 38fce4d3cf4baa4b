"""Further measurements of ``facezoo evaluate``: suites, files of scores and embeddings, comparisons, degradations."""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo.cli.effects import ALL_PAIRS, SCORES, SUITE, is_embeddings, is_exported
from facezoo.cli.networks import load_network
from facezoo.cli.options import note, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from facezoo.data import PairList

_ALL_PAIRS_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
_COMMON_FARS = (1e-3, 1e-2, 1e-1)


def add_measures(parser: argparse.ArgumentParser) -> None:
    """Declare the options of these measurements."""
    network = next(action for action in parser._actions if action.dest == "network")
    network.nargs, network.required = "?", False  # --scores needs none
    network.help = f"{network.help}, exported file, or file of embeddings (.npz, .safetensors, .parquet) for --pairs"
    parser.add_argument("--suite", type=Path, metavar="DIR", help="run every protocol whose data are in this folder")
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="CSV",
        help="figures of scores in a file: columns score, label, fold; with a column group also error rates by group",
    )
    parser.add_argument(
        "--against",
        metavar="NETWORK",
        action="append",
        help="with --pairs: another network, compared on the same pairs (may be given several times)",
    )
    parser.add_argument(
        "--robustness", action="store_true", help="with --pairs: EER under blur, noise, JPEG, ... by strength"
    )
    parser.add_argument(
        "--quality",
        action="store_true",
        help="with --pairs: does the network know which images are bad? FRR as the worst pairs are thrown away",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="PNG",
        help="with --robustness or --quality: write a plot, also for the networks of --against",
    )
    parser.add_argument(
        "--all-pairs",
        action="store_true",
        help="with a file of embeddings: figures of every pair in it; names say who is on the images (a folder per person, or "
        "Ann_0001.jpg); under torchrun the ranks share the work",
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="with --all-pairs: keep the counts there, and go on where they ended",
    )
    parser.add_argument(
        "--out", type=Path, metavar="CSV", help="with --pairs: write the scores, also for lists without labels"
    )


def run_measure(options: argparse.Namespace, asked: str) -> None:
    """Run the requested measurement, see :func:`facezoo.cli.effects.measurement`."""
    if asked == SCORES:
        _run_scores(options)
        return
    if options.network is None:
        raise ValueError("name a network (or --scores FILE)")
    {SUITE: _run_suite, ALL_PAIRS: _run_all_pairs}.get(asked, _run_pairs)(options)


def listed_pairs(options: argparse.Namespace) -> PairList:
    """The pairs of ``--pairs``."""
    from facezoo.data import read_lfw_pairs, read_pairs
    from facezoo.evaluation.inputs import is_source_file, open_pairs

    if options.protocol not in ("lfw", "pairs") or is_source_file(options.pairs):
        return open_pairs(options.pairs, options.image_root)
    read = read_lfw_pairs if options.protocol == "lfw" else read_pairs
    return read(options.pairs, options.image_root or options.pairs.parent)


def _run_scores(options: argparse.Namespace) -> None:
    from facezoo.evaluation import kfold_accuracy, verification_metrics
    from facezoo.evaluation.inputs import read_scores
    from facezoo.evaluation.protocols.groups import group_errors

    scored = read_scores(options.scores)
    if scored.labels is None:
        raise ValueError(f"{options.scores} has no column label, so there are no figures")
    metrics = verification_metrics(scored.scores, scored.labels)
    kfold = None if scored.folds is None else kfold_accuracy(scored.scores, scored.labels, scored.folds)
    groups = None
    if scored.groups is not None:
        far = _common_far(metrics.num_impostor)
        groups = group_errors(scored.scores, scored.labels, scored.groups, far=far)
    if options.json:
        found = {"metrics": metrics.to_dict(), "kfold": kfold and kfold.to_dict()}
        print_json(found if groups is None else {**found, "groups": groups.to_dict()})
        return
    print(metrics)
    if kfold is not None:
        print(f"{len(kfold.per_fold)}-fold accuracy  {kfold}")
    if groups is not None:
        print(groups)


def _common_far(impostors: int) -> float:
    """The lowest FAR whose threshold at least ten false accepts determine; the highest one if there are too few pairs."""
    return next((far for far in _COMMON_FARS if far * impostors >= 10), _COMMON_FARS[-1])


def _run_suite(options: argparse.Namespace) -> None:
    from facezoo.data import DataError
    from facezoo.evaluation.protocols import PROTOCOLS, find_protocols, run_protocol, suite_table

    found = find_protocols(options.suite)
    if not found:
        raise ValueError(f"{options.suite} does not hold the data of a protocol; known: {', '.join(PROTOCOLS.list())}")
    model = _model(options, options.network)
    results, failed = [], []
    for name, place in found.items():
        note(options, f"{PROTOCOLS[name].title}: {place} ({PROTOCOLS[name].measured})")
        try:
            result = run_protocol(
                name, place, model, flip=None if options.flip == "none" else options.flip, batch_size=options.batch_size,
                num_workers=options.num_workers, progress=sys.stderr.isatty() and not options.quiet,
            )  # fmt: skip
        except (DataError, FileNotFoundError) as error:  # the others are measured all the same
            failed.append(f"{PROTOCOLS[name].title} was not measured: {error}")
            note(options, failed[-1])
            continue
        results.append(result)
        if not options.json:
            print(f"{result.text}\n")
    if options.json:
        print_json({result.name: {result.headline: result.value, **result.figures} for result in results})
    elif results:
        print(suite_table(results))
    if failed:
        raise ValueError("; ".join(failed))


def _run_pairs(options: argparse.Namespace) -> None:
    from facezoo.evaluation import kfold_accuracy, verification_metrics
    from facezoo.evaluation.clusters import people_of
    from facezoo.evaluation.comparison import compare_scores
    from facezoo.evaluation.inputs import score_rows
    from facezoo.files import write_atomic

    pairs = listed_pairs(options)
    if options.robustness:
        _run_robustness(options, pairs)
        return
    if options.quality:
        _run_quality(options, pairs)
        return
    if pairs.labels is None and (options.out is None or options.against):
        raise ValueError(f"{options.pairs} has no labels: write the scores with --out FILE and without --against")
    scores = _scores(options, options.network, pairs)
    if options.out is not None:
        write_atomic(options.out, score_rows(pairs, scores))
        note(options, f"{len(pairs)} scores: {options.out}")
    if pairs.labels is None:
        if options.json:
            print_json({"pairs": len(pairs), "file": options.out})
        return
    people = people_of(pairs)
    if options.against:
        others = {name: _scores(options, name, pairs) for name in options.against}
        found = {name: compare_scores(scores, other, pairs.labels, people=people) for name, other in others.items()}
        if options.json:
            several = {name: comparison.to_dict() for name, comparison in found.items()}
            print_json(several if len(several) > 1 else next(iter(several.values())))
            return
        for name, comparison in found.items():
            print(f"{options.network} against {name}:\n{comparison}" if len(found) > 1 else comparison)
        return
    metrics = verification_metrics(scores, pairs.labels, people=people)
    kfold = None if pairs.folds is None else kfold_accuracy(scores, pairs.labels, pairs.folds)
    if options.json:
        print_json({options.pairs.name: {"metrics": metrics.to_dict(), "kfold": kfold and kfold.to_dict()}})
        return
    print(f"{options.pairs.name}:\n{metrics}")
    if kfold is not None:
        print(f"{len(kfold.per_fold)}-fold accuracy  {kfold}")


def _run_robustness(options: argparse.Namespace, pairs: PairList) -> None:
    from facezoo.evaluation import figure_png, plot_robustness
    from facezoo.evaluation.plots import require_matplotlib
    from facezoo.evaluation.robustness import measure_robustness
    from facezoo.files import write_atomic

    if options.plot is not None:
        require_matplotlib()  # before the work, not after it
    networks = [options.network, *(options.against or ())]
    tables = {
        name: measure_robustness(
            _model(options, name), pairs, flip=options.flip, batch_size=options.batch_size, num_workers=options.num_workers
        )
        for name in networks
    }  # fmt: skip
    if options.plot is not None:
        write_atomic(options.plot, figure_png(plot_robustness(tables)))
        note(options, f"{options.plot}")
    if options.json:
        several = {name: table.to_dict() for name, table in tables.items()}
        print_json(several if len(several) > 1 else next(iter(several.values())))
        return
    for name, table in tables.items():
        print(f"{name}\n{table}" if len(tables) > 1 else table)


def _run_quality(options: argparse.Namespace, pairs: PairList) -> None:
    import torch
    from torch.nn.functional import normalize

    from facezoo.evaluation import embed_images, figure_png, pair_scores, plot_discard
    from facezoo.evaluation.embedding import default_transform, with_mirrored
    from facezoo.evaluation.plots import require_matplotlib
    from facezoo.evaluation.quality import discard_table, error_versus_discard, quality_of
    from facezoo.files import write_atomic

    if pairs.labels is None:
        raise ValueError(f"{options.pairs} has no labels, so it does not say which pairs are rejected wrongly")
    if options.plot is not None:
        require_matplotlib()
    networks = [options.network, *(options.against or ())]
    far = _common_far(int((~pairs.labels).sum()))
    found = {}
    for network in networks:
        if is_embeddings(network):
            raise ValueError(f"{network} holds embeddings; the quality of an image is judged by its network: name that")
        model = _model(options, network)
        both = embed_images(
            model, pairs.images(default_transform(model)), flip="concat", normalize=False, batch_size=options.batch_size,
            num_workers=options.num_workers, progress=sys.stderr.isatty() and not options.quiet,
        )  # fmt: skip
        plain, mirrored = both.chunk(2, dim=1)
        used = normalize(with_mirrored(plain, mirrored, options.flip), dim=1)
        scores = pair_scores(used, pairs.left, pairs.right)
        worth = quality_of(both).of_pairs(pairs.left, pairs.right)
        worth["by lot"] = torch.rand(len(scores), generator=torch.Generator().manual_seed(0))
        found[network] = {
            name: error_versus_discard(scores, pairs.labels, values, far=far) for name, values in worth.items()
        }
    if options.plot is not None:
        curves = {
            f"{network}: {name}" if len(found) > 1 else name: curve
            for network, entries in found.items()
            for name, curve in entries.items()
        }
        write_atomic(options.plot, figure_png(plot_discard(curves)))
        note(options, f"{options.plot}")
    if options.json:
        several = {
            network: {name: one.to_dict() for name, one in entries.items()} for network, entries in found.items()
        }
        print_json(several if len(several) > 1 else next(iter(several.values())))
        return
    for network, entries in found.items():
        print(f"{network}\n{discard_table(entries)}" if len(found) > 1 else discard_table(entries))


def _run_all_pairs(options: argparse.Namespace) -> None:
    import torch

    from facezoo.evaluation.all_pairs import all_pairs, count_pairs
    from facezoo.evaluation.inputs import people_of_names, read_embeddings
    from facezoo.evaluation.streaming import streamed_figures
    from facezoo.training import join_distributed

    if not options.all_pairs or not is_embeddings(options.network):
        raise ValueError(
            "--all-pairs goes with a file of embeddings (.npz, .safetensors, .parquet; facezoo embed writes one), and --resume "
            "with --all-pairs"
        )
    embeddings, names = read_embeddings(options.network)
    who, origin = people_of_names(names)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(who))}
    with join_distributed(options.device) as process:
        rows = torch.nn.functional.normalize(embeddings, dim=1).to(process.device)
        people = torch.tensor([numbers[name] for name in who], device=process.device)
        part, parts = process.rank, process.world_size
        resume = options.resume
        if resume is not None and parts > 1:
            resume = resume.with_name(f"{resume.name}.{part}")
        watched = part == 0 and sys.stderr.isatty() and not options.quiet
        counts = count_pairs(rows, people, part=part, parts=parts, resume=resume, progress=watched)
        figures = streamed_figures(
            lambda: all_pairs(rows, people, part=part, parts=parts, reuse=True),
            fars=_ALL_PAIRS_FARS, histogram=counts, over_ranks=True,
        )  # fmt: skip
        if part > 0:
            return
    if options.json:
        print_json({"images": len(names), "people": len(numbers), "people_by": origin, **figures.to_dict()})
        return
    print(f"{len(names):,} images of {len(numbers):,} people, by {origin}\n{figures}")


def _scores(options: argparse.Namespace, network: str, pairs: PairList) -> Tensor:
    from torch.nn.functional import normalize

    from facezoo.evaluation import embed_images, pair_scores
    from facezoo.evaluation.embedding import default_transform
    from facezoo.evaluation.inputs import read_embeddings, rows_of

    if is_embeddings(network):
        embeddings = normalize(rows_of(pairs.paths, *read_embeddings(network)), dim=1)
    else:
        model = _model(options, network)
        embeddings = embed_images(
            model, pairs.images(default_transform(model)), flip=options.flip, batch_size=options.batch_size,
            num_workers=options.num_workers, progress=sys.stderr.isatty() and not options.quiet,
        )  # fmt: skip
    return pair_scores(embeddings, pairs.left, pairs.right)


def _model(options: argparse.Namespace, network: str) -> Any:
    """The network, or an exported file, as a callable with its preprocessing."""
    if is_exported(network):
        from facezoo.deploy import ExportedNetwork

        return ExportedNetwork(network)
    named = copy.copy(options)
    named.network = network
    return load_network(named, options.device).model
