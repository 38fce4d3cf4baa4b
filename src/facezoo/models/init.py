"""Initialisation, in one place.

============  ==============================  =============================  ======================================
scheme        convolutions                    linear layers                  residual branches
============  ==============================  =============================  ======================================
resnet        N(0, 2 / fan_out)               U(±1/√fan_in), bias 0          last norm starts at 0 (1706.02677)
iresnet       N(0, 0.1²)                      U(±1/√fan_in), bias 0          as they are
mobilenet     N(0, 2 / fan_out)               N(0, 0.01²), bias 0            as they are
mobilefacenet N(0, 2 / fan_out)               U(±1/√fan_in), bias 0          as they are
sphereface    Xavier; N(0, 0.01²) inside    Xavier, bias 0                 as they are
lightcnn      Xavier                         Xavier, bias 0                 as they are
convnext      N(0, 0.02²), bias 0             N(0, 0.02²), bias 0            layer scale 1e-6, set by the block
transformer   N(0, 0.02²), bias 0             N(0, 0.02²), bias 0            as they are
============  ==============================  =============================  ======================================

The code of ConvNeXt and the transformers truncates its normal at ±2, that is 100 standard deviations: a plain normal is the same
and several times faster. Norms start at weight 1 and bias 0. fan_out counts the kernel, divided by the groups. A module of another
type keeps the initialisation of its own constructor; so do class tokens (0) and positions (N(0, 0.02²)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facezoo.registry import unknown_name_message

M = TypeVar("M", bound=nn.Module)
Initialiser = Callable[[Tensor, Any], None]


def _normal_fan_out(weight: Tensor, module: nn.Conv2d) -> None:
    fan_out = module.out_channels * math.prod(module.kernel_size) // module.groups
    nn.init.normal_(weight, 0.0, math.sqrt(2.0 / fan_out))


def _uniform_fan_in(weight: Tensor, module: nn.Module) -> None:
    bound = 1.0 / math.sqrt(weight.shape[1])
    nn.init.uniform_(weight, -bound, bound)


def _normal(weight: Tensor, module: nn.Module, *, std: float) -> None:
    nn.init.normal_(weight, 0.0, std)


def _xavier(weight: Tensor, module: nn.Module) -> None:
    nn.init.xavier_uniform_(weight)


def _xavier_but_small_inside(weight: Tensor, module: nn.Conv2d) -> None:
    """Small where a branch keeps width and size: without norms, branches of full size would add up to ever larger maps."""
    inside = module.in_channels == module.out_channels and module.stride == (1, 1)
    (partial(_normal, std=0.01) if inside else _xavier)(weight, module)


# scheme -> (convolution, linear, whether the last norm of a residual branch starts at zero)
SCHEMES: dict[str, tuple[Initialiser, Initialiser, bool]] = {
    "resnet": (_normal_fan_out, _uniform_fan_in, True),
    "iresnet": (partial(_normal, std=0.1), _uniform_fan_in, False),
    "mobilenet": (_normal_fan_out, partial(_normal, std=0.01), False),
    "mobilefacenet": (_normal_fan_out, _uniform_fan_in, False),
    "transformer": (partial(_normal, std=0.02), partial(_normal, std=0.02), False),
    "sphereface": (_xavier_but_small_inside, _xavier, False),
    "lightcnn": (_xavier, _xavier, False),
    "convnext": (partial(_normal, std=0.02), partial(_normal, std=0.02), False),
}


@torch.no_grad()
def initialise(module: nn.Module, scheme: str) -> None:
    """Initialise every convolution and linear layer below ``module`` by the scheme called ``scheme``, in place.

    Raises:
        ValueError: unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(unknown_name_message("initialisation scheme", scheme, SCHEMES))
    init_conv, init_linear, zero_last_norm = SCHEMES[scheme]
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            (init_conv if isinstance(layer, nn.Conv2d) else init_linear)(layer.weight, layer)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    if zero_last_norm:
        for layer in module.modules():
            last_norm = getattr(layer, "last_norm", None)
            if isinstance(last_norm, nn.BatchNorm2d):
                nn.init.zeros_(last_norm.weight)


class _DeferKaimingUniform(TorchFunctionMode):
    """Note the calls of ``kaiming_uniform_``, the costly part of the constructors of Conv2d and Linear, instead of running them."""

    def __init__(self) -> None:
        super().__init__()
        self.deferred: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not nn.init.kaiming_uniform_:
            return func(*args, **kwargs)
        tensor = kwargs.pop("tensor") if "tensor" in kwargs else args[0]
        self.deferred.append((tensor, tuple(args[1:]) if args else (), kwargs))
        return tensor


def build_initialised(build: Callable[[], M], scheme: str) -> M:
    """Call ``build`` and initialise what it made, without drawing the weights of convolutions and linear layers twice.

    Whatever else the constructors initialise (a third party's own parameters too) is left as they do it.
    """
    with _DeferKaimingUniform() as mode:
        module = build()
    initialise(module, scheme)
    done = {id(layer.weight) for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    for tensor, args, kwargs in mode.deferred:
        if id(tensor) not in done:
            nn.init.kaiming_uniform_(tensor, *args, **kwargs)
    return module
