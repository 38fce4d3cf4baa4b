"""Schedules as pure functions of the update: nothing to save, nothing to step, and resuming is exact."""

from __future__ import annotations

import math


def warmup_cosine(update: int, *, total: int, warmup: int = 0, final: float = 0.0) -> float:
    """Factor on the peak learning rate at one update: linear warm-up, then half a cosine (arXiv 1608.03983, no restarts).

    Args:
        update: number of updates done so far, 0 for the first one.
        total: updates of the whole training.
        warmup: updates of the warm-up; the first is made at ``1 / (warmup + 1)``, so that no update is wasted at 0.
        final: factor after the last update, fraction of 1.

    Returns:
        The factor, in ``[final, 1]`` after the warm-up. Beyond ``total``, ``final``.

    Raises:
        ValueError: ``total`` below 1 or ``warmup`` outside [0, total].
    """
    if total < 1 or not 0 <= warmup <= total:
        raise ValueError(f"total must be at least 1 and warmup in [0, total]; got total={total}, warmup={warmup}")
    if update < warmup:
        return (update + 1) / (warmup + 1)
    progress = min((update - warmup) / max(total - warmup, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def linear_ramp(update: int, *, total: int) -> float:
    """Fraction that grows linearly from 0 at the first update to 1 at the last (DropBlock's schedule, arXiv 1810.12890)."""
    return min(max(update / max(total - 1, 1), 0.0), 1.0)
