"""Parameter groups, and optimizers by name: torch's own, Muon, and those that a plugin registers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from facezoo.registry import Registry, UnknownNameError, unknown_name_message
from facezoo.training.muon import Muon

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class OptimizerOptions:
    """Options of optimizers. Each optimizer uses those that it has.

    Attributes:
        lr: peak learning rate.
        momentum: of SGD; beta1 of the Adam family.
        beta2: decay of the second moment.
        nesterov: Nesterov's form of the momentum.
        weight_decay: default for groups without a weight decay of their own.
        fused: whether torch's fused kernels may be used.
        further: additional options of this optimizer.
    """

    lr: float
    momentum: float = 0.9
    beta2: float = 0.999
    nesterov: bool = False
    weight_decay: float = 0.0
    fused: bool = False
    further: Mapping[str, Any] = field(default_factory=dict)


OptimizerFactory = Callable[[Groups, OptimizerOptions], torch.optim.Optimizer]

OPTIMIZERS: Registry[OptimizerFactory] = Registry("optimizer", listed_by="facezoo.training.list_optimizers()")

# Their state is not one tensor per parameter and name, or they need sparse gradients: a run could not be resumed exactly.
_REFUSED = {"lbfgs": "it calls the loss several times in a step", "sparseadam": "it needs sparse gradients"}


def register_optimizer(name: str) -> Callable[[OptimizerFactory], OptimizerFactory]:
    """Decorator that registers a function ``(groups, options) -> optimizer`` by name. See :class:`OptimizerOptions`."""
    return OPTIMIZERS.register(name)


def list_optimizers() -> list[str]:
    """Names of all optimizers: the registered ones and those of ``torch.optim``, in lower case."""
    return sorted({*OPTIMIZERS.list(), *(name for name in _torch_optimizers() if name not in _REFUSED)})


def create_optimizer(name: str, groups: Groups, options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer called ``name`` over ``groups`` (see :func:`parameter_groups`).

    Args:
        name: a registered one, or any class of ``torch.optim`` in any case: ``sgd``, ``adamw``, ``RAdam``.
        groups: dictionaries with ``params``.
        options: learning rate and the rest.

    Raises:
        UnknownNameError: an unknown optimizer.
        ValueError: an optimizer with which a run cannot be resumed, or an unknown option.
    """
    registered = next((own for own in (name, name.lower()) if own in OPTIMIZERS), None)
    if registered is not None:
        return OPTIMIZERS[registered](groups, options)
    found = _torch_optimizers().get(name.lower())
    if name.lower() in _REFUSED:
        raise ValueError(f"optimizer {name!r} cannot be used here: {_REFUSED[name.lower()]}")
    if found is None:
        hint = "facezoo.training.list_optimizers() lists all"
        raise UnknownNameError(unknown_name_message("optimizer", name[:200], list_optimizers(), hint=hint))
    return build_optimizer(found, groups, options)


def build_optimizer(
    kind: Callable[..., torch.optim.Optimizer], groups: Groups, options: OptimizerOptions
) -> torch.optim.Optimizer:
    """Build an optimizer with the options that its constructor has. Raises ValueError if one of ``further`` is unknown."""
    accepted = inspect.signature(kind).parameters
    given: dict[str, Any] = {"lr": options.lr, "momentum": options.momentum, "weight_decay": options.weight_decay}
    given |= {"betas": (options.momentum, options.beta2), "nesterov": options.nesterov}
    given |= {"fused": True} if options.fused else {}
    unknown = [key for key in options.further if key not in accepted or key == "params"]
    if unknown:
        label = getattr(kind, "__name__", str(kind))
        raise ValueError(unknown_name_message(f"option of the optimizer {label}", unknown[0][:200], accepted))
    arguments = {key: value for key, value in given.items() if key in accepted} | dict(options.further)
    if isinstance(arguments.get("betas"), list):
        arguments["betas"] = tuple(arguments["betas"])
    if kind is torch.optim.SGD and arguments.get("dampening"):
        arguments["fused"] = False  # its first step is not the one from a momentum of zero
    optimizer = kind(groups, **arguments)
    if kind is torch.optim.SGD and arguments.get("fused"):
        _start_momentum(optimizer)
    return optimizer


