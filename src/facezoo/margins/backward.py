"""Optimizer step during the backward pass, so that the gradient of all class centers is never stored.

Each block of centers is updated as soon as its gradient is known, and the block's memory is reused. This needs C × D numbers
for the centers and as many for the momentum, instead of three or four times C × D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facezoo.ops.row_steps import adamw_step_, sgd_step_


@dataclass(frozen=True)
class BackwardSGD:
    """``torch.optim.SGD`` for the class centers, in the backward pass; an option of :func:`facezoo.create_margin`.

    Attributes:
        lr: initial learning rate; set ``head.backward_optimizer.lr`` to change it.
        momentum: in [0, 1).
        weight_decay: L2 penalty, 0 or more.
        nesterov: Nesterov's form of the momentum.

    Raises:
        ValueError: a number out of its range.
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check("lr", self.lr)
        _check("weight_decay", self.weight_decay)
        _check("momentum", self.momentum, below=1.0)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is a form of the momentum: it needs a momentum above 0")


@dataclass(frozen=True)
class BackwardAdamW:
    """``torch.optim.AdamW`` for the class centers, in the backward pass; an option of :func:`facezoo.create_margin`.

    Attributes:
        lr: initial learning rate; set ``head.backward_optimizer.lr`` to change it.
        betas: decay of the means of gradient and squared gradient, each in [0, 1).
        eps: added to the square root of the second mean.
        weight_decay: decoupled, 0 or more.

    Raises:
        ValueError: a number out of its range.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check("lr", self.lr)
        _check("weight_decay", self.weight_decay)
        _check("eps", self.eps)
        for beta in self.betas:
            _check("betas", beta, below=1.0)


BackwardSettings = BackwardSGD | BackwardAdamW


class BackwardOptimizer(nn.Module):
    """The optimizer of the backward pass: its state, as buffers, and the learning rate.

    Every row has its own state, which changes only when the row is updated. With sampled classes, momentum and weight decay do
    not move the centers that were not drawn.

    Args:
        settings: the optimizer's settings.
        weight: the class centers.

    Attributes:
        settings: as given.
        lr: learning rate of the next step, 0 or more. It is not saved: the schedule sets it again after a restart.
    """

    def __init__(self, settings: BackwardSettings, weight: Tensor) -> None:
        super().__init__()
        self.settings = settings
        self._lr = settings.lr
        self._passes = 0
        weight = weight.detach()
        if isinstance(settings, BackwardAdamW):
            self.register_buffer("exp_avg", torch.zeros_like(weight))
            self.register_buffer("exp_avg_sq", torch.zeros_like(weight))
            self.register_buffer("steps", torch.zeros_like(weight[..., 0], dtype=torch.float32))
        elif settings.momentum:
            self.register_buffer("momentum", torch.zeros_like(weight))

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        _check("lr", value)
        self._lr = float(value)

    def extra_repr(self) -> str:
        """The settings, and the present learning rate."""
        return f"{self.settings}, lr={self._lr}"

    def guard(self, loss: Tensor) -> None:
        """Raise in the backward pass from ``loss`` if another one has already updated the centers."""
        if loss.requires_grad:
            passes = self._passes

            def check(_: Tensor) -> None:
                if self._passes != passes:
                    raise RuntimeError(
                        "the class centers have been stepped since this loss was computed: with optimizer_in_backward every "
                        "forward pass is followed by its own backward pass, once. Two losses of one head cannot be added up, and a "
                        "graph cannot be used again; without optimizer_in_backward both can"
                    )

            loss.register_hook(check)

    def sink(self, weight: Tensor, rows: Tensor | None = None) -> StepSink:
        """A sink that updates ``weight``, or some of its rows (classes, each once), when their gradient arrives."""
        return StepSink(self, weight, rows)

    def step(self, weight: Tensor, rows: slice | Tensor, gradient: Tensor) -> None:
        """Update some rows of ``weight``, ``(C·K, D)``, with their gradient, which is overwritten."""
        state = {name: _rows(value, weight)[rows] for name, value in self.named_buffers()}
        part = weight[rows]
        settings = self.settings
        if isinstance(settings, BackwardAdamW):
            adamw_step_(
                part,
                gradient,
                **state,
                lr=self._lr,
                betas=settings.betas,
                eps=settings.eps,
                weight_decay=settings.weight_decay,
            )
        else:
            sgd_step_(
                part,
                gradient,
                state.get("momentum"),
                lr=self._lr,
                momentum=settings.momentum,
                weight_decay=settings.weight_decay,
                nesterov=settings.nesterov,
            )
        if isinstance(rows, Tensor):  # these were copies
            weight.index_copy_(0, rows, part)
            for name, value in state.items():
                _rows(self.get_buffer(name), weight).index_copy_(0, rows, value)

    def finish(self) -> None:
        """Count a backward pass."""
        self._passes += 1


class StepSink:
    """A :class:`~facezoo.margins.engines.sinks.GradientSink` that updates the rows instead of storing their gradient."""

    def __init__(self, optimizer: BackwardOptimizer, weight: Tensor, classes: Tensor | None) -> None:
        self._optimizer = optimizer
        self._weight = weight.detach().view(-1, weight.shape[-1])
        per_class = len(self._weight) // len(weight) if len(weight) else 1
        if classes is not None and per_class > 1:
            classes = (classes[:, None] * per_class + torch.arange(per_class, device=classes.device)).flatten()
        self._rows = classes
        self._buffer: Tensor | None = None

    def buffer(self, rows: slice, dtype: torch.dtype) -> Tensor | None:
        """The same memory for every block."""
        size = rows.stop - rows.start
        if self._buffer is None or len(self._buffer) < size or self._buffer.dtype != dtype:
            self._buffer = torch.empty(size, self._weight.shape[1], dtype=dtype, device=self._weight.device)
        return self._buffer[:size]

    def accept(self, rows: slice, gradient: Tensor) -> None:
        """Step these rows."""
        self._optimizer.step(self._weight, rows if self._rows is None else self._rows[rows], gradient)

    def result(self) -> Tensor | None:
        """Autograd gets no gradient."""
        self._optimizer.finish()
        return None


def _rows(state: Tensor, weight: Tensor) -> Tensor:
    """A buffer with one row (or number) per row of ``weight``."""
    return state.view(len(weight), -1) if state.numel() == weight.numel() else state.view(-1)


def _check(name: str, value: Any, below: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < below:
        limit = "a finite number, 0 or more" if below == math.inf else f"a number from 0 up to, but not, {below:g}"
        raise ValueError(f"{name} is {limit}; got {value!r}")
