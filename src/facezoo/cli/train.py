"""``facezoo train`` and ``demo``."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo.cli.options import number, parse_pairs

if TYPE_CHECKING:
    from facezoo.training import TrainConfig


def add_train(parser: argparse.ArgumentParser) -> None:
    """One option per setting of a training."""
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


def run_train(options: argparse.Namespace) -> None:
    """Train, or go on training, and say where the results are."""
    from facezoo.training import Trainer

    config = train_config(options)
    result = Trainer(config).fit(resume=options.resume, overwrite=options.overwrite)
    state = "finished" if result.finished else "stopped as asked, to be continued with --resume"
    print(f"{state}: {result.epochs} epochs, {result.updates} updates; run folder {result.folder}")
    if result.best is not None and result.best_value is not None:
        print(f"best: {result.best} (epoch {result.best_epoch}, by {result.best_metric})")
    print(f"last: {result.last}")


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Where to, and how thoroughly."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything (default runs/demo)")
    parser.add_argument("--fast", action="store_true", help="one minute instead of several, with figures to match")


def run_demo(options: argparse.Namespace) -> None:
    """Draw faces, train, evaluate, report."""
    from facezoo.cli.demo import run_demo

    run_demo(options.out, fast=options.fast)
