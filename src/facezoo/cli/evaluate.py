"""``facezoo evaluate``, ``embed`` and ``submit``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo._version import __version__
from facezoo.cli.alignment import add_alignment, embed_photos
from facezoo.cli.effects import FOLDERS, PAIRS, refuse_options_without_effect
from facezoo.cli.measure import add_measures, listed_pairs, run_measure
from facezoo.cli.networks import add_source, load_network
from facezoo.cli.options import note, print_json, progress_wanted

if TYPE_CHECKING:
    from facezoo.deploy import TrainedNetwork


def _add_network(parser: argparse.ArgumentParser) -> None:
    add_source(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--batch-size", type=int, help="images per batch (default: 16 on a CPU, else 256)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images")
    parser.add_argument(
        "--flip", choices=("none", "sum", "concat"), default="none", help="mirror test-time augmentation"
    )


def _load(options: argparse.Namespace) -> TrainedNetwork:
    return load_network(options, options.device)


def _batching(options: argparse.Namespace) -> dict[str, Any]:
    return {"batch_size": options.batch_size, "num_workers": options.num_workers, "progress": progress_wanted(options)}


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo evaluate``."""
    _add_network(parser)
    parser.add_argument(
        "data", nargs="?", help="data folder: accuracy on its dev images and figures on its val_pairs.txt"
    )
    parser.add_argument(
        "--pairs", type=Path, help="list of pairs instead of a data folder, or lfw.bin, parquet, ... with pairs inside"
    )
    parser.add_argument(
        "--image-root", type=Path, help="folder that the names in --pairs are relative to (default: beside the list)"
    )
    parser.add_argument(
        "--protocol",
        choices=("auto", "pairs", "lfw", "accuracy"),
        default="auto",
        help="pairs: lines `a b 1`; lfw: the official pairs.txt with folds; accuracy: labeled images only; auto: what there is",
    )
    parser.add_argument(
        "--split",
        choices=("dev", "test", "train"),
        default="dev",
        help="labeled images for the accuracy",
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a report with plots there")
    add_measures(parser)


def run_evaluate(options: argparse.Namespace) -> None:
    """Print figures, and write a report if requested."""
    from facezoo.evaluation import classification_accuracy, evaluate_pairs, write_report

    parser = argparse.ArgumentParser()
    add_evaluate(parser)
    asked = refuse_options_without_effect(options, parser)
    if asked != PAIRS and asked not in FOLDERS:
        run_measure(options, asked)
        return
    if options.network is None or (options.data is None) == (options.pairs is None):
        raise ValueError("name a network, and either a data folder or --pairs FILE")
    network = _load(options)
    verification: dict[str, Any] = {}
    classification: dict[str, Any] = {}
    pairs, labeled = _evaluation_sets(options, network)
    if labeled is not None:
        _require_head(network, "there is no closed-set accuracy; use --protocol pairs")
        classification[options.split] = classification_accuracy(
            network.model, labeled, head=network.head, **_batching(options)
        )
    if pairs is not None:
        inside = options.data if pairs.source is not None else "val_pairs"
        verification[Path(options.pairs or inside).name] = evaluate_pairs(
            network.model, pairs, flip=options.flip, **_batching(options)
        )
    if not verification and not classification:
        raise ValueError(f"{options.data} has neither {options.split} images nor labeled pairs to evaluate on")
    if options.json:
        print_json({name: entry.to_dict() for name, entry in {**classification, **verification}.items()})
    else:
        for name, entry in {**classification, **verification}.items():
            print(f"{name}:\n{entry}" if name in verification else f"{name} accuracy: {entry}")
        if any(entry.metrics is None for entry in verification.values()):
            note(options, "the pairs have no labels: --out FILE writes their scores")
    if options.report is not None:
        log = network.path.parent / "epochs.csv"
        report = write_report(
            options.report,
            title=f"{network.path.parent.name}: {network.path.name}",
            facts=_facts(network),
            verification=verification,
            classification=classification,
            training_log=log if log.exists() else None,
        )
        if not options.quiet:
            missing = f" ({report.plots_missing})" if report.plots_missing else ""
            print(f"report: {report.html}{missing}", file=sys.stderr)


def _require_head(network: TrainedNetwork, consequence: str) -> None:
    if network.head is None:
        raise ValueError(f"{network.path} has no class head, so {consequence}")


def _other_classes(options: argparse.Namespace, data: Any, network: TrainedNetwork) -> str | None:
    """The message that the folder's people are not the network's, if they are not."""
    if tuple(data.classes) == network.classes:
        return None
    return f"{options.data} has {len(data.classes)} classes that are not the {len(network.classes)} of {network.path}"


def _evaluation_sets(options: argparse.Namespace, network: TrainedNetwork) -> tuple[Any, Any]:
    """The pairs and the labeled images named by the options; None for those that are not requested or do not exist."""
    from facezoo.evaluation.inputs import open_test_set

    if options.pairs is not None:
        return listed_pairs(options), None
    if (pairs := open_test_set(options.data)) is not None:
        return pairs, None
    data = _open_data(options.data, network)
    message = _other_classes(options, data, network)
    if options.split != "train" and message and options.protocol in ("auto", "accuracy"):
        if options.protocol == "accuracy" or data.val_pairs is None:
            raise ValueError(f"{message}; only verification (--protocol pairs) makes sense there")
        print(f"facezoo: {message}: no closed-set accuracy", file=sys.stderr)
        return data.val_pairs, None
    labeled = getattr(data, options.split) if options.protocol in ("auto", "accuracy") else None
    pairs = data.val_pairs if options.protocol in ("auto", "pairs") else None
    return pairs, labeled


def _open_data(root: str, network: TrainedNetwork) -> Any:
    from facezoo.data import eval_transform, open_face_data

    transform = eval_transform(network.preprocessing)
    return open_face_data(root, train_transform=transform, eval_transform=transform)


def _facts(network: TrainedNetwork) -> dict[str, object]:
    parameters = sum(p.numel() for part in (network.model, network.head) if part is not None for p in part.parameters())
    return {
        "checkpoint": str(network.path),
        "model": network.model.config["name"],
        "head": getattr(network.head, "name", type(network.head).__name__),
        "parameters, head counted": parameters,
        "classes": len(network.classes),
        "facezoo": __version__,
    }


def add_embed(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo embed``."""
    _add_network(parser)
    parser.add_argument(
        "images", nargs="+", type=Path, help="image files of aligned faces, or folders of them; or see --align"
    )
    add_alignment(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("embeddings.safetensors"),
        help="file to write: .safetensors, .npz or .csv",
    )


def run_embed(options: argparse.Namespace) -> None:
    """Write one embedding per image."""
    from facezoo.cli.embedding_files import check_suffix, write_embeddings

    check_suffix(options.out)  # before the work, not after it
    network = _load(options)
    paths, embeddings, left_out = embed_photos(
        options, network, options.images, flip=options.flip, **_batching(options)
    )
    write_embeddings(options.out, embeddings, [str(path) for path in paths])
    if options.json:
        missing = {str(path): reason for path, reason in left_out.items()}
        print_json({"file": options.out, "images": len(paths), "dimensions": embeddings.shape[1], "left_out": missing})
    note(options, f"{len(paths)} embeddings of {embeddings.shape[1]} dimensions, unit length: {options.out}")


def add_submit(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo submit``."""
    _add_network(parser)
    parser.add_argument("data", help="data folder with test_pairs.txt (verification) or test images (classification)")
    parser.add_argument("--term", required=True, help="F24, S25, ...: determines format and header")
    parser.add_argument(
        "--task",
        choices=("classification", "verification", "gallery", "both"),
        help="the file's task, if the term has several files",
    )
    parser.add_argument("--out", type=Path, default=Path("submission.csv"), help="file to write")
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="rows the file must have (default: the term's official number, such as 5,000)",
    )


def run_submit(options: argparse.Namespace) -> None:
    """Write a submission for the term's competition."""
    from facezoo.courses import submission_format, write_submission
    from facezoo.evaluation import classify_images, evaluate_pairs

    entry = submission_format(options.term, options.task)
    task = entry.task
    network = _load(options)
    if task == "gallery":
        _submit_gallery(options, network)
        return
    data = _open_data(options.data, network)
    labels = scores = None
    if task in ("classification", "both"):
        if data.test is None:
            raise ValueError(f"{options.data} has no test images, which the {options.term} {task} file is about")
        _require_head(network, f"it cannot say the classes that the {options.term} {task} file is about")
        if message := _other_classes(options, data, network):
            raise ValueError(f"{message}; a submission's labels are the positions of the classes in {options.data}")
        labels = classify_images(network.model, data.test, head=network.head, **_batching(options))
    if task in ("verification", "both"):
        if data.test_pairs is None:
            raise ValueError(f"{options.data} has no test_pairs.txt, which the {options.term} {task} file is about")
        scores = evaluate_pairs(network.model, data.test_pairs, flip=options.flip, **_batching(options)).scores
    names = entry.ids == "file" and data.test is not None
    check = write_submission(
        options.out,
        term=options.term,
        task=task,
        labels=labels,
        scores=scores,
        ids=[path.name for path in data.test.paths] if names and hasattr(data.test, "paths") else None,
        expected_rows=options.rows,
    )
    if options.json:
        print_json(dataclasses.asdict(check))
    note(options, str(check))


def _submit_gallery(options: argparse.Namespace, network: TrainedNetwork) -> None:
    from facezoo.courses import write_submission
    from facezoo.courses.gallery import answer_gallery, gallery_folder
    from facezoo.evaluation import embed_images

    answers = answer_gallery(
        lambda paths: embed_images(network.model, list(paths), flip=options.flip, **_batching(options)),
        gallery_folder(options.data),
    )
    check = write_submission(
        options.out, term=options.term, task="gallery", identities=answers.identities, expected_rows=options.rows
    )
    if answers.threshold is None:
        note(options, "no unknown_dev/ to choose a threshold by: everybody is named")
    else:
        note(
            options,
            f"threshold {answers.threshold:.6f}, accuracy on unknown_dev {(answers.dev_accuracy or 0) * 100:.2f} %",
        )
    if options.json:
        print_json(dataclasses.asdict(check))
    note(options, str(check))
