"""Networks on the meta device: a forward pass that has shapes and nothing else, and the multiply-accumulates of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facezoo.modes import drop_hooks, private_view


def stand_ins(model: nn.Module) -> dict[str, Tensor]:
    """Empty tensors on the meta device in place of the parameters and buffers of ``model``, frozen where those are."""
    return {
        name: torch.empty_like(tensor, device="meta").requires_grad_(tensor.requires_grad)
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def parameters_of(module: nn.Module) -> int:
    """How many numbers ``module`` learns or has learned: those of its parameters, buffers not counted."""
    return sum(parameter.numel() for parameter in module.parameters())


def meta_forward(model: Any, batch_size: int = 1, *, tensors: Mapping[str, Tensor] | None = None) -> Any:
    """What ``model`` gives for a batch of images of its preprocessing's size, as an empty tensor on the meta device.

    The network's own modules run, in the mode they are in, with :func:`stand_ins` (``tensors``, if there are some already) in the
    place of their tensors meanwhile; give it a :func:`facezoo.modes.private_view` of a network that others hold. Nothing is copied
    or computed, and what was done to the network (frozen, fused, checkpointed, cast) is seen.
    """
    from torch.func import functional_call  # here, since everything that builds a network imports this file

    dtype = next((tensor.dtype for tensor in model.parameters()), torch.float32)
    images = torch.empty(batch_size, model.in_chans, *model.preprocessing.img_size, device="meta", dtype=dtype)
    return functional_call(model, dict(stand_ins(model) if tensors is None else tensors), (images,))


def count_macs(model: Any) -> dict[str, int]:
    """Multiply-accumulates for one image: of the whole under ``""``, of every module that has some under its name.

    Those of convolutions and matrix products count: half of torch's FLOP count.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, SameShapeNorms():
        view = private_view(model, training=False)
        drop_hooks(view)
        meta_forward(view)
    root = f"{type(model).__name__}."
    counts = {name.removeprefix(root): sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    return {**counts, "": counter.get_total_flops() // 2}


class SameShapeNorms(TorchFunctionMode):
    """Batch norms give an empty tensor like their input: what they do in evaluation is no MAC, but most of a pass on meta."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is nn.functional.batch_norm:
            return torch.empty_like(args[0] if args else kwargs["input"])
        return func(*args, **(kwargs or {}))
