"""The command line: parses, calls, prints. Everything it does is a function of the package."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo._version import __version__

if TYPE_CHECKING:
    from facezoo.training import TrainConfig, TrainedNetwork


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``facezoo``.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    Returns:
        The exit status: 0, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        for module in options.imports:
            importlib.import_module(module)
        options.run(options)
    except KeyboardInterrupt:
        print("facezoo: interrupted", file=sys.stderr)
        return 130
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        if options.traceback:
            raise
        number = getattr(error, "signal", None)
        print(f"facezoo: {'stopped' if number else 'error'}: {error}", file=sys.stderr)
        return 128 + number if number else 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``facezoo`` with all commands."""
    parser = argparse.ArgumentParser(prog="facezoo", description="Face-recognition model zoo for PyTorch.")
    parser.add_argument("--version", action="version", version=f"facezoo {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.add_argument(
        "--import", dest="imports", metavar="MODULE", action="append", default=[],
        help="import a package first that registers models, margins or losses of its own; may be repeated",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (add, run, help_text) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        add(command)
        command.set_defaults(run=run)
    return parser


# -- models, info, profile ----------------------------------------------------------------------------------------------------


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="wildcard, such as '*resnet*'")
    parser.add_argument("--max-params", type=number, help="only models of at most so many parameters, such as 30M")
    parser.add_argument("--num-classes", type=int, default=0, help="classes of the head that the budget must hold")
    parser.add_argument(
        "--embedding-dim", type=int, default=512, help="embedding that the budget must hold (default 512)"
    )
    parser.add_argument("--pretrained", action="store_true", help="only models that weights are registered for")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _run_models(options: argparse.Namespace) -> None:
    from facezoo.models import MODELS, list_models

    names = list_models(
        options.pattern,
        max_params=options.max_params,
        num_classes=options.num_classes,
        embedding_dim=options.embedding_dim,
        pretrained=options.pretrained,
    )
    rows: list[dict[str, Any]] = [
        {"name": name, "params": _num_params(name, options), "description": MODELS.describe(name)} for name in names
    ]
    if options.json:
        _print_json(rows)
        return
    if not rows:
        limits = (" within the budget" if options.max_params else "") + (" with weights" if options.pretrained else "")
        raise ValueError(f"no model matches {options.pattern!r}{limits}")
    width = max(len(str(row["name"])) for row in rows)
    for row in rows:
        print(f"{row['name']:<{width}}  {row['params'] / 1e6:8.2f} M  {row['description']}")


def _num_params(name: str, options: argparse.Namespace) -> int:
    import torch

    from facezoo.models import create_model

    with torch.device("meta"):
        model = create_model(name, num_classes=options.num_classes, embedding_dim=options.embedding_dim)
    return sum(parameter.numel() for parameter in model.parameters())


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name of a model")