def _start_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Begin with a momentum of zero, which gives the same first step.

    torch's fused SGD leaves the memory of the momentum as it finds it where a gradient scaler skips the first step.
    """
    for group in optimizer.param_groups:
        if group["momentum"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


@register_optimizer("muon")
def muon(groups: Groups, options: OptimizerOptions) -> torch.optim.Optimizer:
    """Muon for the backbone's matrices and filters, AdamW for norms, biases and everything outside the backbone."""
    own = [{**group, "use_muon": not group.get("beside", False)} for group in groups]
    return build_optimizer(Muon, own, options)


def _torch_optimizers() -> dict[str, type[torch.optim.Optimizer]]:
    found = {name.lower(): getattr(torch.optim, name) for name in dir(torch.optim)}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }


# -- parameter groups ----------------------------------------------------------------------------------------------------------


def parameter_groups(
    backbone: nn.Module,
    others: nn.Module,
    *,
    weight_decay: float,
    head_weight_decay: float,
    head_lr_scale: float = 1.0,
    layer_decay: float | None = None,
) -> Groups:
    """Groups for the optimizer; norms and biases (one-dimensional parameters) have no weight decay.

    Args:
        backbone: the network; its own ``parameter_groups(weight_decay)`` is used if it has one.
        others: other trained modules (head, joint losses).
        weight_decay: weight decay of the backbone's matrices and filters.
        head_weight_decay: weight decay of the matrices of ``others``, such as class centers.
        head_lr_scale: factor on the learning rate of ``others``.
        layer_decay: factor on the learning rate from each block of the backbone to the one before it.

    Returns:
        Groups with ``params``, ``weight_decay``, ``lr_scale`` and, for ``others``, ``beside``.

    Raises:
        ValueError: ``layer_decay`` with a backbone that has no ``parameter_groups``.
    """
    own = getattr(backbone, "parameter_groups", None)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        groups = []  # the backbone is frozen: only the other modules are trained
    elif callable(own):
        groups = list(own(weight_decay) if layer_decay is None else own(weight_decay, layer_decay))
    elif layer_decay is not None:
        raise ValueError("layer_decay needs a backbone with parameter_groups(weight_decay, layer_decay)")
    else:
        groups = _split(backbone.parameters(), weight_decay)
    groups = [{**group, "lr_scale": group.get("lr_scale", 1.0)} for group in groups]
    beside = {"lr_scale": head_lr_scale, "beside": True}
    groups += [{**group, **beside} for group in _split(others.parameters(), head_weight_decay)]
    return [group for group in groups if group["params"]]


def scale_learning_rates(
    groups: Groups, scales: Mapping[str, Iterable[nn.Parameter]], factors: Mapping[str, float]
) -> Groups:
    """Give parts of the network their own learning rates.

    Args:
        groups: as from :func:`parameter_groups`.
        scales: parameters by the name of their part; a parameter in several parts gets the product.
        factors: factor on the learning rate by the name of the part.
    """
    factor_of: dict[int, float] = {}
    for name, parameters in scales.items():
        for parameter in parameters:
            factor_of[id(parameter)] = factor_of.get(id(parameter), 1.0) * factors[name]
    split: Groups = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factor_of.get(id(parameter), 1.0), []).append(parameter)
        split += [{**group, "params": own, "lr_scale": group["lr_scale"] * factor} for factor, own in by_factor.items()]
    return split


def require_all_parameters(groups: Iterable[dict[str, Any]], module: nn.Module) -> None:
    """Check that the groups contain each trainable parameter of ``module`` exactly once, and nothing else.

    Raises:
        ValueError: names the parameters that are missing from the groups or occur twice. The usual cause is a head that was
            not passed to the optimizer: its class centers would stay random.
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


def _split(parameters: Iterable[nn.Parameter], weight_decay: float) -> Groups:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
