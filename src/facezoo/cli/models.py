"""``facezoo models``, ``info`` and ``profile``: list and describe models."""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import sys
from typing import TYPE_CHECKING, Any

from facezoo.cli.options import at_least, image_size, number, print_json
from facezoo.cli.table import Row, count_row, read_table
from facezoo.columns import aligned

if TYPE_CHECKING:
    from facezoo.models import ModelSpec
    from facezoo.profile import ModelProfile
    from facezoo.weights import ReportedFigure, WeightsRecord

# The two forms in which `info` shows a network: arguments of profile_model.
_FORMS: dict[str, dict[str, Any]] = {
    "face": {},
    "imagenet": {"stem": "imagenet", "embedding_dim": None, "num_classes": 1000, "img_size": 224},
}


def add_models(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo models``."""
    parser.add_argument("pattern", nargs="?", default="*", help="wildcard, such as '*resnet*'")
    parser.add_argument(
        "--max-params", type=number, help="only models with at most this number of parameters, such as 30M"
    )
    parser.add_argument(
        "--max-macs", type=number, help="only models with at most this number of MACs for one 112×112 image, such as 1G"
    )
    parser.add_argument(
        "--num-classes", type=at_least(0), default=0, help="number of classes of the head, counted in the budget"
    )
    parser.add_argument(
        "--embedding-dim",
        type=at_least(0),
        default=512,
        help="dimension of the embedding, counted in the budget; 0 for none",
    )
    parser.add_argument(
        "--pretrained", action="store_true", help="list the registered weights instead: data, figures, license"
    )
    parser.add_argument(
        "--commercial", action="store_true", help="with --pretrained: only weights that allow commercial use"
    )
    parser.add_argument(
        "--starts",
        action="store_true",
        help="with --pretrained: the weights trained on ImageNet, as initial weights of a training",
    )


def run_models(options: argparse.Namespace) -> None:
    """Print names, sizes and descriptions, and MACs if requested."""
    if options.pretrained:
        _print_weights(options)
        return
    if options.commercial or options.starts:
        raise ValueError("--commercial and --starts go with --pretrained")
    rows: list[dict[str, Any]] = []
    for model in _rows(options.pattern, other=bool(options.imports)):
        params, macs = model.cost(options.num_classes, options.embedding_dim or None)
        if not _within(model, options):
            continue
        row: dict[str, Any] = {"name": model.name, "params": params}
        if options.max_macs is not None:
            row["macs"] = macs
        rows.append({**row, "description": model.description})
    if options.json:
        print_json(rows)
        return
    if not rows:
        limited = options.max_params is not None or options.max_macs is not None
        limits = " within the budget" if limited else ""
        raise ValueError(f"no model matches {options.pattern!r}{limits}")
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        shown = f"  {row['macs'] / 1e9:7.3f} GMACs" if "macs" in row else ""
        print(f"{row['name']:<{width}}  {row['params'] / 1e6:8.2f} M{shown}  {row['description']}")


def _print_weights(options: argparse.Namespace) -> None:
    """Print one line per registered set of weights. ImageNet weights are only counted, unless requested."""
    from facezoo.weights import list_weights

    names = {row.name for row in _rows(options.pattern, other=bool(options.imports)) if _within(row, options)}
    found = [record for record in list_weights(commercial=options.commercial) if record.model in names]
    shown = [record for record in found if (record.kind == "imagenet") == options.starts]
    if options.json:
        print_json([_weights_row(record) for record in shown])
        return
    if not found:
        raise ValueError(f"no model matches {options.pattern!r} with {'such ' if options.commercial else ''}weights")
    rows = [("model", "weights", "trained on", "published", "license", "file")] if shown else []
    for record in shown:
        figure = next(iter(sorted(record.figures, key=lambda entry: entry.benchmark != "LFW")), None)
        published = "–" if figure is None else f"{figure.benchmark} {_metric(figure)}{figure.value:.2%}"
        license = record.license + (" *" if record.terms else "")
        how = "downloaded" if record.downloadable else "in facezoo" if record.bundled else f"{record.format}, convert"
        rows.append((record.model, record.tag, record.training_data, published, license, how))
    print(*aligned(rows), sep="\n")
    if any(record.terms for record in shown):
        print("\n* with more terms: `facezoo info MODEL` prints them")
    if not options.starts and (rest := len(found) - len(shown)):
        models = len({record.model for record in found if record.kind == "imagenet"})
        print(f"\nand {rest} trained on ImageNet, for {models} models, to start a training from: --starts lists them")


def _metric(figure: ReportedFigure) -> str:
    """The name of what was measured, where it is not the accuracy."""
    return "" if figure.metric == "accuracy" else f"{figure.metric} "


def _weights_row(record: WeightsRecord) -> dict[str, Any]:
    derived = {"format": record.format, "address": record.address, "commercial": record.commercial}
    return {**dataclasses.asdict(record), **derived, "convert": record.convert_command or None}


def _within(row: Row, options: argparse.Namespace) -> bool:
    """Whether the model fits the budgets."""
    params, macs = row.cost(options.num_classes, options.embedding_dim or None)
    too_large = options.max_params is not None and params > options.max_params
    too_slow = options.max_macs is not None and macs > options.max_macs
    return not (too_large or too_slow)


def _rows(pattern: str, *, other: bool) -> list[Row]:
    """The matching models, from the table. Models of plugins, or of modules named by the user (``other``), are counted now."""
    from importlib.metadata import entry_points

    rows = read_table()
    if other or "facezoo.models" in sys.modules or entry_points(group="facezoo.plugins"):
        from facezoo.models import list_models

        known = {row.name: row for row in rows}
        return [known.get(name) or count_row(name) for name in list_models(pattern)]
    return [row for row in rows if fnmatch.fnmatchcase(row.name, pattern)]


def add_info(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo info``."""
    parser.add_argument("model", help="name of a model")


def run_info(options: argparse.Namespace) -> None:
    """Print structure, cost and weights of a model."""
    from facezoo.models import get_model_spec
    from facezoo.profile import profile_model
    from facezoo.weights import list_weights

    spec = get_model_spec(options.model)
    profiles = {form: profile_model(spec.name, **_FORMS[form]) for form in _FORMS if form in spec.stems}
    weights = list_weights(spec.name)
    if options.json:
        costs = {form: profile.to_dict() for form, profile in profiles.items()}
        records = [dataclasses.asdict(record) for record in weights]
        print_json({"spec": dataclasses.asdict(spec), "profiles": costs, "weights": records})
        return
    print(f"{spec.name}: {spec.description}")
    print(f"family {spec.family}, paper {spec.paper}, initialized as {spec.init}")
    for lines in (_blocks(spec), _costs(profiles), [f"weights {record}" for record in weights]):
        print("", *lines, sep="\n") if lines else print("\nweights: none are registered for it")


def _blocks(spec: ModelSpec) -> list[str]:
    """Stems, stages and head, one line each."""
    rows = []
    for form, stem in spec.stems.items():
        steps = ", ".join(map(str, stem.stage_strides))
        rows.append(
            (f"stem {form}", f"{stem.block}{_options(stem.options)}", f"{stem.width} channels, stride {stem.stride}")
        )
        rows.append(("", f"strides of the stages: {steps}", ""))
    for index, stage in enumerate(spec.stages):
        blocks = ", ".join(f"{row.depth} × {row.block}{_options(row.options)}" for row in stage.blocks)
        if stage.transition is not None:
            blocks = f"{stage.transition.block}{_options(stage.transition.options)}, {blocks}"
        rows.append((f"stages.{index}", blocks, f"{stage.width} channels"))
    heads = {"head": spec.head} | {f"head {form}": stem.head for form, stem in spec.stems.items() if stem.head}
    for name, head in heads.items():
        rows.append(
            (name, f"{head.head}{_options(head.options)}", f"{head.global_pool} pooling, dropout {head.drop_rate:g}")
        )
    size = spec.preprocessing.img_size
    rows.append(
        (
            "input",
            f"{size[0]}×{size[1]}, {spec.preprocessing.channel_order.upper()}, mean {spec.preprocessing.mean}, "
            f"std {spec.preprocessing.std}",
            f"aligned to {spec.preprocessing.alignment}",
        )
    )
    return aligned(rows)


def _costs(profiles: dict[str, ModelProfile]) -> list[str]:
    rows = [("", *profiles)]
    rows.append(("image", *(f"{p.img_size[0]}×{p.img_size[1]}" for p in profiles.values())))
    rows.append(("output", *("×".join(map(str, p.stages[-1].output_shape)) for p in profiles.values())))
    for title, field in (("parameters", "params"), ("MACs", "macs"), ("activations", "activations")):
        rows.append((title, *(f"{getattr(p, field):,}" for p in profiles.values())))
    for title, field in (("training, per image", "training_bytes"), ("inference, one image", "inference_bytes")):
        rows.append((title, *(f"{getattr(p, field) / 2**20:.2f} MiB" for p in profiles.values())))
    return aligned(rows, right=True)


def _options(options: Any) -> str:
    return f" ({', '.join(f'{key}={value!r}' for key, value in options.items())})" if options else ""


def add_profile(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo profile``."""
    parser.add_argument("model", help="name of a model")
    parser.add_argument(
        "--img-size",
        type=image_size,
        default=112,
        metavar="SIDE",
        help="pixels: a side, or 112x96, height first",
    )
    parser.add_argument("--stem", default="face", help="face or imagenet")
    parser.add_argument("--num-classes", type=at_least(0), default=0, help="classes of the head, 0 for none")
    parser.add_argument("--embedding-dim", type=at_least(0), default=512, help="dimension of the embedding, 0 for none")
    parser.add_argument("--grad-checkpointing", action="store_true", help="training memory with each block recomputed")
    parser.add_argument("--batch-size", type=at_least(1), help="also print the training memory of a batch of this size")


def run_profile(options: argparse.Namespace) -> None:
    """Print the table of parts."""
    from facezoo.profile import profile_model

    profile = profile_model(
        options.model,
        img_size=options.img_size,
        stem=options.stem,
        num_classes=options.num_classes,
        embedding_dim=options.embedding_dim or None,
        grad_checkpointing=options.grad_checkpointing,
    )
    batch = {} if options.batch_size is None else {"batch_training_bytes": profile.training_memory(options.batch_size)}
    if options.json:
        print_json({**profile.to_dict(), **batch})
        return
    print(profile)
    for size in batch.values():
        print(f"a batch of {options.batch_size}: {size / 2**30:.3f} GiB besides weights, gradients and optimizer state")
