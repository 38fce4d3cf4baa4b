"""Parameter groups for an optimizer: weight decay by kind of parameter, and layer-wise learning rate decay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from torch import nn


class ParameterGroup(TypedDict):
    """One parameter group for ``torch.optim``.

    Attributes:
        params: the parameters.
        weight_decay: their weight decay.
        lr_scale: factor on the learning rate, to be applied by the caller.
    """

    params: list[nn.Parameter]
    weight_decay: float
    lr_scale: float


def parameter_groups(
    model: nn.Module, layers: Sequence[nn.Module], weight_decay: float, layer_decay: float | None = None
) -> list[ParameterGroup]:
    """Parameter groups with every trainable parameter of ``model`` once.

    Vectors and scalars (norms, biases, PReLU slopes, layer scales) get no weight decay, nor do the parameters that a module names
    in ``no_weight_decay`` (positions).

    Args:
        model: the network.
        layers: its layers from input to output, the steps of layer decay. Parameters outside of them, such as those of an added
            module, belong to the last layer.
        weight_decay: weight decay of the other parameters.
        layer_decay: factor in (0, 1] on the learning rate from each layer to the one before it; None for 1.

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
