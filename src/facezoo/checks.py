"""Small checks of values that people and files give."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_whole(value: object, least: int | None = None) -> TypeGuard[int]:
    """Whether ``value`` is a whole number, of at least ``least``. ``True`` and ``False`` are none."""
    return isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)


def is_real(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a finite number that a float can hold; ``True`` and ``False`` are none."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False
