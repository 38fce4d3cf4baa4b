"""Shared by the commands: parsing of values and printing of results."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any


def number(text: str) -> float:
    """A number of at least 0 with an optional K, M or G: ``30M`` is 30e6."""
    factors = {"K": 1e3, "M": 1e6, "G": 1e9}
    factor = factors.get(text[-1:].upper())
    with contextlib.suppress(ValueError):
        value = float(text[:-1]) * factor if factor else float(text)
        if 0 <= value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0 (such as 0.1, 30e6, 30M)")


def at_least(least: int) -> Callable[[str], int]:
    """The ``type`` of an option that is a whole number of at least ``least``."""

    def read(text: str) -> int:
        with contextlib.suppress(ValueError):
            if (value := int(text)) >= least:
                return value
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")

    return read


def image_size(text: str) -> int | tuple[int, int]:
    """A side in pixels, or height and width: ``112`` or ``112x96``."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in pixels (such as 112, or 112x96, height first)")
    return int(text) if len(sides) == 1 else (int(sides[0]), int(sides[1]))


def is_object(items: Sequence[str]) -> bool:
    """Whether the arguments are one JSON object instead of pairs."""
    return len(items) == 1 and items[0].lstrip().startswith("{")


def parse_pairs(items: Sequence[str], option: str) -> dict[str, Any]:
    """Parse ``["scale=64", "milestones=2,3"]``, or one JSON object, to a dictionary. Values that are not JSON are strings."""
    if is_object(items):
        try:
            return dict(json.loads(items[0]))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{option}: {items[0][:200]!r} is not a JSON object: {str(error)[:200]}") from None
    values: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise ValueError(f"{option} takes KEY=VALUE (such as scale=64) or one JSON object; got {item[:200]!r}")
        values[key] = _value(value)
    return values


def _value(text: str) -> Any:
    for form in (text, f"[{text}]") if "," in text else (text,):  # 2,3 is a list
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(form)
    return text


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--quiet`` and ``--json``, which every command has."""
    known = parser._option_string_actions
    if "--quiet" not in known:
        parser.add_argument(
            "--quiet", action="store_true", help="print only the result and errors, no progress and no notes"
        )
    if "--json" not in known:
        parser.add_argument("--json", action="store_true", help="machine-readable result on standard output")


def note(options: argparse.Namespace, text: str) -> None:
    """Print a note: on standard error with ``--json``, not at all with ``--quiet``."""
    if not options.quiet:
        print(text, file=sys.stderr if options.json else sys.stdout)


@contextlib.contextmanager
def aside(options: argparse.Namespace) -> Iterator[None]:
    """Treat everything printed in the block as a note, see :func:`note`."""
    if options.quiet:
        with contextlib.redirect_stdout(None):
            yield
    elif options.json:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    else:
        yield


def progress_wanted(options: argparse.Namespace) -> bool:
    """Whether to show a progress bar: only on a terminal, and not with ``--quiet``."""
    return sys.stderr.isatty() and not options.quiet


def chance(probability: float) -> str:
    """A probability in per cent, three digits; what no list of pairs can know is not printed as 0 or 100 %."""
    if 1e-4 <= probability <= 1 - 1e-4:
        digits = probability if probability <= 0.5 else 1 - probability
        decimals = 2 if digits < 1e-2 else 1
        return f"{probability * 100:.{decimals}f} %"
    return "below 0.01 %" if probability < 0.5 else "above 99.99 %"


def print_result(options: argparse.Namespace, values: Any, text: object) -> None:
    """Print ``values`` as JSON with ``--json``, else ``text``."""
    if options.json:
        print_json(values)
    else:
        print(text)


def print_json(value: Any) -> None:
    """Print JSON; values of other types are converted to text."""
    print(json.dumps(value, indent=2, default=str))
