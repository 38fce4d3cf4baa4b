"""Rounding of channel numbers for hardware."""

from __future__ import annotations


def round_channels(exact: float, divisor: int = 8) -> int:
    """The multiple of ``divisor`` nearest to ``exact``, at least ``divisor``, and never more than a tenth below ``exact``."""
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * exact else rounded + divisor
