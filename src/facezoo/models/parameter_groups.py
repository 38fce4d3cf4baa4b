"""Groups of parameters for an optimizer: weight decay where it belongs, learning rates that shrink towards the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import nn


class ParameterGroup(TypedDict):
    """One group, as ``torch.optim`` takes it.

    Attributes:
        params: the parameters.
        weight_decay: their decay.
        lr_scale: factor of the learning rate; the caller multiplies.
    """

    params: list[nn.Parameter]
    weight_decay: float
    lr_scale: float


def parameter_groups(
    model: nn.Module, layers: Sequence[nn.Module], weight_decay: float, layer_decay: float | None = None
) -> list[ParameterGroup]:
    """Groups that together hold every trainable parameter of ``model`` once.

    Vectors and scalars (norms, biases, PReLU slopes, layer scales) get no weight decay, nor do the parameters that a module names
    in ``no_weight_decay`` (positions).

    Args:
        model: the network.
        layers: its layers from the image to the end, the steps of layer decay. A parameter in none of them, such as one of a
            module that was added to the network, counts with the last.
        weight_decay: decay of the other parameters.
        layer_decay: factor in (0, 1] by which the learning rate shrinks from each layer to the one before it; None for 1.

    Raises:
        ValueError: a factor out of range, or no parameter is trainable.
    """
    if layer_decay is not None and not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"layer_decay is a factor in (0, 1], got {layer_decay}")
    last = len(layers) - 1
    layer_of = {id(p): index for index, layer in enumerate(layers) for p in layer.parameters()}
    spared = {id(getattr(part, name)) for part in model.modules() for name in getattr(part, "no_weight_decay", ())}
    groups: dict[tuple[int, bool], ParameterGroup] = {}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.dim() > 1 and id(parameter) not in spared
        layer = last if layer_decay is None else layer_of.get(id(parameter), last)
        scale = (layer_decay or 1.0) ** (last - layer)
        new: ParameterGroup = {"params": [], "weight_decay": weight_decay if decays else 0.0, "lr_scale": scale}
        groups.setdefault((layer, decays), new)["params"].append(parameter)
    if not groups:
        raise ValueError("no parameter of this network is trainable: call requires_grad_(True) on what should learn")
    return list(groups.values())
