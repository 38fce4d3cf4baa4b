"""Weights of losses that change during a training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from facezoo.checks import is_real, is_whole, plain_number
from facezoo.registry import unknown_name_message

Shape = Literal["linear", "cosine"]


@dataclass(frozen=True)
class WeightSchedule:
    """A weight that goes from ``initial`` to ``weight``.

    Constant: ``WeightSchedule(0.003)``. Warm-up: ``WeightSchedule(0.003, warmup=500)``. Ramp from one value to another, later on:
    ``WeightSchedule(0.1, initial=1.0, delay=2000, warmup=8000)``. Half a cosine instead of a straight line: ``shape="cosine"``.

    Args:
        weight: weight from step ``delay + warmup`` on; finite, not negative.
        initial: weight up to step ``delay``; finite, not negative.
        delay: number of steps before anything changes.
        warmup: number of steps of the change; 0 jumps.
        shape: ``"linear"``, or ``"cosine"``, which is smooth at both ends.
    """

    weight: float
    initial: float = 0.0
    delay: int = 0
    warmup: int = 0
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        for name in ("weight", "initial", "delay", "warmup"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        for name in ("weight", "initial"):
            value = getattr(self, name)
            if not is_real(value) or value < 0:
                raise ValueError(f"{name} is a finite number, not negative; got {value!r}")
        for name in ("delay", "warmup"):
            value = getattr(self, name)
            if not is_whole(value, 0):
                raise ValueError(f"{name} is a number of steps, 0 or more; got {value!r}")
        if self.shape not in ("linear", "cosine"):
            raise ValueError(
                unknown_name_message("shape", str(self.shape), ("linear", "cosine"), hint="linear or cosine")
            )

    @property
    def is_constant(self) -> bool:
        """Whether the weight is the same at every step."""
        return self.delay == self.warmup == 0 or self.initial == self.weight

    def at(self, step: Tensor | int) -> Tensor:
        """The weight at a step.

        Args:
            step: number of steps before this one; with a 0-dimensional tensor the weight is on its device, without a
                synchronization.

        Returns:
            0-dimensional float32.
        """
        done = torch.as_tensor(step, dtype=torch.float32) - self.delay
        progress = (done / self.warmup).clamp(0.0, 1.0) if self.warmup else (done >= 0).float()
        if self.shape == "cosine":
            progress = 0.5 - 0.5 * torch.cos(math.pi * progress)
        return torch.lerp(torch.full_like(progress, self.initial), torch.full_like(progress, self.weight), progress)
