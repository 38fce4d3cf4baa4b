"""``facezoo train`` and ``demo``."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from facezoo.cli.options import aside, is_object, note, number, parse_pairs, print_json, print_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from facezoo.training import Callback, Distributed, TrainConfig


def add_train(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo train``."""
    from facezoo.training.config import all_options, option_kind

    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out; its settings need not be repeated"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the run in --out")
    parser.add_argument(
        "--config",
        type=Path,
        help="take the settings from this JSON or TOML file; options on the command line override it",
    )
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="take the settings from a recipe (`facezoo recipes` lists them) or a TOML file; options override it "
        "(KEY=VALUE changes one key, a JSON object such as {} replaces them all)",
    )
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="train N times with consecutive seeds, into seed0, seed1, ... of --out"
    )
    parser.add_argument(
        "--find-lr",
        action="store_true",
        help="scan learning rates from tiny to far too large, suggest one, and do not train",
    )
    parser.add_argument(
        "--one-file",
        action="store_true",
        help="make last.safetensors of a last checkpoint in parts (--checkpoint-format sharded), and do not train",
    )
    parser.add_argument("--explain", action="store_true", help="describe the recipe and its settings, and do not train")
    groups: dict[str, Any] = {}
    for name, section, field in all_options():
        if section not in groups:
            groups[section] = parser.add_argument_group(section)
        help_text = field.metadata["help"].replace("%", "%%")
        if name == "data":
            groups[section].add_argument("data", nargs="?", metavar="DATA", default=argparse.SUPPRESS, help=help_text)
            continue
        kind, optional = option_kind(name)
        default = "" if kind is dict else f" (default: {_shown(field.default)})"
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_text + default}
        if kind is bool:
            settings |= {"action": argparse.BooleanOptionalAction}
        elif kind is dict:
            settings |= {"action": "extend", "nargs": "+", "metavar": "KEY=VALUE"}
        elif kind is tuple:
            settings |= {"nargs": "*", "metavar": "NAME"}
        elif field.metadata["choices"]:
            settings |= {"choices": field.metadata["choices"]}
        else:
            parse = number if kind is float else kind
            settings |= {"type": _or_none(parse) if optional else parse, "metavar": kind.__name__.upper()}
        groups[section].add_argument("--" + name.replace("_", "-"), **settings)
    groups["output"].add_argument(
        "--tensorboard", action="store_true", default=argparse.SUPPRESS, help="short for --loggers tensorboard"
    )


def train_config(options: argparse.Namespace) -> TrainConfig:
    """The settings of ``facezoo train``: options override ``--config`` or the run to resume, which override the defaults.

    Raises:
        ValueError: an invalid value.
    """
    from facezoo.training.config import TrainConfig, all_options, as_written, option_kind

    given = {name: getattr(options, name) for name, _, _ in all_options() if hasattr(options, name)}
    pairs = {name for name in _OWNER_OF if name in given and not is_object(given[name])}
    for name, value in given.items():
        if option_kind(name)[0] is dict:
            given[name] = parse_pairs(value, "--" + name.replace("_", "-"))
        elif option_kind(name)[0] is tuple:
            given[name] = as_written(name, ",".join(value))
    if getattr(options, "tensorboard", False):
        given["loggers"] = (*given.get("loggers", ()), "tensorboard")
    folder = Path(given.get("out", TrainConfig().output.folder))
    earlier = _settings_of(folder, options.seeds) if options.resume else None
    if options.recipe is not None and (options.config is not None or earlier is not None):
        raise ValueError("a run that goes on and --config have their settings already; leave out --recipe")
    if options.config is None and earlier is not None:
        given = {"stop_after": None, "stop_epoch": None, "out": str(folder), **given}
        return _changed(TrainConfig.load(earlier), given, pairs)
    return _changed(first_settings(options.recipe, options.config), given, pairs)


_OWNERS = ("model", "margin", "teacher", "optimizer", "schedule", "augment")
_OWNER_OF = {f"{name}_options": name for name in _OWNERS} | {"augment_late_options": "augment"}


def _changed(config: TrainConfig, given: dict[str, Any], pairs: set[str]) -> TrainConfig:
    """The settings with the options of the command line over them.

    Options named in ``pairs`` were given as KEY=VALUE. They change those keys and keep the others, as long as the margin (the
    optimizer, ...) stays the same. A new margin gets only the keys that were given: the scale of the old one means nothing to it.
    """
    for own, name in _OWNER_OF.items():
        if own in pairs and given.get(name, config.option(name)) == config.option(name):
            given = {**given, own: {**cast("dict[str, Any]", config.option(own)), **given[own]}}
    return config.replace(**given)


def _settings_of(folder: Path, seeds: int | None) -> Path | None:
    """The settings of the run that goes on; with ``--seeds`` of the first of them, whose seed is the base."""
    places = (
        [folder] if seeds is None else sorted(folder.glob("seed*"), key=lambda path: (len(path.name), path.name))[:1]
    )
    return next((place / "config.json" for place in places if (place / "config.json").exists()), None)


def first_settings(recipe: str | None, file: Path | None) -> TrainConfig:
    """The settings before the options are applied: a recipe's, those in a file, or the defaults."""
    from facezoo.training.config import TrainConfig

    if recipe is not None:
        from facezoo.training.recipes import get_recipe

        return get_recipe(recipe).config()
    return TrainConfig() if file is None else TrainConfig.load(file)


