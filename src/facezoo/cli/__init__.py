"""The command line: parses, calls, prints. Everything it does is a function of the package.

Nothing here imports torch: ``--version``, ``--help`` and ``models`` answer at once, and a command imports what it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from facezoo._version import __version__
from facezoo.cli.lists import is_lfw_list
from facezoo.cli.options import add_output, number, parse_pairs
from facezoo.cli.parser import CommandParser, HelpWithDefaults, ShortErrors, one_line
from facezoo.cli.train import train_config

__all__ = ["build_parser", "is_lfw_list", "main", "number", "parse_pairs", "train_config"]

# Command: the module of facezoo.cli with its add_… and run_…, and its line of help.
_COMMANDS: dict[str, tuple[str, str]] = {
    "models": ("models", "list models with their size"),
    "info": ("models", "show what a model is built from, what it costs and which weights it has"),
    "profile": ("models", "count parameters, multiply-accumulates and memory"),
    "align": ("align", "cut aligned faces out of photos"),
    "pack": ("pack", "pack any source of faces into a few large files, and say what is wrong with them"),
    "preview": ("look", "draw a sheet of images before and after augmentation"),
    "doctor": ("look", "look through data: counts, sizes, duplicates, mean and std"),
    "train": ("train", "train a model on a folder of faces"),
    "recipes": ("train", "list settings of trainings with their source and their figures"),
    "report": ("runs", "write a page about a run: curves, figures, hardest pairs, settings"),
    "compare": ("runs", "compare runs: curves, intervals over seeds, paired tests"),
    "sweep": ("sweep", "train with many settings: a grid, random draws or successive halving"),
    "evaluate": ("evaluate", "accuracy and verification figures of a network"),
    "embed": ("evaluate", "embed images"),
    "verify": ("decisions", "compare two images"),
    "calibrate": ("decisions", "measure what the cosines of a network mean"),
    "gallery": ("gallery", "keep a gallery of people"),
    "identify": ("gallery", "name the people on photos by a gallery"),
    "submit": ("evaluate", "write a Kaggle submission"),
    "export": ("export", "write a network for another runtime"),
    "convert": ("weights", "turn another library's weight file into a folder of facezoo"),
    "weights": ("weights", "check registered weights"),
    "demo": ("train", "train and evaluate a small network on synthetic faces"),
}
_EXPECTED = (ValueError, TypeError, RuntimeError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``facezoo``.

    Args:
        arguments: the command line without the program's name; None for that of the process.

    Returns:
        The exit status: 0, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = build_parser().parse_args(typed)
    if options.command is None:
        build_parser().print_help()
        return 0
    try:
        with _interrupts_answered():
            for module in options.imports:
                importlib.import_module(module)
            _part(options.command, "run")(options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("facezoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `facezoo models | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        if options.traceback:
            raise
        number = getattr(error, "signal", None)
        text = str(error) if isinstance(error, _EXPECTED) and str(error) else _unexpected(error, options)
        print(f"facezoo: {'stopped' if number else 'error'}: {one_line(text, typed)}", file=sys.stderr)
        return 128 + number if number else 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``facezoo`` with all commands; each adds its options when it is used."""
    parser = ShortErrors(prog="facezoo", description="Face-recognition model zoo for PyTorch.")
    parser.add_argument("--version", action="version", version=f"facezoo {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    parser.add_argument(
        "--import", dest="imports", metavar="MODULE", action="append", default=[],
        help="import a module first that registers models, margins or losses of its own; may be repeated "
        "(installed packages that are plugins of facezoo need it not)",
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=CommandParser)
    for name, (_, about) in _COMMANDS.items():
        command = commands.add_parser(
            name, help=about, description=about[0].upper() + about[1:] + ".", formatter_class=HelpWithDefaults
        )
        command.fill = functools.partial(_fill, name)
    return parser


def _fill(name: str, parser: argparse.ArgumentParser) -> None:
    _part(name, "add")(parser)
    add_output(parser)


def _part(name: str, verb: str) -> Callable[..., None]:
    """``add_NAME`` or ``run_NAME`` of the command's module."""
    part: Callable[..., None] = getattr(importlib.import_module(f"facezoo.cli.{_COMMANDS[name][0]}"), f"{verb}_{name}")
    return part


def _unexpected(error: Exception, options: argparse.Namespace) -> str:
    """What is said of an error that no part of facezoo foresaw: which command, on what, and how to see more."""
    given = [getattr(options, name, None) for name in ("network", "data", "model", "pairs")]
    subject = ", ".join(str(value) for value in given if value is not None)
    reason = f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")
    where = f"{subject}: " if subject else ""
    return f"{where}`facezoo {options.command}` failed with {reason}; `facezoo --traceback {options.command} …` shows where"


@contextlib.contextmanager
def _interrupts_answered() -> Iterator[None]:
    """Answer Ctrl-C the moment it comes; what is under way may take longer to end. Only the main thread may listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def answer(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):  # print() may not be entered twice, os.write may
            os.write(2, b"\nfacezoo: Ctrl-C: stopping\n")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
