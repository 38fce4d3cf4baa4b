"""Learning rate finder: train while the learning rate grows from tiny to far too large, and record the loss (1506.01186)."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from facezoo.ops import NonFiniteError
from facezoo.training.config import TrainConfig
from facezoo.training.trainer import Trainer


@dataclass(frozen=True)
class LearningRateScan:
    """The result of a scan.

    Attributes:
        rates: learning rate of every update.
        losses: loss of every update.
        smoothed: the smoothed losses.
        suggestion: the learning rate at which the smoothed loss falls fastest per decade; None if it never falls.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None


def find_learning_rate(
    config: TrainConfig, *, lowest: float = 1e-5, highest: float = 10.0, updates: int = 100, data: object = None
) -> LearningRateScan:
    """Train for some updates with a growing learning rate, from a run's initial weights. Nothing is saved.

    Args:
        config: the settings; ``lr``, schedule and epochs are ignored.
        lowest: learning rate of the first update.
        highest: learning rate of the last update; the scan ends early if the loss exceeds four times its minimum or is not
            finite.
        updates: number of updates.
        data: see :class:`Trainer`.

    Raises:
        ValueError: ``highest`` is not above ``lowest``, or there are fewer than ten updates.
    """
    if not 0 < lowest < highest < math.inf or updates < 10:
        raise ValueError(
            f"a scan goes up from a rate above 0 in ten updates or more; got {lowest} to {highest} in {updates}"
        )
    rates = [lowest * (highest / lowest) ** (index / (updates - 1)) for index in range(updates)]
    losses: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config.replace(out=folder, progress=False), data=data)
        try:
            for loss in trainer.try_rates(rates):
                losses.append(loss)
                smoothed = smooth(losses)
                if not math.isfinite(loss) or smoothed[-1] > 4 * min(smoothed):
                    break
        except NonFiniteError:
            pass
        finally:
            trainer.batches.close()
    losses = losses[: next((index for index, loss in enumerate(losses) if not math.isfinite(loss)), len(losses))]
    smoothed = smooth(losses)
    return LearningRateScan(tuple(rates[: len(losses)]), tuple(losses), tuple(smoothed), _steepest(rates, smoothed))


def smooth(losses: Sequence[float], decay: float = 0.9) -> list[float]:
    """Exponential moving average with bias correction."""
    average, smoothed = 0.0, []
    for index, loss in enumerate(losses, start=1):
        average = decay * average + (1 - decay) * loss
        smoothed.append(average / (1 - decay**index))
    return smoothed


def _steepest(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """The learning rate where the smoothed loss falls fastest before its minimum, in windows of a tenth of the scan."""
    width = max(2, len(smoothed) // 10)
    least = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    drops = {start: smoothed[start] - smoothed[start + width] for start in range(max(0, least - width + 1))}
    if not drops or max(drops.values()) <= 0:
        return None
    best = max(drops, key=drops.__getitem__)
    return math.sqrt(rates[best] * rates[best + width])
