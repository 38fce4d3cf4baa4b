"""The command line from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator


def cli_page() -> str:
    """``--help`` of ``facezoo`` and of each of its commands."""
    from facezoo.cli import build_parser

    lines = ["# Command line", "", "`facezoo` and `python -m facezoo` are the same command.", ""]
    for name, parser in parsers(build_parser()):
        parser.formatter_class = WideHelp
        lines += [f"## {name}", "", "```text", parser.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


class WideHelp(argparse.HelpFormatter):
    """Lines of one width, whatever terminal the site is built in."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=88, max_help_position=28)


def parsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """A parser and those of its commands."""
    yield parser.prog, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers(command)