def _run_info(options: argparse.Namespace) -> None:
    from facezoo.models import MODELS, get_model_spec
    from facezoo.weights import list_weights

    spec = get_model_spec(options.model)
    print(f"{spec.name}: {MODELS.describe(spec.name)}")
    for record in list_weights(spec.name):
        print(f"weights {record}")
    _print_json(dataclasses.asdict(spec))


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="name of a model")
    parser.add_argument("--img-size", type=int, default=112, help="side of the input, pixels (default 112)")
    parser.add_argument("--stem", default="face", help="face or imagenet (default face)")
    parser.add_argument("--num-classes", type=int, default=0, help="classes of the head (default 0: none)")
    parser.add_argument("--embedding-dim", type=int, default=512, help="dimension of the embedding (default 512)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _run_profile(options: argparse.Namespace) -> None:
    from facezoo.profile import profile_model

    profile = profile_model(
        options.model,
        img_size=options.img_size,
        stem=options.stem,
        num_classes=options.num_classes,
        embedding_dim=options.embedding_dim,
    )
    if options.json:
        _print_json(dataclasses.asdict(profile))
    else:
        print(profile)


# -- train --------------------------------------------------------------------------------------------------------------------


def _add_train(parser: argparse.ArgumentParser) -> None:
    from facezoo.training.config import TrainConfig, field_type

    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out; its settings need not be repeated"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument(
        "--config", type=Path, help="start from the settings in this JSON file; options on the command line go over it"
    )
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(TrainConfig):
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        kind = field_type(field.name)
        help_text = field.metadata["help"].replace("%", "%%")
        if field.name == "data":
            groups[group].add_argument("data", nargs="?", metavar="DATA", default=argparse.SUPPRESS, help=help_text)
            continue
        default = {} if kind is dict else field.default
        settings: dict[str, Any] = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": f"{help_text} (default: {default or 'none'})",
        }
        if kind is bool:
            settings |= {"action": argparse.BooleanOptionalAction}
        elif kind is dict:
            settings |= {"action": "extend", "nargs": "+", "metavar": "KEY=VALUE"}
        else:
            settings |= {"type": number if kind is float else kind, "metavar": kind.__name__.upper()}
        groups[group].add_argument("--" + field.name.replace("_", "-"), **settings)


def train_config(options: argparse.Namespace) -> TrainConfig:
    """The settings that ``facezoo train`` is given: defaults, under ``--config`` or the run to resume, under the options."""
    from facezoo.training.config import TrainConfig, field_type

    given = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(TrainConfig)
        if hasattr(options, field.name)
    }
    for name, value in given.items():
        if field_type(name) is dict:
            given[name] = parse_pairs(value, "--" + name.replace("_", "-"))
    base = TrainConfig()
    saved = Path(given.get("out", base.out)) / "config.json"
    if options.config is not None:
        base = TrainConfig.load(options.config)
    elif options.resume and saved.exists():
        base = TrainConfig.load(saved)
    return base.replace(**given)


def _run_train(options: argparse.Namespace) -> None:
    from facezoo.training import Trainer

    config = train_config(options)
    result = Trainer(config).fit(resume=options.resume, overwrite=options.overwrite)
    state = "finished" if result.finished else "stopped as asked, to be continued with --resume"
    print(f"{state}: {result.epochs} epochs, {result.updates} updates; run folder {result.folder}")
    if result.best is not None and result.best_value is not None:
        print(f"best: {result.best} (epoch {result.best_epoch}, by {result.best_metric})")
    print(f"last: {result.last}")


# -- evaluate, embed, verify, submit ------------------------------------------------------------------------------------------


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", help="checkpoint, run folder (then its best one), hf-hub:OWNER/NAME or local-dir:PATH"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default auto)")
    parser.add_argument("--batch-size", type=int, default=256, help="images per batch (default 256)")
    parser.add_argument("--num-workers", type=int, default=0, help="processes that read images (default 0)")
    parser.add_argument(
        "--flip", choices=("none", "sum", "concat"), default="none", help="mirror test-time augmentation (default none)"
    )


def _load(options: argparse.Namespace) -> TrainedNetwork:
    from facezoo.training import load_trained
    from facezoo.training.distributed import resolve_device

    return load_trained(options.checkpoint, resolve_device(options.device))


