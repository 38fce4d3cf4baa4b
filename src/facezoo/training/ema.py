"""Averages of the weights: exponential (EMA), or the plain mean from some epoch on (SWA)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from facezoo.training.distributed import Distributed
from facezoo.training.sharding import local_state
from facezoo.weights.run_format import is_training_only, placed_like


class WeightAverage:
    """Moving average of every parameter and buffer of a module: ``average = d · average + (1 - d) · value``.

    Floating-point buffers (batch norm statistics) are averaged with the same decay, so that they match the averaged weights;
    integer buffers (counters) are copied. The decay warms up as ``min(decay, (1 + t) / (10 + t))``, so that the random initial
    weights do not affect short trainings. The average is stored in float32 or float64.

    Without a decay it is the plain mean of the weights over all updates after ``start`` (SWA, 1803.05407), and before that the
    current weights.

    Args:
        module: the module to follow.
        decay: decay per update, in (0, 1); None for the plain mean.
        start: number of updates before the plain mean starts.
    """

    def __init__(self, module: nn.Module, decay: float | None, *, start: int = 0) -> None:
        if decay is not None and not 0 < decay < 1:
            raise ValueError(f"decay must lie in (0, 1); got {decay}")
        self.decay, self.start = decay, start
        self.tensors = {name: _wide(value.detach()).clone() for name, value in _state(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, updates: int) -> None:
        """Include the weights after ``updates`` updates (1 after the first)."""
        plain = 1 / max(updates - self.start, 1)
        weight = plain if self.decay is None else 1 - min(self.decay, (1 + updates) / (10 + updates))
        averages, values = [], []
        for name, value in _state(module).items():
            average = self.tensors[name]
            if average.is_floating_point():
                averages.append(average)
                values.append(value.to(average.dtype))
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, weight)

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """Load the average into ``module`` for the block; the module's own weights are restored at the end, also after an
        error."""
        own, state = local_state(module), module.state_dict()
        own |= {name: own[name].detach().clone() for name in self.tensors}
        lent = own | self.tensors
        try:
            module.load_state_dict({name: placed_like(value, state[name]) for name, value in lent.items()}, strict=True)
            yield
        finally:
            module.load_state_dict({name: placed_like(value, state[name]) for name, value in own.items()}, strict=True)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore a saved average. Raises ValueError if the names differ."""
        if tensors.keys() != self.tensors.keys():
            differ = ", ".join(name[:60] for name in sorted(tensors.keys() ^ self.tensors.keys())[:3])
            raise ValueError(f"the saved average is of another network: {differ} ...")
        with torch.no_grad():
            for name, value in tensors.items():
                self.tensors[name].copy_(value)


@torch.no_grad()
def recalibrate(objective: nn.Module, average: WeightAverage, batches: Iterable[Tensor], dist: Distributed) -> None:
    """Recompute the running statistics of batch norms for the averaged weights, which must be loaded in ``objective``.

    The mean over batches and ranks is stored in ``objective`` and in ``average``. Frozen batch norms do not change.

    Args:
        objective: module with ``model``, in training mode; the mode is restored.
        average: the average that gets the statistics.
        batches: images (N, C, H, W).
        dist: rank and world size.
    """
    model = objective.get_submodule("model")
    modes = {name: module.training for name, module in model.named_modules()}
    norms = {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
    }
    momenta = {name: norm.momentum for name, norm in norms.items()}
    device = next(model.parameters()).device
    model.eval()  # no dropout
    try:
        for norm in norms.values():
            norm.reset_running_stats()
            norm.momentum = None  # plain mean over the batches
            norm.train()
        for images in batches if norms else ():
            model(images.to(device))
    finally:
        for name, norm in norms.items():
            norm.momentum = momenta[name]
        for name, module in model.named_modules():
            module.training = modes[name]
    for name, norm in norms.items():
        for entry in ("running_mean", "running_var"):
            value = getattr(norm, entry)
            value.copy_(dist.mean(value))
            average.tensors[f"model.{name}.{entry}"].copy_(value)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """The averaged tensors: all except optimizer state."""
    return {name: value for name, value in local_state(module).items() if not is_training_only(name)}


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
