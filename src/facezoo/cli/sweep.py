"""``facezoo sweep``."""

from __future__ import annotations

import argparse
from pathlib import Path

from facezoo.cli.options import aside, note, parse_pairs, print_json


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo sweep``."""
    parser.add_argument("data", metavar="DATA", help="folder of faces")
    parser.add_argument(
        "--vary", nargs="+", required=True, metavar="NAME=VALUES",
        help="settings to vary: lr=0.05,0.1 or lr=0.01..0.3:log (a range, for random and halving); "
        "margin_options.margin=0.2,0.3 for one key of a mapping",
    )  # fmt: skip
    parser.add_argument("--recipe", metavar="NAME", help="settings that all trials share: a recipe or a TOML file")
    parser.add_argument("--config", type=Path, help="the same from a JSON or TOML file")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="other settings, by their names in `train`"
    )
    parser.add_argument(
        "--method", default="grid", help="grid, random or halving (only the best draws continue to the end)"
    )
    parser.add_argument("--trials", type=int, default=10, help="number of draws for random and halving")
    parser.add_argument("--seeds", type=int, default=1, help="number of runs per trial, with different seeds")
    parser.add_argument(
        "--metric", default="eer", help="eer, dev_accuracy, combined, train_loss or dev_loss of the last epoch"
    )
    parser.add_argument(
        "--reduction",
        type=int,
        default=3,
        help="halving: factor from rung to rung, fewer trials and more epochs",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument(
        "--devices",
        nargs="+",
        default=[],
        metavar="DEVICE",
        help="devices, such as cuda:0 cuda:1; each runs one trial at a time",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/sweep"), help="folder of the sweep; an unfinished sweep is resumed"
    )


def run_sweep(options: argparse.Namespace) -> None:
    """Run the trials, and print the best."""
    from facezoo.cli.train import first_settings
    from facezoo.training.config import as_written
    from facezoo.training.sweep import SweepPlan, parse_axis
    from facezoo.training.sweep import run_sweep as run

    if options.recipe and options.config:
        raise ValueError("--recipe and --config are two starts; give one")
    base = first_settings(options.recipe, options.config)
    others = {name: as_written(name, value) for name, value in parse_pairs(options.set, "--set").items()}
    base = base.replace(data=str(options.data), **others)
    plan = SweepPlan(
        base,
        tuple(parse_axis(text) for text in options.vary),
        method=options.method,
        trials=options.trials,
        seeds=options.seeds,
        metric=options.metric,
        reduction=options.reduction,
        seed=options.seed,
    )
    with aside(options):
        trials = run(plan, options.out, devices=options.devices, imports=options.imports)
    if options.json:
        print_json([{**trial.__dict__, "folder": str(trial.folder)} for trial in trials])
    else:
        print((options.out / "sweep.csv").read_text(encoding="utf-8"), end="")
    note(options, f"{options.out / 'sweep.html'}: the table and a plot")
