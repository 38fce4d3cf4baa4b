"""Optimizer steps on some rows of a matrix, in place: the arithmetic of torch.optim."""

from __future__ import annotations

import torch
from torch import Tensor


def sgd_step_(
    weight: Tensor,
    gradient: Tensor,
    momentum_buffer: Tensor | None,
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> None:
    """One step of ``torch.optim.SGD`` (dampening 0).

    Args:
        weight: rows, ``(n, D)``; changed.
        gradient: their gradient, ``(n, D)``; overwritten.
        momentum_buffer: ``(n, D)``, zeros before the first step; changed; None without momentum.
        lr: learning rate.
        momentum: factor on the old momentum, in [0, 1).
        weight_decay: L2 penalty, added to the gradient.
        nesterov: Nesterov's form of the momentum.
    """
    if weight_decay:
        gradient.add_(weight, alpha=weight_decay)
    if momentum_buffer is not None:
        momentum_buffer.mul_(momentum).add_(gradient)
        gradient = gradient.add_(momentum_buffer, alpha=momentum) if nesterov else momentum_buffer
    weight.add_(gradient, alpha=-lr)


def adamw_step_(
    weight: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    steps: Tensor,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> None:
    """One step of ``torch.optim.AdamW``, with a counter for each row.

    Args:
        weight: rows, ``(n, D)``; changed.
        gradient: their gradient, ``(n, D)``; overwritten.
        exp_avg: mean of the gradient, ``(n, D)``; changed.
        exp_avg_sq: mean of its square, ``(n, D)``; changed.
        steps: steps of each row so far, ``(n,)``, floating; changed.
        lr: learning rate.
        betas: decay of the two means.
        eps: added to the square root of the second mean.
        weight_decay: decoupled: the weight is reduced by ``lr * weight_decay`` times itself.
    """
    first, second = betas
    steps.add_(1)
    # In float64: in float32 1 - β₂^t has an error of 1e-5 at the first step.
    steps = steps.double()[:, None]
    step_size = (lr / (1.0 - first**steps)).to(weight.dtype)
    root = (1.0 - second**steps).sqrt_().to(exp_avg_sq.dtype)
    weight.mul_(1.0 - lr * weight_decay)
    exp_avg.lerp_(gradient.to(exp_avg.dtype), 1.0 - first)
    exp_avg_sq.mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
    denominator = torch.div(exp_avg_sq.sqrt(), root).add_(eps)
    weight.sub_(denominator.reciprocal_().mul_(exp_avg).mul_(step_size))
