"""Networks on the meta device: building them without storage, a forward pass with shapes only, counting multiply-accumulates."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facezoo.modes import drop_hooks, private_view

_INITIALIZERS = {
    *(Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_normal_, nn.init.kaiming_uniform_, nn.init.constant_),
}


class _Undrawn(TorchFunctionMode):
    """Skip initialization: without storage it would only take time and import torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _INITIALIZERS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextmanager
def without_storage() -> Iterator[None]:
    """In the block, modules are built on the meta device without random initialization."""
    with torch.device("meta"), _Undrawn():
        yield


def stand_ins(model: nn.Module) -> dict[str, Tensor]:
    """Empty tensors on the meta device in place of the parameters and buffers of ``model``, frozen where those are."""
    return {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def parameters_of(module: nn.Module) -> int:
    """Number of parameters of ``module``, trainable or not, without buffers."""
    return sum(parameter.numel() for parameter in module.parameters())


def meta_forward(model: Any, batch_size: int = 1, *, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """The output of ``model`` for a batch of images of its preprocessing's size, as an empty tensor on the meta device.

    The network's modules run in their current mode, with their tensors replaced by :func:`stand_ins` (or ``tensors``) for the
    call. If others use the network, pass a :func:`facezoo.modes.private_view`. Nothing is copied or computed, and changes of
    the network (frozen, fused, checkpointed, cast) are respected.
    """
    from torch.func import functional_call  # imported here, since everything that builds a network imports this file

    dtype = next((tensor.dtype for tensor in model.parameters()), torch.float32)
    images = torch.empty(batch_size, model.in_chans, *model.preprocessing.img_size, device="meta", dtype=dtype)
    return functional_call(model, dict(stand_ins(model) if tensors is None else tensors), (images,))


def count_macs(model: Any) -> dict[str, int]:
    """Multiply-accumulates for one image, by module name; ``""`` is the whole network.

    Only convolutions and matrix products count; the number is half of torch's FLOP count.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, SameShape(UNCOUNTED):
        view = private_view(model, training=False)
        drop_hooks(view)
        meta_forward(view)
    root = f"{type(model).__name__}."
    counts = {name.removeprefix(root): sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    return {**counts, "": counter.get_total_flops() // 2}


NORMS: frozenset[Any] = frozenset({nn.functional.batch_norm})
# What torch computes the shapes of slowest, and what has no multiply-accumulates.
UNCOUNTED: frozenset[Any] = NORMS | {
    nn.functional.layer_norm,
    nn.functional.gelu,
    nn.functional.hardsigmoid,
    nn.functional.hardswish,
    nn.functional.hardtanh,
    torch.prelu,
}


class SameShape(TorchFunctionMode):
    """These functions return an empty tensor like their input, which takes no time on the meta device."""

    def __init__(self, functions: Collection[Any]) -> None:
        super().__init__()
        self.functions = functions

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.functions:
            return torch.empty_like(args[0] if args else kwargs["input"])
        return func(*args, **(kwargs or {}))
