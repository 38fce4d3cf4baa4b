"""Networks that somebody else holds too: what is inside a wrapper, and a view of a network in another mode.

Using a network must not change it. ``module.eval()`` changes it for everybody who holds it: another thread that trains, or that
infers at the same time. A view has modules of its own over the same tensors, so its mode is its own.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel, an average of weights or ``torch.compile``, or ``model`` itself.

    Also unwrapped is a module without parameters of its own whose only child is called ``module`` (other libraries' averages).

    Raises:
        TypeError: FullyShardedDataParallel, whose parts hold a piece of the weights only.
    """
    while True:
        if type(model).__name__ == "FullyShardedDataParallel":
            raise TypeError(
                "a FullyShardedDataParallel network holds a piece of the weights: save a full state dict and load it "
                "into the network itself"
            )
        if isinstance(model, _WRAPPERS) or _only_wraps(model):
            model = cast(nn.Module, model.module)
        elif _is_compiled(model):
            model = cast(nn.Module, model._orig_mod)
        else:
            return model


def compiled_part(model: nn.Module) -> nn.Module | None:
    """What ``torch.compile`` gave, inside the wrappers around it or ``model`` itself; None if nothing is compiled there."""
    while not _is_compiled(model):
        if not (isinstance(model, _WRAPPERS) or _only_wraps(model)):
            return None
        model = cast(nn.Module, model.module)
    return model


def compiled_method(compiled: nn.Module, name: str) -> Callable[..., Any]:
    """The method ``name`` of the network inside ``torch.compile(network)``, compiled as the network is.

    ``torch.compile`` compiles the call alone: another method, taken from what it gives, runs eagerly.
    """
    context: Any = compiled.dynamo_ctx
    return cast(Callable[..., Any], context(getattr(unwrap(compiled), name)))


def view_in_mode(model: Module, *, training: bool) -> Module:
    """``model`` itself if every module of it is in that mode, else a view of it that is.

    The view has modules of its own, with the parameters, buffers and hooks of ``model``. It runs eagerly, even where ``model`` was
    compiled in place. It serves for one computation: what is replaced in ``model`` later is not seen.

    Raises:
        TypeError: a scripted module in the other mode, of which there is no view.
    """
    if all(module.training == training for module in model.modules()):
        return model
    return private_view(model, training=training)


def private_view(model: Module, *, training: bool) -> Module:
    """As :func:`view_in_mode`, but never ``model`` itself: hooks added and tensors exchanged in it are not seen by others."""
    views: dict[int, nn.Module] = {}
    view = _view(model, training, views)
    for module in views.values():
        for key, value in list(module.__dict__.items()):
            if isinstance(value, types.MethodType) and id(value.__self__) in views:
                module.__dict__[key] = types.MethodType(value.__func__, views[id(value.__self__)])
    return cast(Module, view)


def drop_hooks(model: nn.Module) -> None:
    """Take away the hooks that a user put on ``model``, a copy or a private view: a count of shapes is no call of the network.

    Those of torch itself (pruning, weight normalization) stay, since they make the weights, and those of facezoo, which count.
    """
    for module in model.modules():
        for hooks in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._backward_hooks,
            module._backward_pre_hooks,
        ):
            for key, hook in list(hooks.items()):
                while isinstance(hook, functools.partial):
                    hook = hook.func
                where = getattr(hook, "__module__", None) or type(hook).__module__
                if not where.startswith(("torch.", "facezoo.")):
                    del hooks[key]


def _view(module: nn.Module, training: bool, views: dict[int, nn.Module]) -> nn.Module:
    if id(module) in views:
        return views[id(module)]
    if isinstance(module, torch.jit.ScriptModule):
        wanted = "train" if training else "eval"
        raise TypeError(f"a scripted network keeps its mode to itself: call {wanted}() on it before")
    view = module.__new__(type(module))
    views[id(module)] = view
    view.__dict__.update(module.__dict__)
    for compiled in [key for key in module.__dict__ if key.startswith("_compiled_")]:
        del view.__dict__[compiled]
    for key, value in module.__dict__.items():
        if isinstance(value, dict) and (key in ("_parameters", "_buffers") or "_hooks" in key):
            view.__dict__[key] = value.copy()
    view.__dict__["_modules"] = {
        name: None if child is None else _view(child, training, views) for name, child in module._modules.items()
    }
    view.__dict__["training"] = training
    return view


def _only_wraps(model: nn.Module) -> bool:
    """Whether ``model`` adds nothing to the one module in it, which is a network with ``embed``."""
    return (
        not isinstance(model, torch.jit.ScriptModule)
        and list(model._modules) == ["module"]
        and not model._parameters
        and callable(getattr(model._modules["module"], "embed", None))
        and not callable(getattr(type(model), "embed", None))
    )


def _is_compiled(model: nn.Module) -> bool:
    return not isinstance(model, torch.jit.ScriptModule) and "_orig_mod" in model._modules
