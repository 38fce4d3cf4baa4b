"""Checks of options that several margins share. Each raises a ValueError that gives the valid range."""

from __future__ import annotations

import math
from typing import Any

from facezoo.checks import is_real
from facezoo.registry import unknown_name_message

EASY = ("monotone", "easy", "none")


def check_number(name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf) -> None:
    """A finite number, not below ``least`` and above ``above``."""
    if not is_real(value):
        raise ValueError(f"{name} is a finite number; got {value!r}")
    if value < least or value <= above:
        bound = f"at least {least:g}" if value < least else f"above {above:g}"
        raise ValueError(f"{name} is {bound}; got {value}")


def check_share(name: str, value: Any) -> None:
    """A number from 0 to 1."""
    check_number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} lies between 0 and 1; got {value}")


def check_cosine_difference(name: str, value: Any) -> None:
    """A margin on the cosine."""
    check_number(name, value)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is a difference of cosines, from 0 to 1 (typically 0.35 to 0.4); got {value}")


def check_angle(name: str, value: Any) -> None:
    """A margin on the angle, in radians; degrees are a common mistake."""
    check_number(name, value)
    if value > math.pi / 2:
        raise ValueError(
            f"{name} is an angle in radians, from 0 to π/2 (typically 0.3 to 0.5); got {value}. "
            f"If these are degrees, pass {math.radians(value):.4g}"
        )
    if value < 0.0:
        raise ValueError(f"{name} is an angle in radians, from 0 to π/2; got {value}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of a few names."""
    if value not in choices:
        hint = f"{name} is one of {', '.join(map(repr, choices))}"
        raise ValueError(unknown_name_message("choice", str(value), choices, hint=hint))


def check_angular_margin(margin: float, easy: str) -> None:
    """Options of the margins that add ``margin`` to the angle."""
    check_angle("margin", margin)
    check_choice("easy", easy, EASY)
