"""Folding batch norms into adjacent layers."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from facezoo.deploy._watch import Call, Flow, watch
from facezoo.evaluation.calibration import network_fingerprint
from facezoo.layers import BorderBiasConv2d
from facezoo.models import FaceNetwork, FeatureNetwork
from facezoo.models.network import Backbone
from facezoo.ops.folding import batch_norm_affine, fold_after, fold_before

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_Self = TypeVar("_Self", bound="_InferenceOnly")


class _InferenceOnly(nn.Module):
    def train(self: _Self, mode: bool = True) -> _Self:
        """Stay in evaluation mode.

        Raises:
            RuntimeError: ``mode`` is True.
        """
        if mode:
            raise RuntimeError(
                "a fused network has no batch norms left and cannot be trained: train the network it was made from, "
                "then call facezoo.fuse again"
            )
        return super().train(False)


class FusedFaceNetwork(_InferenceOnly, FaceNetwork):
    """A :class:`facezoo.models.FaceNetwork` after :func:`fuse`: the same methods and attributes, evaluation only."""


class FusedFeatureNetwork(_InferenceOnly, FeatureNetwork):
    """A :class:`facezoo.models.FeatureNetwork` after :func:`fuse`: the same maps, evaluation only."""


_FUSED: dict[type[Backbone], type[Backbone]] = {FaceNetwork: FusedFaceNetwork, FeatureNetwork: FusedFeatureNetwork}


def fuse(model: Any) -> Any:
    """A new network for inference that computes the same with fewer operations.

    - Blocks with a ``reparameterise`` method (RepVGG) are replaced by a single convolution.
    - A batch norm after a convolution or linear layer is folded into it.
    - A batch norm before such a layer is folded into it too. If that convolution is padded (IResNet), its bias becomes a map
      with other values at the border, see :class:`facezoo.layers.BorderBiasConv2d`.

    The order of the layers is recorded in a forward pass of one image on the meta device, so blocks of third parties are folded
    as well. A batch norm without such a neighbor (DenseNet's, between a concatenation and an activation) stays, in evaluation
    mode; :func:`remaining_norms` lists these.

    Args:
        model: a network of :func:`facezoo.create_model`, on any device, in any mode, memory format and floating-point type. It is
            not changed.

    Returns:
        A copy in evaluation mode, without gradients. It has all methods and attributes of the network; ``train()`` is an error.
        Outputs, and the maps of ``forward_features``, are equal up to rounding, so galleries and calibrations of the network are
        the copy's too: its ``fingerprint`` is that of the network.

    Raises:
        TypeError: ``model`` is not a facezoo network, or it is wrapped (fuse first, then compile).
    """
    if isinstance(model, _InferenceOnly):
        return copy.deepcopy(model)
    if type(model) not in _FUSED:
        raise TypeError(
            f"fuse expects a network of facezoo.create_model, got {type(model).__name__}; "
            "fuse first, then wrap it with torch.compile or the like"
        )
    fused = copy.deepcopy(model).eval()
    fused.fingerprint = network_fingerprint(model)
    for module in list(fused.modules()):
        if callable(getattr(module, "reparameterise", None)):
            module.reparameterise()
    _plain_norms(fused)
    fused.requires_grad_(False)
    flow = watch(fused)
    left = [call for call in flow.calls if call.layer and isinstance(fused.get_submodule(call.layer), _BATCH_NORM)]
    # First the norms after layers: norms before a layer are then folded into its final weight.
    left = [call for call in left if not _fold_behind(fused, flow, call)]
    for call in left:
        _fold_in_front(fused, flow, call)
    fused.__class__ = _FUSED[type(model)]
    return fused


def _plain_norms(model: nn.Module) -> None:
    """Replace every synchronized batch norm by a plain one: in evaluation they compute the same."""
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, nn.SyncBatchNorm):
                plain = _AnyBatchNorm(norm.num_features, eps=norm.eps, affine=False)
                plain.weight, plain.bias, plain.affine = norm.weight, norm.bias, norm.affine
                plain.running_mean, plain.running_var = norm.running_mean, norm.running_var
                setattr(parent, name, plain.eval())


class _AnyBatchNorm(_BATCH_NORM):
    """A batch norm for vectors and maps, like the synchronized one."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


def remaining_norms(model: nn.Module) -> list[str]:
    """Names of the batch norms in ``model``; in a fused network, those that could not be folded."""
    return [name for name, module in model.named_modules() if isinstance(module, _BATCH_NORM)]


def _fold_behind(model: nn.Module, flow: Flow, norm: Call) -> bool:
    """Fold ``norm`` into the layer before it, or into all layers whose outputs are concatenated before it."""
    source = flow.producer(norm.data)
    if flow.uses[norm.layer or ""] != 1 or source is None or flow.only_consumer(norm.data) is not norm:
        return False
    parts: list[Call | None] = [source]
    if source.function in (torch.cat, torch.concat):  # along the channels, or their widths do not add up
        parts = [flow.producer(tensor) if flow.only_consumer(tensor) is source else None for tensor in source.inputs]
    layers = [_foldable_layer(model, flow, part) for part in parts]
    widths = [_out_features(layer) for layer in layers if layer is not None]
    if len(widths) != len(layers) or sum(widths) != norm.data.shape[1]:
        return False
    scale, shift = _affine(model, norm)
    for layer, part_scale, part_shift in zip(layers, scale.split(widths), shift.split(widths), strict=True):
        assert layer is not None
        weight, bias = fold_after(layer.weight, layer.bias, part_scale, part_shift)
        _set_weights(layer, weight, bias)
    _replace(model, norm.layer, nn.Identity())
    return True


def _fold_in_front(model: nn.Module, flow: Flow, norm: Call) -> bool:
    """Fold ``norm`` into the only layer that uses its output, directly or flattened."""
    target = flow.only_consumer(norm.output)
    if target is not None and _flattens(target):
        target = flow.only_consumer(target.output)
    layer = _foldable_layer(model, flow, target)
    if flow.uses[norm.layer or ""] != 1 or layer is None or target is None:
        return False
    scale, shift = _affine(model, norm)
    if isinstance(layer, nn.Linear):
        cells = layer.in_features // len(scale)
        if target.data.dim() != 2 or cells * len(scale) != layer.in_features:
            return False
        # A flattened map is ordered by channel.
        weight, taps = fold_before(layer.weight, scale.repeat_interleave(cells), shift.repeat_interleave(cells))
    else:
        weight, taps = fold_before(layer.weight, scale, shift, layer.groups)
    if isinstance(layer, nn.Conv2d) and _pads(layer):
        _set_weights(layer, weight, layer.bias)
        map_size = (norm.data.shape[-2], norm.data.shape[-1])
        _replace(model, target.layer, BorderBiasConv2d(layer, taps, map_size))
    else:
        constant = taps.flatten(1).sum(dim=1)
        _set_weights(layer, weight, constant if layer.bias is None else layer.bias.double() + constant)
    _replace(model, norm.layer, nn.Identity())
    return True


def _foldable_layer(model: nn.Module, flow: Flow, call: Call | None) -> nn.Conv2d | nn.Linear | None:
    """The convolution or linear layer of ``call``, if it is called only once and its channels are in dimension 1."""
    if call is None or call.layer is None or flow.uses[call.layer] != 1:
        return None
    layer = model.get_submodule(call.layer)
    if isinstance(layer, nn.Conv2d) or (isinstance(layer, nn.Linear) and call.output.dim() == 2):
        return layer
    return None


def _out_features(layer: nn.Conv2d | nn.Linear) -> int:
    return layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features


def _affine(model: nn.Module, norm: Call) -> tuple[Tensor, Tensor]:
    module: Any = model.get_submodule(norm.layer or "")
    return batch_norm_affine(module.running_mean, module.running_var, module.weight, module.bias, module.eps)


def _flattens(call: Call) -> bool:
    """Whether ``call`` flattens every image's maps to one vector, channel by channel."""
    name = getattr(call.function, "__name__", "")
    return name in ("flatten", "reshape", "view") and call.output.shape == (len(call.data), call.data[0].numel())


def _pads(conv: nn.Conv2d) -> bool:
    """Whether ``conv`` pads with zeros. Other padding modes are separate calls before it, so nothing is folded through them."""
    return conv.kernel_size != (1, 1) if conv.padding == "same" else conv.padding != "valid" and any(conv.padding)


def _set_weights(layer: nn.Conv2d | nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Set the weights of ``layer``, in its dtype; strides, and with them the memory format, stay."""
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    layer.bias = None if bias is None else nn.Parameter(bias.to(dtype), requires_grad=False)


def _replace(model: nn.Module, name: str | None, module: nn.Module) -> None:
    assert name is not None
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module.eval())
