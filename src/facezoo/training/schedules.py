"""Learning rate schedules: pure functions of the progress of the run, so there is no state to save and resuming is exact.

A schedule takes an :class:`At` and its own options, and returns the factor on the peak learning rate. It is called for every
update after the warm-up. To add one::

    @register_schedule("square_root")
    def square_root(at: At) -> float:
        return (1 - at.progress) ** 0.5
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from facezoo.registry import Registry, unknown_name_message

Schedule = Callable[..., float]

SCHEDULES: Registry[Schedule] = Registry("schedule", listed_by="facezoo.training.list_schedules()")


def register_schedule(name: str) -> Callable[[Schedule], Schedule]:
    """Decorator that registers a function ``(at, *, options) -> factor`` as a schedule."""
    return SCHEDULES.register(name)


def list_schedules() -> list[str]:
    """Names of all schedules, including those of plugins."""
    return SCHEDULES.list()


@dataclass(frozen=True)
class At:
    """The progress of a run.

    Attributes:
        update: updates done so far, 0 at the first one.
        total: updates of the whole training.
        warmup: updates of the warm-up.
        per_epoch: updates of an epoch.
        final: factor at the end, fraction of 1; the setting ``final_lr``.
        history: selection value of every evaluation so far, higher is better.
    """

    update: int
    total: int
    warmup: int
    per_epoch: int
    final: float = 0.0
    history: Sequence[float] = ()

    @property
    def progress(self) -> float:
        """Completed fraction of the training after the warm-up, in [0, 1]."""
        return min((self.update - self.warmup) / max(self.total - self.warmup, 1), 1.0)

    @property
    def epoch(self) -> float:
        """Epochs done so far, including the warm-up."""
        return self.update / self.per_epoch


def learning_rate_factor(schedule: Schedule, options: Mapping[str, Any], at: At) -> float:
    """Factor on the peak learning rate at one update: linear warm-up, then ``schedule`` with its ``options``.

    The factor of the first update is ``1 / (warmup + 1)``, not 0.
    """
    if at.update < at.warmup:
        return (at.update + 1) / (at.warmup + 1)
    return schedule(at, **options)


def factors_of_epoch(schedule: Schedule, options: Mapping[str, Any], first: At) -> list[float]:
    """The factors of all updates of an epoch that begins at ``first``."""
    updates = range(first.update, first.update + first.per_epoch)
    return [learning_rate_factor(schedule, options, replace(first, update=update)) for update in updates]


def same_so_far(schedule: Schedule, options: Mapping[str, Any], at: At, *, total: int) -> bool:
    """Whether a run of ``total`` updates would have the same factors up to ``at`` as the run that ``at`` belongs to."""
    done = [replace(at, update=update) for update in range(at.update)]
    return all(
        schedule(here, **options) == schedule(replace(here, total=total), **options) for here in done[at.warmup :]
    )


def find_schedule(name: str, options: Mapping[str, Any], at: At) -> Schedule:
    """The schedule called ``name``; its options are tested at the first and the last update.

    Raises:
        UnknownNameError: an unknown schedule.
        ValueError: an unknown option, or a value out of range.
    """
    known = [key for key in inspect.signature(SCHEDULES[name]).parameters if key != "at"]
    for key in options:
        if key not in known:
            raise ValueError(unknown_name_message(f"option of the schedule {name!r}", key[:200], known))
    for update in (at.warmup, at.total - 1):
        try:
            factor = SCHEDULES[name](At(update, at.total, at.warmup, at.per_epoch, at.final), **options)
        except TypeError as error:
            raise ValueError(f"schedule {name!r}: {str(error)[:200]}") from None
        if not 0 <= factor < math.inf:
            raise ValueError(
                f"schedule {name!r} gives the factor {factor} at update {update}; it must be finite, 0 or more"
            )
    return SCHEDULES[name]


def warmup_cosine(update: int, *, total: int, warmup: int = 0, final: float = 0.0) -> float:
    """Factor on the peak learning rate at one update: linear warm-up, then half a cosine (arXiv 1608.03983, no restarts).

    Args:
        update: number of updates done so far, 0 at the first one.
        total: updates of the whole training.
        warmup: updates of the warm-up; the factor of the first one is ``1 / (warmup + 1)``, not 0.
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


@register_schedule("constant")
def constant(at: At) -> float:
    """Constant at the peak."""
    return 1.0


@register_schedule("cosine")
def cosine(at: At) -> float:
    """Half a cosine from 1 to ``final`` (1608.03983, without restarts)."""
    return warmup_cosine(at.update, total=at.total, warmup=at.warmup, final=at.final)