def run_train(options: argparse.Namespace) -> None:
    """Train or resume, and print the paths of the results."""
    config = train_config(options)
    if options.explain and options.recipe is None:
        raise ValueError("--explain explains a recipe; name one with --recipe")
    notes = _recipe_notes(options, config)
    if options.explain:
        return
    if options.find_lr:
        _find_lr(options, config)
        return
    if options.one_file:
        from facezoo.training.sharded_files import whole_checkpoint

        note(options, f"written: {whole_checkpoint(config.output.folder)}")
        return
    from facezoo.training import Trainer, join_distributed

    if options.resume and config.data.path is None and options.seeds is None:
        raise ValueError(
            f"there is no run to resume in {config.output.folder} (no config.json); name the run with --out, or DATA to begin one"
        )
    if options.quiet:
        config = config.replace(progress=False)
    how = {"resume": options.resume, "overwrite": options.overwrite}
    with join_distributed(config.machine.device) as process:
        if options.seeds is not None:
            _train_seeds(options, config, process, notes)
            return
        with aside(options):
            result = Trainer(config, process=process, callbacks=notes).fit(**how)
    if not process.is_main:
        return
    state = "finished" if result.finished else "stopped as asked, to be continued with --resume"
    lines = [f"{state}: {result.epochs} epochs, {result.updates} updates; run folder {result.folder}"]
    if result.best is not None and result.best_value is not None:
        lines.append(
            f"best: {result.best} (epoch {result.best_epoch}, by {result.best_metric}: {result.best_value:.2%})"
        )
    print_result(options, dataclasses.asdict(result), "\n".join([*lines, f"last: {result.last}"]))


def _find_lr(options: argparse.Namespace, config: TrainConfig) -> None:
    """Scan learning rates, and print the smoothed losses."""
    from facezoo.training.lr_finder import find_learning_rate

    with aside(options):
        scan = find_learning_rate(config)
    if options.json:
        print_json(dataclasses.asdict(scan))
        return
    for index in range(0, len(scan.rates), 5):
        print(f"{scan.rates[index]:.2e}  loss {scan.smoothed[index]:.4f}")
    found = (
        "the loss never fell: look at data and settings" if scan.suggestion is None else f"--lr {scan.suggestion:.2g}"
    )
    print(f"steepest fall: {found}")


def _train_seeds(options: argparse.Namespace, config: TrainConfig, process: Distributed, notes: list[Callback]) -> None:
    """Train with several seeds, and print the figures with intervals."""
    from facezoo.training import Trainer
    from facezoo.training.run_comparison import figures_table, read_group

    if options.seeds < 1:
        raise ValueError(f"--seeds is a number of runs, at least 1; got {options.seeds}")
    root = Path(config.output.folder)
    for turn in range(options.seeds):
        own = config.replace(seed=config.optimization.seed + turn, out=str(root / f"seed{turn}"))
        with aside(options):
            Trainer(own, process=process, callbacks=notes).fit(resume=options.resume, overwrite=options.overwrite)
    if process.is_main:
        group = read_group(root)
        found = {"runs": [str(run) for run in group.runs], "best_epochs": group.epochs, "figures": group.figures}
        print_result(options, found, figures_table([group]).markdown())


def _recipe_notes(options: argparse.Namespace, config: TrainConfig) -> list[Callback]:
    """Print warnings about the recipe; returns the callbacks that record it in the run folder."""
    if options.recipe is None:
        return []
    from facezoo.training.recipes import RecipeNote, course_warnings, explain, get_recipe

    recipe = get_recipe(options.recipe)
    if options.explain:
        print(explain(recipe, config))
    elif recipe.course:
        for text in course_warnings(config):
            print(f"facezoo: warning: {text}", file=sys.stderr)
    return [RecipeNote(recipe)]


def add_recipes(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo recipes``."""
    parser.add_argument("name", nargs="?", help="show this recipe, as `facezoo train --recipe NAME --explain` does")


def run_recipes(options: argparse.Namespace) -> None:
    """List all recipes, or explain one."""
    from facezoo.training.recipes import STATUSES, explain, get_recipe, list_recipes

    recipes = [get_recipe(name) for name in ([options.name] if options.name else list_recipes())]
    if options.json:
        print_json([recipe.to_dict() for recipe in recipes])
    elif options.name:
        print(explain(recipes[0], recipes[0].config()))
    else:
        width = max(len(recipe.name) for recipe in recipes)
        for recipe in recipes:
            print(f"{recipe.name:<{width}}  {recipe.about} ({STATUSES[recipe.status]})")


def _or_none(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The parser of an option that also accepts the word ``none``."""

    def parse_or_none(text: str) -> Any:
        return None if text.lower() == "none" else parse(text)

    parse_or_none.__name__ = getattr(parse, "__name__", "value")  # argparse's message names it
    return parse_or_none


def _shown(default: object) -> str:
    """A default, as written on the command line."""
    if default is None or default == ():
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def add_demo(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo demo``."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of all files")
    parser.add_argument("--fast", action="store_true", help="one minute instead of several, with worse figures")


def run_demo(options: argparse.Namespace) -> None:
    """Draw faces, train, evaluate, report."""
    from facezoo.cli.demo import run_demo

    with aside(options):
        result = run_demo(options.out, fast=options.fast)
    if options.json:
        print_json(dataclasses.asdict(result))