def _batching(options: argparse.Namespace) -> dict[str, Any]:
    return {"batch_size": options.batch_size, "num_workers": options.num_workers, "progress": sys.stderr.isatty()}


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument(
        "data", nargs="?", help="data folder: accuracy on its dev images and figures on its val_pairs.txt"
    )
    parser.add_argument("--pairs", type=Path, help="list of pairs instead of a data folder")
    parser.add_argument(
        "--image-root", type=Path, help="folder that the names in --pairs are relative to (default: beside the list)"
    )
    parser.add_argument(
        "--protocol",
        choices=("auto", "pairs", "lfw", "accuracy"),
        default="auto",
        help="pairs: lines `a b 1`; lfw: the official pairs.txt with folds; accuracy: labelled images only; auto: what there is",
    )
    parser.add_argument(
        "--split",
        choices=("dev", "test", "train"),
        default="dev",
        help="labelled images for the accuracy (default dev)",
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="write a report with plots there")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _run_evaluate(options: argparse.Namespace) -> None:
    from facezoo.evaluation import classification_accuracy, evaluate_pairs, write_report

    if (options.data is None) == (options.pairs is None):
        raise ValueError("name either a data folder or --pairs FILE")
    network = _load(options)
    verification: dict[str, Any] = {}
    classification: dict[str, Any] = {}
    pairs, labelled = _evaluation_sets(options, network)
    if labelled is not None:
        if network.head is None:
            raise ValueError(
                f"{network.path} has no class head, so there is no closed-set accuracy; use --protocol pairs"
            )
        classification[options.split] = classification_accuracy(
            network.model, labelled, head=network.head, **_batching(options)
        )
    if pairs is not None:
        verification[options.pairs.name if options.pairs else "val_pairs"] = evaluate_pairs(
            network.model, pairs, flip=options.flip, **_batching(options)
        )
    if not verification and not classification:
        raise ValueError(f"{options.data} has neither {options.split} images nor labelled pairs to evaluate on")
    if options.json:
        _print_json({name: entry.to_dict() for name, entry in {**classification, **verification}.items()})
    else:
        for name, entry in {**classification, **verification}.items():
            print(f"{name}:\n{entry}" if name in verification else f"{name} accuracy: {entry}")
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
        print(
            f"report: {report.html}" + (f" ({report.plots_missing})" if report.plots_missing else ""), file=sys.stderr
        )


def _evaluation_sets(options: argparse.Namespace, network: TrainedNetwork) -> tuple[Any, Any]:
    """The pairs and the labelled images that the options name, None for what is not wanted or not there."""
    from facezoo.data import read_lfw_pairs, read_pairs

    if options.pairs is not None:
        root = options.image_root or options.pairs.parent
        lfw = options.protocol == "lfw" or (options.protocol == "auto" and is_lfw_list(options.pairs))
        return (read_lfw_pairs if lfw else read_pairs)(options.pairs, root), None
    data = _open_data(options.data, network)
    if options.split != "train" and tuple(data.classes) != network.classes and options.protocol in ("auto", "accuracy"):
        message = (
            f"{options.data} has {len(data.classes)} classes that are not the {len(network.classes)} of {network.path}"
        )
        if options.protocol == "accuracy" or data.val_pairs is None:
            raise ValueError(f"{message}; only verification (--protocol pairs) makes sense there")
        print(f"facezoo: {message}: no closed-set accuracy", file=sys.stderr)
        return data.val_pairs, None
    labelled = getattr(data, options.split) if options.protocol in ("auto", "accuracy") else None
    pairs = data.val_pairs if options.protocol in ("auto", "pairs") else None
    return pairs, labelled


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


def is_lfw_list(path: Path) -> bool:
    """Whether the first line of a list of pairs is LFW's header: one or two numbers."""
    with path.open(encoding="utf-8") as file:
        fields = file.readline().split()
    return len(fields) in (1, 2) and all(field.isdigit() for field in fields)


def _add_embed(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument("images", nargs="+", type=Path, help="image files, or folders of them")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("embeddings.safetensors"),
        help="file to write: .safetensors, .npz or .csv (default embeddings.safetensors)",
    )


