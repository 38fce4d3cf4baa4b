"""Small checks of values from users and files."""

from __future__ import annotations

import math
import operator
from numbers import Integral, Real
from typing import TypeGuard, cast


def is_whole(value: object, least: int | None = None) -> TypeGuard[int]:
    """Whether ``value`` is an integer (Python's or NumPy's, no bool) of at least ``least``."""
    if type(value).__name__ in ("bool", "bool_"):
        return False
    try:
        number = operator.index(cast(int, value))
    except TypeError:
        return False
    return least is None or number >= least


def whole(name: str, value: object, least: int | None = None) -> int:
    """``value`` as an int. Raises ``ValueError`` if it is not an integer (:func:`is_whole`) of at least ``least``."""
    if not is_whole(value, least):
        raise ValueError(f"{name} is an integer{'' if least is None else f' of at least {least}'}, got {value!r:.100}")
    return operator.index(value)


def plain_number(value: object) -> object:
    """Convert NumPy's numbers to Python's, for JSON; other values are returned unchanged."""
    if isinstance(value, (int, float)) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def reads_as_number(text: str) -> bool:
    """Whether ``float`` accepts ``text``."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_real(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a finite number (no bool) in the range of float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def require_size(size: int | tuple[int, int]) -> None:
    """Raise ``ValueError`` unless a side, or height and width, are from 1 to 4096 pixels."""
    if not all(1 <= side <= 4096 for side in ((size,) if isinstance(size, int) else size)):
        raise ValueError(f"size is height and width from 1 to 4096 pixels; got {size}")
