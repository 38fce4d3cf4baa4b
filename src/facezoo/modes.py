"""Shared networks: unwrapping, and views of a network in another mode.

Using a network must not change it. ``module.eval()`` changes it for all users, such as another thread that trains it or runs
inference. A view has its own modules with the same tensors, so it has its own mode.
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
        TypeError: FullyShardedDataParallel, whose modules have only a part of the weights.
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
    """The result of ``torch.compile`` inside other wrappers, or ``model`` itself; None if nothing is compiled."""
    while not _is_compiled(model):
        if not (isinstance(model, _WRAPPERS) or _only_wraps(model)):
            return None
        model = cast(nn.Module, model.module)
    return model


def compiled_method(compiled: nn.Module, name: str) -> Callable[..., Any]:
    """The method ``name`` of the network inside ``torch.compile(network)``, compiled with the same settings.

    ``torch.compile`` compiles only the call; other methods of its result run eagerly.
    """
    context: Any = compiled.dynamo_ctx
    return cast(Callable[..., Any], context(getattr(unwrap(compiled), name)))


def view_in_mode(model: Module, *, training: bool) -> Module:
    """``model`` itself if all its modules are in that mode, else a view in that mode.

    The view has its own modules, with the parameters, buffers and hooks of ``model``. It runs eagerly, even if ``model`` was
    compiled in place. Use it for one computation: it does not see parts that are replaced in ``model`` later.

    Raises:
        TypeError: a scripted module in the other mode, for which there is no view.
    """
    if all(module.training == training for module in model.modules()):
        return model
    return private_view(model, training=training)


def private_view(model: Module, *, training: bool) -> Module:
    """Like :func:`view_in_mode`, but never ``model`` itself: hooks and tensors set in it do not affect others."""
    views: dict[int, nn.Module] = {}
    view = _view(model, training, views)
    for module in views.values():
        for key, value in list(module.__dict__.items()):
            if isinstance(value, types.MethodType) and id(value.__self__) in views:
                module.__dict__[key] = types.MethodType(value.__func__, views[id(value.__self__)])
    return cast(Module, view)


def drop_hooks(model: nn.Module) -> None:
    """Remove a user's hooks from ``model``, a copy or a private view, so that they are not called with meta tensors.

    Hooks of torch (pruning, weight normalization) stay, since they compute weights; so do those of facezoo, which count.
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
        raise TypeError(f"the mode of a scripted network cannot be changed here: call {wanted}() on it before")
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
    """Whether ``model`` is only a wrapper around one module, a network with ``embed``."""
    return (
        not isinstance(model, torch.jit.ScriptModule)
        and list(model._modules) == ["module"]
        and not model._parameters
        and callable(getattr(model._modules["module"], "embed", None))
        and not callable(getattr(type(model), "embed", None))
    )


def _is_compiled(model: nn.Module) -> bool:
    return not isinstance(model, torch.jit.ScriptModule) and "_orig_mod" in model._modules