def _run_embed(options: argparse.Namespace) -> None:
    from facezoo.evaluation import embed_images
    from facezoo.training.embedding_files import list_images, write_embeddings

    paths = list_images(options.images)
    network = _load(options)
    embeddings = embed_images(network.model, [str(path) for path in paths], flip=options.flip, **_batching(options))
    write_embeddings(options.out, embeddings, [str(path) for path in paths])
    print(f"{len(paths)} embeddings of {embeddings.shape[1]} dimensions, unit length: {options.out}")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument("images", nargs=2, type=Path, metavar="IMAGE", help="two aligned face images")
    parser.add_argument(
        "--threshold", type=float, help="cosine from which two images are the same person (default: the checkpoint's)"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def _run_verify(options: argparse.Namespace) -> None:
    from facezoo.evaluation import embed_images

    network = _load(options)
    first, second = embed_images(
        network.model, [str(path) for path in options.images], flip=options.flip, **_batching(options)
    )
    cosine = float(first @ second)
    threshold, origin = options.threshold, "given with --threshold"
    if threshold is None and "threshold" in network.metrics:
        threshold, origin = network.metrics["threshold"], "best accuracy on the validation pairs of the training"
    same = None if threshold is None else cosine >= threshold
    if options.json:
        _print_json(
            {"cosine": cosine, "same": same, "threshold": threshold, "origin": None if threshold is None else origin}
        )
    elif threshold is None:
        print(f"cosine {cosine:.4f}; no decision: the checkpoint has seen no validation pairs, so give --threshold")
    else:
        print(
            f"cosine {cosine:.4f}: {'same person' if same else 'different persons'} (threshold {threshold:.4f}, {origin})"
        )


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument("data", help="data folder with test_pairs.txt (verification) or test images (classification)")
    parser.add_argument("--term", required=True, help="F24, S25, ...: decides format and header")
    parser.add_argument(
        "--task", choices=("classification", "verification", "both"), help="which file, where the term has several"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("submission.csv"), help="file to write (default submission.csv)"
    )


def _run_submit(options: argparse.Namespace) -> None:
    from facezoo.evaluation import classify_images, evaluate_pairs, submission_format, write_submission

    task = submission_format(options.term, options.task).task
    network = _load(options)
    data = _open_data(options.data, network)
    labels = scores = None
    if task in ("classification", "both"):
        if data.test is None:
            raise ValueError(f"{options.data} has no test images, which the {options.term} {task} file is about")
        labels = classify_images(network.model, data.test, head=network.head, **_batching(options))
    if task in ("verification", "both"):
        if data.test_pairs is None:
            raise ValueError(f"{options.data} has no test_pairs.txt, which the {options.term} {task} file is about")
        scores = evaluate_pairs(network.model, data.test_pairs, flip=options.flip, **_batching(options)).scores
    rows = sum(len(values) for values in (labels, scores) if values is not None)
    print(write_submission(options.out, term=options.term, task=task, labels=labels, scores=scores, expected_rows=rows))


# -- export -------------------------------------------------------------------------------------------------------------------


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("network", help="checkpoint, run folder, weight file (with --model), or name of a model")
    parser.add_argument("--out", type=Path, required=True, help="file to write: .onnx, or .pt2 (torch.export)")
    parser.add_argument("--model", help="the model that a bare weight file belongs to")
    parser.add_argument("--img-size", type=int, help="side of the images of a named model, pixels (default 112)")
    parser.add_argument(
        "--output", choices=("embedding", "logits"), default="embedding", help="what the file gives (default embedding)"
    )
    parser.add_argument("--no-fuse", action="store_true", help="keep the batch norms as they are")
    parser.add_argument("--int8", action="store_true", help="quantise to 8-bit integers (ONNX, needs --calibration)")
    parser.add_argument(
        "--calibration", nargs="+", type=Path, help="images, or folders of them, to calibrate --int8 with"
    )
    parser.add_argument("--calibration-images", type=int, default=256, help="use at most so many (default 256)")
    parser.add_argument(
        "--pairs", type=Path, help="list of pairs on which the loss of --int8 in recognition is measured"
    )
    parser.add_argument(
        "--image-root", type=Path, help="folder that the names in --pairs are relative to (default: beside the list)"
    )


def _run_export(options: argparse.Namespace) -> None:
    from facezoo.data import read_pairs
    from facezoo.deploy import ExportedNetwork, compare_recognition, export
    from facezoo.training.embedding_files import list_images

    if options.int8 != (options.calibration is not None):
        raise ValueError("--int8 and --calibration go together")
    if options.pairs is not None and not options.int8:
        raise ValueError("--pairs measures what --int8 costs; a file in float32 gives what the network gives")
    files = [str(path) for path in list_images(options.calibration)] if options.int8 else None
    pairs = None if options.pairs is None else read_pairs(options.pairs, options.image_root or options.pairs.parent)
    model = _network_to_export(options)
    print(
        export(
            model,
            options.out,
            output=options.output,
            fused=not options.no_fuse,
            calibration=files,
            calibration_images=options.calibration_images,
        )
    )
    if options.model is None and not Path(options.network).exists():
        print(f"facezoo: {options.network} has random weights: good for measuring speed, not faces", file=sys.stderr)
    if pairs is not None:
        print(compare_recognition(model, ExportedNetwork(options.out), pairs))


def _network_to_export(options: argparse.Namespace) -> Any:
    from facezoo.models import create_model, is_model, list_models
    from facezoo.registry import unknown_name_message
    from facezoo.training import load_trained

    size = {} if options.img_size is None else {"img_size": options.img_size}
    if options.model is not None:
        return create_model(options.model, checkpoint_path=options.network, **size)
    if not Path(options.network).exists():
        if not is_model(options.network):
            message = unknown_name_message("model", options.network, list_models())
            raise ValueError(f"no file {options.network}; {message}")
        return create_model(options.network, **size)
    if size:
        raise ValueError("a checkpoint knows its own image size; --img-size goes with the name of a model")
    return load_trained(options.network).model


# -- demo ---------------------------------------------------------------------------------------------------------------------


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything (default runs/demo)")
    parser.add_argument("--fast", action="store_true", help="one minute instead of several, with figures to match")


def _run_demo(options: argparse.Namespace) -> None:
    from facezoo.training.demo import run_demo

    run_demo(options.out, fast=options.fast)


# -- shared -------------------------------------------------------------------------------------------------------------------


def number(text: str) -> float:
    """A number with an optional K, M or G: ``30M`` is 30e6."""
    factors = {"K": 1e3, "M": 1e6, "G": 1e9}
    factor = factors.get(text[-1:].upper())
    try:
        return float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number (such as 0.1, 30e6, 30M)") from None


def parse_pairs(items: Sequence[str], option: str) -> dict[str, Any]:
    """``["scale=64", "gradient=exact"]``, or one JSON object, as a dictionary. Values are JSON where they can be, else strings."""
    if len(items) == 1 and items[0].lstrip().startswith("{"):
        try:
            return dict(json.loads(items[0]))
        except ValueError as error:
            raise ValueError(f"{option}: {items[0]!r} is not a JSON object: {error}") from None
    values: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ValueError(f"{option} takes KEY=VALUE (such as scale=64) or one JSON object; got {item!r}")
        try:
            values[key] = json.loads(value)
        except ValueError:
            values[key] = value
    return values


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


Adder = Callable[[argparse.ArgumentParser], None]
Runner = Callable[[argparse.Namespace], None]
_COMMANDS: dict[str, tuple[Adder, Runner, str]] = {
    "models": (_add_models, _run_models, "list models with their size"),
    "info": (_add_info, _run_info, "show what a model is built from"),
    "profile": (_add_profile, _run_profile, "count parameters and multiply-accumulates"),
    "train": (_add_train, _run_train, "train a model on a folder of faces"),
    "evaluate": (_add_evaluate, _run_evaluate, "accuracy and verification figures of a checkpoint"),
    "embed": (_add_embed, _run_embed, "embed images"),
    "verify": (_add_verify, _run_verify, "compare two images"),
    "submit": (_add_submit, _run_submit, "write a Kaggle submission"),
    "export": (_add_export, _run_export, "write a network for another runtime"),
    "demo": (_add_demo, _run_demo, "train and evaluate a small network on synthetic faces"),
}