@register_schedule("polynomial")
def polynomial(at: At, *, power: float = 2.0) -> float:
    """``final + (1 - final) · (1 - progress)^power``."""
    if not 0 < power < math.inf:
        raise ValueError(f"power must be above 0; got {power}")
    return at.final + (1 - at.final) * (1 - at.progress) ** power


@register_schedule("linear")
def linear(at: At) -> float:
    """Linear from 1 to ``final``, as arcface_torch's polynomial of power 1."""
    return polynomial(at, power=1.0)


@register_schedule("step")
def step(at: At, *, every: float = 10.0, gamma: float = 0.1) -> float:
    """Multiply by ``gamma`` after every ``every`` epochs."""
    _require_factor(gamma)
    if every <= 0:
        raise ValueError(f"every is a number of epochs above 0; got {every}")
    return gamma ** int(at.epoch / every)


@register_schedule("multi_step")
def multi_step(at: At, *, milestones: Sequence[float], gamma: float = 0.1, unit: str = "epochs") -> float:
    """Multiply by ``gamma`` at each of ``milestones``, in ``unit``: ``"epochs"`` or ``"updates"``."""
    _require_factor(gamma)
    if not milestones or any(milestone <= 0 for milestone in milestones):
        raise ValueError(f"milestones are {unit} above 0, at least one; got {str(milestones)[:200]}")
    if unit not in ("epochs", "updates"):
        raise ValueError(f"unit is 'epochs' or 'updates'; got {str(unit)[:200]!r}")
    updates = at.per_epoch if unit == "epochs" else 1
    return gamma ** sum(at.update >= round(milestone * updates) for milestone in milestones)


@register_schedule("warm_restarts")
def warm_restarts(at: At, *, first: float = 10.0, factor: float = 1.0) -> float:
    """Cosine with restarts (SGDR, 1608.03983): the first cycle has ``first`` epochs, each later one is ``factor`` times
    longer."""
    if first <= 0 or factor < 1:
        raise ValueError(f"first is a number of epochs above 0 and factor at least 1; got {first}, {factor}")
    length = max(round(first * at.per_epoch), 1)
    done = at.update - at.warmup
    while done >= length:
        done, length = done - length, max(round(length * factor), 1)
    return at.final + (1 - at.final) * 0.5 * (1 + math.cos(math.pi * done / length))


@register_schedule("one_cycle")
def one_cycle(at: At, *, rise: float = 0.3, start: float = 0.04) -> float:
    """Up from ``start`` in the first ``rise`` of the training, down to ``final`` in the rest, each half a cosine (1708.07120)."""
    if at.warmup:
        raise ValueError("one_cycle has a rise of its own: set warmup_epochs to 0")
    if not (0 < rise < 1 and 0 < start <= 1):
        raise ValueError(f"rise lies in (0, 1) and start in (0, 1]; got {rise}, {start}")
    if at.progress < rise:
        return start + (1 - start) * 0.5 * (1 - math.cos(math.pi * at.progress / rise))
    return at.final + (1 - at.final) * 0.5 * (1 + math.cos(math.pi * (at.progress - rise) / (1 - rise)))


@register_schedule("wsd")
def wsd(at: At, *, cooldown: float = 0.2) -> float:
    """Warm-up, stable, decay (2404.06395): 1 until the last ``cooldown`` of the training, then ``1 - √`` down to ``final``."""
    if not 0 < cooldown <= 1:
        raise ValueError(f"cooldown is the share of the training that cools down, in (0, 1]; got {cooldown}")
    cooled = (at.progress - (1 - cooldown)) / cooldown
    return 1.0 if cooled <= 0 else at.final + (1 - at.final) * (1 - math.sqrt(min(cooled, 1.0)))


@register_schedule("plateau")
def plateau(at: At, *, gamma: float = 0.1, patience: int = 3, threshold: float = 1e-4) -> float:
    """Multiply by ``gamma`` after more than ``patience`` evaluations that do not improve on the best by ``threshold``."""
    _require_factor(gamma)
    if type(patience) is not int or patience < 0:
        raise ValueError(f"patience is a number of evaluations, 0 or more; got {patience}")
    factor, best, bad = 1.0, -math.inf, 0
    for value in at.history:
        better = value > best + threshold
        best, bad = (value, 0) if better else (best, bad + 1)
        if bad > patience:
            factor, bad = factor * gamma, 0
    return max(factor, at.final)


def _require_factor(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"gamma is a factor in (0, 1]; got {gamma}")
