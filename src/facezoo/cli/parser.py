"""Parsers that are built only when they are used, and whose errors are one short line."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

LONGEST = 200  # largest number of typed characters in a message


def one_line(message: str, typed: Sequence[str] = ()) -> str:
    """``message`` on one line; typed arguments in it are cut to 200 characters."""
    for word in sorted(typed, key=len, reverse=True):
        if len(word) > LONGEST:
            message = message.replace(word, word[: LONGEST - 1] + "…").replace(repr(word), repr(word[:LONGEST]))
    return " ".join(message.split())


class ShortErrors(argparse.ArgumentParser):
    """A parser whose errors are its usage and one line."""

    typed: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: D102
        self.typed = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:  # noqa: D102
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice and (close := difflib.get_close_matches(choice[1], re.findall(r"[\w.-]+", choice[2]), 1)):
            message += f"; did you mean {close[0]}?"
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {one_line(message, self.typed)}\n")


class CommandParser(ShortErrors):
    """The parser of one command. Its options are added when it first parses or shows help, so other commands are not imported.

    Attributes:
        fill: function that adds the options; None after the call.
    """

    fill: Callable[[argparse.ArgumentParser], None] | None = None

    def _filled(self) -> None:
        fill, self.fill = self.fill, None
        if fill is not None:
            fill(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: D102
        self._filled()
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:  # otherwise the main parser would report them with its own usage
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._close_to(unknown)}")
        return found, unknown

    def format_help(self) -> str:  # noqa: D102
        self._filled()
        return super().format_help()

    def format_usage(self) -> str:  # noqa: D102
        self._filled()
        return super().format_usage()

    def _close_to(self, unknown: Sequence[str]) -> str:
        options = [word.partition("=")[0] for word in unknown if word.startswith("--")]
        close = [match for word in options for match in difflib.get_close_matches(word, self._option_string_actions, 1)]
        return f"; did you mean {' or '.join(close)}?" if close else ""


class HelpWithDefaults(argparse.HelpFormatter):
    """Help formatter that adds the default to every option whose text does not mention it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        shown = action.option_strings and default is not argparse.SUPPRESS and action.nargs != 0
        if not shown or default is None or "default" in text:
            return text
        return f"{text} (default: %(default)s)"
