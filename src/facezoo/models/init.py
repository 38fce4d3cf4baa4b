"""Initialization, in one place.

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

The code of ConvNeXt and the transformers truncates the normal distribution at ±2, that is 100 standard deviations; a plain normal
distribution is equivalent and several times faster. Norms start at weight 1 and bias 0. fan_out counts the kernel, divided by
the groups. A module of another type keeps the initialization of its own constructor; so do class tokens (0) and positions (N(0,
0.02²)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from facezoo.registry import Registry

M = TypeVar("M", bound=nn.Module)
# Prefixes of the layers to initialize; None for all.
_DRAWN: ContextVar[tuple[str, ...] | None] = ContextVar("drawn", default=None)


# Numbers per generator: some milliseconds of work, thousands of times the cost of a generator.
PIECE = 2**19


class Draw(NamedTuple):
    """A distribution for filling a tensor.

    Attributes:
        tensor: floating, any shape and device.
        distribution: ``"normal"``: N(0, width²); ``"uniform"``: U(-width, width).
        width: 0 or more.
    """

    tensor: Tensor
    distribution: Literal["normal", "uniform"]
    width: float


def fill_(draws: Sequence[Draw]) -> None:
    """Fill every tensor, in place.

    torch draws on one thread, from one generator. Here each piece of :data:`PIECE` numbers on the CPU has its own generator,
    seeded from torch's default generator, and the pieces are drawn in parallel. The numbers depend on ``torch.manual_seed``,
    but not on the number of threads.
    """
    pieces: list[Draw] = []
    for draw in draws:
        tensor = draw.tensor.detach()
        if type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.is_contiguous():
            pieces += [Draw(part, draw.distribution, draw.width) for part in tensor.view(-1).split(PIECE)]
        else:
            _fill(Draw(tensor, draw.distribution, draw.width), None)
    if not pieces:
        return
    seeds = torch.randint(2**63 - 1, (len(pieces),), device="cpu").tolist()
    inference = torch.is_inference_mode_enabled()  # threads do not inherit it

    def fill(draw: Draw, seed: int) -> None:
        with torch.inference_mode(inference):
            _fill(draw, seed)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, pieces, seeds))


def _fill(draw: Draw, seed: int | None) -> None:
    generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
    if draw.distribution == "normal":
        draw.tensor.normal_(0.0, draw.width, generator=generator)
    else:
        draw.tensor.uniform_(-draw.width, draw.width, generator=generator)


def _normal_fan_out(conv: nn.Conv2d) -> Draw:
    fan_out = conv.out_channels * math.prod(conv.kernel_size) // conv.groups
    return Draw(conv.weight, "normal", math.sqrt(2.0 / fan_out))


def _uniform_fan_in(linear: nn.Linear) -> Draw:
    return Draw(linear.weight, "uniform", 1.0 / math.sqrt(linear.in_features))


def _normal(layer: nn.Conv2d | nn.Linear, *, std: float) -> Draw:
    return Draw(layer.weight, "normal", std)


def _xavier(layer: nn.Conv2d | nn.Linear) -> Draw:
    outputs, inputs, *kernel = layer.weight.shape
    return Draw(layer.weight, "uniform", math.sqrt(6.0 / ((inputs + outputs) * math.prod(kernel))))


def _xavier_but_small_inside(conv: nn.Conv2d) -> Draw:
    """Small values if a branch keeps width and size: without norms, the sum of full-size branches would grow with depth."""
    inside = conv.in_channels == conv.out_channels and conv.stride == (1, 1)
    return _normal(conv, std=0.01) if inside else _xavier(conv)


class Scheme(NamedTuple):
    """An initialization scheme.

    Attributes:
        conv: distribution of the weights of convolutions.
        linear: distribution of the weights of linear layers.
        zero_last_norm: whether the last norm of a residual branch starts at zero.
    """

    conv: Callable[[nn.Conv2d], Draw]
    linear: Callable[[nn.Linear], Draw]
    zero_last_norm: bool = False


SCHEMES: Registry[Scheme] = Registry("initialization scheme", listed_by="facezoo.models.init.SCHEMES.list()")
register_scheme = SCHEMES.register

register_scheme("resnet", Scheme(_normal_fan_out, _uniform_fan_in, zero_last_norm=True))
register_scheme("iresnet", Scheme(partial(_normal, std=0.1), _uniform_fan_in))
register_scheme("mobilenet", Scheme(_normal_fan_out, partial(_normal, std=0.01)))
register_scheme("mobilefacenet", Scheme(_normal_fan_out, _uniform_fan_in))
register_scheme("transformer", Scheme(partial(_normal, std=0.02), partial(_normal, std=0.02)))
register_scheme("sphereface", Scheme(_xavier_but_small_inside, _xavier))
register_scheme("lightcnn", Scheme(_xavier, _xavier))
register_scheme("convnext", Scheme(partial(_normal, std=0.02), partial(_normal, std=0.02)))


@torch.no_grad()
def initialize(module: nn.Module, scheme: str) -> None:
    """Initialize every convolution and linear layer below ``module`` by the scheme called ``scheme``, in place.

    Raises:
        UnknownNameError: no such scheme.
    """
    init_conv, init_linear, zero_last_norm = SCHEMES[scheme]
    drawn = _DRAWN.get()
    layers = [
        layer
        for name, layer in module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and (drawn is None or f"{name}.".startswith(drawn))
    ]
    fill_([init_conv(layer) if isinstance(layer, nn.Conv2d) else init_linear(layer) for layer in layers])
    for layer in layers:
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    if zero_last_norm:
        for part in module.modules():
            last_norm = getattr(part, "last_norm", None)
            if isinstance(last_norm, nn.BatchNorm2d):
                nn.init.zeros_(last_norm.weight)


@contextmanager
def drawing_only(prefixes: Collection[str]) -> Iterator[None]:
    """In the block, :func:`initialize` leaves convolutions and linear layers uninitialized, except below one of ``prefixes``.

    For networks whose weights are loaded from a file afterwards.
    """
    token = _DRAWN.set(tuple(prefixes))
    try:
        yield
    finally:
        _DRAWN.reset(token)


class _DeferKaimingUniform(TorchFunctionMode):
    """Record the calls of ``kaiming_uniform_``, the slow part of the constructors of Conv2d and Linear, instead of running
    them."""

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


def build_initialized(build: Callable[[], M], scheme: str) -> M:
    """Call ``build`` and initialize the result, without drawing the weights of convolutions and linear layers twice.

    Other parameters (also those of third parties) keep the initialization of their constructors.
    """
    with torch.inference_mode(False):  # parameters created in that mode can never be trained
        return _build_initialized(build, scheme)


def _build_initialized(build: Callable[[], M], scheme: str) -> M:
    with _DeferKaimingUniform() as mode:
        module = build()
    initialize(module, scheme)
    done = {id(layer.weight) for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))}
    for tensor, args, kwargs in mode.deferred:
        if id(tensor) not in done:
            nn.init.kaiming_uniform_(tensor, *args, **kwargs)
    return module
