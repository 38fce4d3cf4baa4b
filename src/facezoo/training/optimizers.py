"""Parameter groups and torch's own optimizers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from facezoo.training.config import TrainConfig


def parameter_groups(
    backbone: nn.Module, others: nn.Module, *, weight_decay: float, head_weight_decay: float, head_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for the optimizer; norms and biases (one-dimensional parameters) are not decayed.

    Args:
        backbone: the network; its own ``parameter_groups(weight_decay)`` is used if it has one.
        others: what is trained beside it (head, joint losses).
        weight_decay: of the backbone's matrices and filters.
        head_weight_decay: of the matrices of ``others``, such as class centers.
        head_lr_scale: factor on the learning rate of ``others``.

    Returns:
        Groups with ``params``, ``weight_decay`` and ``lr_scale``.
    """
    own = getattr(backbone, "parameter_groups", None)
    groups = list(own(weight_decay)) if callable(own) else _split(backbone.parameters(), weight_decay)
    groups = [{**group, "lr_scale": group.get("lr_scale", 1.0)} for group in groups]
    groups += [{**group, "lr_scale": head_lr_scale} for group in _split(others.parameters(), head_weight_decay)]
    return [group for group in groups if group["params"]]


def require_all_parameters(groups: Iterable[dict[str, Any]], module: nn.Module) -> None:
    """Check that the groups hold each trainable parameter of ``module`` exactly once, and nothing else.

    Raises:
        ValueError: names the parameters that the optimizer would never see, or sees twice. A head that was created but not
            handed to the optimizer is the usual case: its class centers would stay random.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters() if parameter.requires_grad}
    seen: dict[int, int] = {}
    for group in groups:
        for parameter in group["params"]:
            seen[id(parameter)] = seen.get(id(parameter), 0) + 1
    missing = [name for key, name in names.items() if key not in seen]
    twice = [names.get(key, "?") for key, count in seen.items() if count > 1]
    foreign = sum(key not in names for key in seen)
    if missing:
        raise ValueError(f"the optimizer never sees {len(missing)} trainable parameter(s): {_some(missing)}")
    if twice:
        raise ValueError(f"parameters in more than one group of the optimizer: {_some(twice)}")
    if foreign:
        raise ValueError(f"the optimizer holds {foreign} parameter(s) that are frozen or not part of what is trained")


def require_gradients(module: nn.Module) -> None:
    """Check, after a backward pass, that every trainable parameter got a gradient.

    Raises:
        RuntimeError: names the parameters that did not take part in the loss.
    """
    missing = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    if missing:
        raise RuntimeError(
            f"{len(missing)} trainable parameter(s) got no gradient: {_some(missing)}; they take no part in the loss. "
            "Set requires_grad=False on what shall not be trained"
        )


def create_optimizer(config: TrainConfig, groups: list[dict[str, Any]], device: torch.device) -> torch.optim.Optimizer:
    """SGD or AdamW of torch, fused on CUDA, over ``groups`` (see :func:`parameter_groups`)."""
    fused = True if device.type == "cuda" else None
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            groups, lr=config.lr, betas=(config.momentum, config.beta2), weight_decay=config.weight_decay, fused=fused
        )
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        fused=fused,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to ``lr`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def _split(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
