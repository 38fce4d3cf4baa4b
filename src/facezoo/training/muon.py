"""Muon, with orthogonalized momentum for matrices and convolution filters, and AdamW for everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), for convolutional networks too.

    The momentum of a matrix is replaced by the nearest (semi-)orthogonal matrix. A filter bank ``(out, in, h, w)`` is the matrix
    ``(out, in·h·w)``; ``torch.optim.Muon`` refuses it. Groups with ``use_muon=False``, and all vectors, are stepped by AdamW.

    Args:
        params: parameters or groups; a group may say ``use_muon``.
        lr: learning rate. An update of a matrix has the root mean square ``0.2 · lr``, as AdamW's has about (2502.16982), so that
            one learning rate serves both.
        momentum: momentum of the matrices, in Nesterov's form.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled.
        steps: iterations of Newton-Schulz.
        vector_lr_scale: factor on the learning rate of the vectors (norms, biases) of groups that Muon steps.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.02,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        steps: int = 5,
        vector_lr_scale: float = 1.0,
    ) -> None:
        if vector_lr_scale <= 0:
            raise ValueError(f"Muon: vector_lr_scale is above 0, got {vector_lr_scale}")
        if lr < 0 or weight_decay < 0 or eps <= 0 or not 0 <= momentum < 1 or steps < 1:
            raise ValueError(
                "Muon: lr and weight_decay are 0 or more, eps above 0, momentum in [0, 1), steps at least 1; "
                f"got {lr}, {weight_decay}, {eps}, {momentum}, {steps}"
            )
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"steps": steps, "vector_lr_scale": vector_lr_scale}
        super().__init__(params, {**defaults, "use_muon": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One optimizer step. If ``closure`` is given, it recomputes the loss, which is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if group["use_muon"] and parameter.dim() > 1:
                    _muon_step(parameter, parameter.grad, state, group)
                else:
                    # Groups of older checkpoints have no vector_lr_scale.
                    scale = group.get("vector_lr_scale", 1.0) if group["use_muon"] else 1.0
                    _adamw_step(parameter, parameter.grad, state, group, scale * group["lr"])
        return loss


def _muon_step(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    if not state:
        state["momentum_buffer"] = torch.zeros_like(parameter)
    buffer: Tensor = state["momentum_buffer"]
    buffer.lerp_(gradient, 1 - group["momentum"])
    _drop(buffer, below=1e-30)
    update = orthogonal(gradient.lerp(buffer, group["momentum"]).flatten(1), steps=group["steps"])
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    scale = 0.2 * max(update.shape) ** 0.5
    parameter.add_(update.view_as(parameter).to(parameter.dtype), alpha=-group["lr"] * scale)


def _adamw_step(parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any], lr: float) -> None:
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    state["step"] += 1
    done = int(state["step"])
    beta1, beta2 = group["betas"]
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    parameter.mul_(1 - lr * group["weight_decay"])
    root = (state["exp_avg_sq"] / (1 - beta2**done)).sqrt_().add_(group["eps"])
    parameter.addcdiv_(state["exp_avg"], root, value=-lr / (1 - beta1**done))


def orthogonal(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """Approximately the nearest (semi-)orthogonal matrix ``(m, n)``, with all singular values near 1, by Newton-Schulz.

    bfloat16 on CUDA, float32 elsewhere. A matrix of zeros stays zero.
    """
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else torch.float32)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = _drop(x / (x.norm() + 1e-7), below=1e-9)  # of 5 steps each multiplies a singular value by 3.4 at most
    # For shorter rows the factor is more work; bfloat16, on a GPU, is too coarse for it.
    long = x.shape[1] > 1.75 * x.shape[0]
    x = _factor(x @ x.T, steps) @ x if long and not x.is_cuda else _iterate(x, steps)
    return x if wide else x.T


def _iterate(x: Tensor, steps: int) -> Tensor:
    """``x`` after some steps of Newton-Schulz, (m, n)."""
    a, b, c = _NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _factor(gram: Tensor, steps: int) -> Tensor:
    """The product of the factors of all steps, (m, m), from ``x @ x.T``.

    Each step multiplies ``x`` by a polynomial of its Gram matrix, and the next Gram matrix follows from this one. With the nine
    times longer rows of a 3×3 convolution that is 0.4 of the work of :func:`_iterate`. It needs the precision of float32: small
    singular values are squared.
    """
    a, b, c = _NEWTON_SCHULZ
    product: Tensor | None = None
    for done in range(steps):
        step = b * gram + c * gram @ gram
        step.diagonal().add_(a)
        product = step if product is None else step @ product
        if done < steps - 1:
            gram = step @ gram @ step
    assert product is not None
    return product


def _drop(matrix: Tensor, *, below: float) -> Tensor:
    """Set tiny entries to 0, in place.

    The momentum of a filter whose input or output is dead decays to denormal numbers, which a CPU multiplies many times slower.
    """
    return matrix if matrix.is_cuda else matrix.masked_fill_(matrix.abs() < below, 0.0)
