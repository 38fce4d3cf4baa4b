"""The command line: parses, calls, prints. Everything it does is a function of the package.

Nothing here imports torch, so ``--version``, ``--help`` and ``models`` are fast. Each command imports what it needs when it runs.
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
import warnings
from collections.abc import Callable, Iterator, Sequence

from facezoo._version import __version__
from facezoo.cli.options import add_output, number, parse_pairs
from facezoo.cli.parser import CommandParser, HelpWithDefaults, ShortErrors, one_line
from facezoo.cli.train import train_config

__all__ = ["build_parser", "main", "number", "parse_pairs", "train_config"]

# Command -> module of facezoo.cli with its functions add_… and run_…, and help text.
_COMMANDS: dict[str, tuple[str, str]] = {
    "models": ("models", "list models with their size"),
    "info": ("models", "show structure, cost and weights of a model"),
    "profile": ("models", "count parameters, multiply-accumulates and memory"),
    "align": ("align", "cut aligned faces out of photos"),
    "pack": ("pack", "pack any source of faces into a few large files, and list problems of the images"),
    "preview": ("look", "write a contact sheet of images before and after augmentation"),
    "doctor": ("look", "inspect data: counts, sizes, duplicates, mean and std"),
    "train": ("train", "train a model on a folder of faces"),
    "recipes": ("train", "list training recipes with their source and figures"),
    "report": ("runs", "write a report of a run: curves, figures, hardest pairs, settings"),
    "compare": ("runs", "compare runs: curves, intervals over seeds, paired tests"),
    "sweep": ("sweep", "train with many settings: a grid, random draws or successive halving"),
    "evaluate": ("evaluate", "accuracy and verification figures of a network"),
    "embed": ("evaluate", "embed images"),
    "verify": ("decisions", "compare two images"),
    "calibrate": ("decisions", "measure thresholds by false accept rate, and the probability of a cosine"),
    "gallery": ("gallery", "build and change a gallery of known people"),
    "identify": ("gallery", "identify the people on photos with a gallery"),
    "submit": ("evaluate", "write a Kaggle submission"),
    "export": ("export", "export a network to ONNX or torch.export"),
    "convert": ("weights", "convert another library's weight file to a facezoo folder"),
    "weights": ("weights", "check registered weights"),
    "demo": ("train", "train and evaluate a small network on synthetic faces"),
}
_EXPECTED = (ValueError, TypeError, RuntimeError, OSError, ImportError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``facezoo``.

    Args:
        arguments: the command line without the program's name; None for ``sys.argv``.

    Returns:
        The exit status: 0, 2 after an error, 130 after Ctrl-C, 143 after SIGTERM.
    """
    typed = sys.argv[1:] if arguments is None else list(arguments)
    options = build_parser().parse_args(typed)
    if options.command is None:
        build_parser().print_help()
        return 0
    try:
        with _interrupts_answered(), _short_warnings():
            for module in options.imports:
                _import(module)
            _part(options.command, "run")(options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("facezoo: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `facezoo models | head`: the pipe is closed
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


def _import(module: str) -> None:
    """Import a user's module, from the current folder too, where the installed command does not look by itself."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)
    importlib.import_module(module)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``facezoo`` with all commands. Each command adds its options when it is used."""
    parser = ShortErrors(prog="facezoo", description="Face-recognition model zoo for PyTorch.")
    parser.add_argument("--version", action="version", version=f"facezoo {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show the traceback of an error")
    parser.add_argument(
        "--import", dest="imports", metavar="MODULE", action="append", default=[],
        help="first import a module that registers its own models, margins or losses; may be repeated (installed "
        "plugins are found without it)",
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
    """The message for an unexpected exception: the command, its input, and how to see the traceback."""
    given = [getattr(options, name, None) for name in ("network", "data", "model", "pairs")]
    subject = ", ".join(str(value) for value in given if value is not None)
    reason = f"{type(error).__name__}: {str(error)[:200]}".rstrip(": ")
    where = f"{subject}: " if subject else ""
    return f"{where}`facezoo {options.command}` failed with {reason}; `facezoo --traceback {options.command} …` shows where"


@contextlib.contextmanager
def _short_warnings() -> Iterator[None]:
    """Print facezoo's own warnings without a line of its code; those of other packages stay as they are."""
    before, package = warnings.formatwarning, os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

    def written(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        own = category is UserWarning and os.path.abspath(filename).startswith(package + os.sep)
        return f"facezoo: warning: {message}\n" if own else before(message, category, filename, lineno, line)

    warnings.formatwarning = written
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextlib.contextmanager
def _interrupts_answered() -> Iterator[None]:
    """Print a message at the first Ctrl-C; ending the current work may take longer. Signal handlers need the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def answer(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):  # print() is not reentrant, os.write is
            os.write(2, b"\nfacezoo: Ctrl-C: stopping\n")
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
