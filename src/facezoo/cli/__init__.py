"""The command line: parses, calls, prints. Everything it does is a function of the package."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from facezoo._version import __version__
from facezoo.cli import decisions, evaluate, export, gallery, models, train
from facezoo.cli.evaluate import is_lfw_list
from facezoo.cli.options import number, parse_pairs
from facezoo.cli.train import train_config

__all__ = ["build_parser", "is_lfw_list", "main", "number", "parse_pairs", "train_config"]

Adder = Callable[[argparse.ArgumentParser], None]
Runner = Callable[[argparse.Namespace], None]
_COMMANDS: dict[str, tuple[Adder, Runner, str]] = {
    "models": (models.add_models, models.run_models, "list models with their size"),
    "info": (
        models.add_info,
        models.run_info,
        "show what a model is built from, what it costs and which weights it has",
    ),
    "profile": (models.add_profile, models.run_profile, "count parameters, multiply-accumulates and memory"),
    "train": (train.add_train, train.run_train, "train a model on a folder of faces"),
    "evaluate": (evaluate.add_evaluate, evaluate.run_evaluate, "accuracy and verification figures of a network"),
    "embed": (evaluate.add_embed, evaluate.run_embed, "embed images"),
    "verify": (decisions.add_verify, decisions.run_verify, "compare two images"),
    "calibrate": (decisions.add_calibrate, decisions.run_calibrate, "measure what the cosines of a network mean"),
    "gallery": (gallery.add_gallery, gallery.run_gallery, "keep a gallery of people"),
    "identify": (gallery.add_identify, gallery.run_identify, "name the people on photos by a gallery"),
    "submit": (evaluate.add_submit, evaluate.run_submit, "write a Kaggle submission"),
    "export": (export.add_export, export.run_export, "write a network for another runtime"),
    "demo": (train.add_demo, train.run_demo, "train and evaluate a small network on synthetic faces"),
}


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
        help="import a module first that registers models, margins or losses of its own; may be repeated "
        "(installed packages that are plugins of facezoo need it not)",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (add, run, help_text) in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        add(command)
        command.set_defaults(run=run)
    return parser
