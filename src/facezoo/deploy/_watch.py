"""Find out which layer feeds which, by recording a forward pass of one image on the meta device."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facezoo.models.network import Backbone, FaceNetwork
from facezoo.modes import drop_hooks

_BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a torch function.

    Attributes:
        function: the function.
        layer: name of the convolution, linear layer or batch norm that made the call; None for other calls.
        inputs: its tensor arguments in order, including weights.
        outputs: the returned tensors.
        options: non-tensor arguments, by keyword or (as ``"1"``, ``"2"``, …) by position.
    """

    function: Any
    layer: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    options: Mapping[str, Any]

    @property
    def data(self) -> Tensor:
        """The first tensor argument: the activations, in a layer's call."""
        return self.inputs[0]

    @property
    def output(self) -> Tensor:
        """The first tensor returned."""
        return self.outputs[0]


@dataclass
class Flow:
    """All calls, in order. Tensors are kept alive, so that an ``id`` belongs to only one of them.

    Attributes:
        calls: the calls.
        results: ``id`` of the tensors that the network returns to its user; their values must not change.
        uses: how often each layer was called.
    """

    calls: list[Call] = field(default_factory=list)
    results: set[int] = field(default_factory=set)
    uses: Counter[str] = field(default_factory=Counter)
    _producers: dict[int, Call] = field(default_factory=dict)
    _consumers: dict[int, list[Call]] = field(default_factory=lambda: defaultdict(list))

    def add(self, call: Call) -> None:
        """Append a call. An in-place function becomes the producer of its input."""
        self.calls.append(call)
        for tensor in call.inputs:
            self._consumers[id(tensor)].append(call)
        for tensor in call.outputs:
            self._producers[id(tensor)] = call
        if call.layer is not None:
            self.uses[call.layer] += 1

    def producer(self, tensor: Tensor) -> Call | None:
        """The call that produced ``tensor``; None for images and weights."""
        return self._producers.get(id(tensor))

    def only_consumer(self, tensor: Tensor) -> Call | None:
        """The only call that uses ``tensor``; None if there are several, or if it is a result."""
        consumers = self._consumers[id(tensor)]
        return consumers[0] if len(consumers) == 1 and id(tensor) not in self.results else None


def watch(model: Backbone) -> Flow:
    """Record the calls of a forward pass of one image (``model.preprocessing.img_size``) in a copy of ``model``, in evaluation
    mode."""
    shadow = copy.deepcopy(model).eval().to("meta")
    drop_hooks(shadow)
    flow = Flow()
    images = torch.empty(1, model.in_chans, *model.preprocessing.img_size, device="meta")
    reference = next((parameter for parameter in shadow.parameters() if parameter.is_floating_point()), images)
    images = images.to(reference.dtype)
    with torch.no_grad(), _Recorder(flow, _marks(shadow, without=_sharing(model))):
        if isinstance(shadow, FaceNetwork):
            results = [shadow.forward_features(images)]
            results.append(shadow.forward_head(results[0], pre_logits=True))
            results.append(shadow.classifier(results[1]))
        else:
            results = list(shadow(images))
    flow.results = {id(tensor) for tensor in results}
    return flow


def _marks(model: nn.Module, *, without: set[str]) -> dict[int, str]:
    """For each layer, the ``id`` of the tensor that identifies its call, and the layer's name.

    Layers with a custom forward or a parametrized weight are left out: nothing is folded there.
    """
    marks = {}
    for name, module in model.named_modules():
        forward = type(module).forward
        if isinstance(module, _BATCH_NORM) and module.running_mean is not None and forward is _BATCH_NORM.forward:
            marks[id(module.running_mean)] = name
        elif (
            forward in (nn.Conv2d.forward, nn.Linear.forward) and name not in without and "weight" in module._parameters
        ):
            marks[id(module.weight)] = name
    return marks


def _sharing(model: nn.Module) -> set[str]:
    """Names of modules that share their weight with another module. On the meta device each gets its own weight."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        if (weight := module._parameters.get("weight")) is not None:
            owners[id(weight)].append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}


class _Recorder(TorchFunctionMode):
    def __init__(self, flow: Flow, marks: dict[int, str]) -> None:
        super().__init__()
        self.flow, self.marks = flow, marks

    def __torch_function__(
        self, function: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        outputs = tuple(_tensors(result))
        if not outputs:  # a question about a shape
            return result
        inputs = tuple(tensor for value in (*args, *kwargs.values()) for tensor in _tensors(value))
        if function is F.dropout and outputs[0] is inputs[0]:  # evaluation: nothing happens
            return result
        options = {key: value for key, value in kwargs.items() if not list(_tensors(value))}
        options |= {str(index): value for index, value in enumerate(args) if not list(_tensors(value))}
        layer = next((self.marks[id(tensor)] for tensor in inputs[1:] if id(tensor) in self.marks), None)
        self.flow.add(Call(function, layer, inputs, outputs, options))
        return result


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
