"""How the cosine with another class becomes its logit: a closed set of pointwise forms ν(c), each with its slope.

``z_ij = scale_i · ν(c_ij) + offset_i``. Every engine takes value and slope from here: the dense one lets autograd see ``value``
with ``slope`` as its derivative (:func:`negative_form`), the chunked one multiplies by ``slope`` in its own backward pass, and a
fused kernel writes the same formulas in its own language and is held to these by a test.

A form reads the cosine ``c`` and up to four coefficients, all constant in the backward pass:

- ``threshold``: f, one per sample, in a shape that broadcasts against c: the target cosine with its margin;
- ``factor``: t, a running number of the margin, 0-dimensional;
- ``a, b``: numbers fixed by the options.

The slope is ∂ν/∂c with the coefficients held constant. It is the derivative of the value except where the papers (or the option
``gradient="detached"``) weight the gradient otherwise, which the table says.

| form | ν(c) | slope | used by |
|---|---|---|---|
| identity | c | 1 | most |
| hard_affine | a·c + b where c > f, else c | a or 1 | MV-Softmax |
| hard_quadratic | c·(t + c) where c > f, else c | t + 2c or 1 | CurricularFace |
| gaussian | w·(c + 1) - 1, w = a·exp(-(c - f)²/b) | w·(1 - 2·(c + 1)·(c - f)/b) | ArcNegFace |
| circle | [c + a]₊·(c - a) | [c + a]₊, the weight held constant | Circle loss |
| filter | -∞ where c > a, else c | 0 or 1 | inter-class filtering |
| power | 2·((c + 1)/2)^a - 1 + b | a·((c + 1)/2)^(a-1) | SphereFace2 |
| power_detached | as power | 1 | SphereFace2 |
| wide_angle | cos(θ/a) | sin(θ/a)/(a·sin θ) | SphereFace-R |
| wide_angle_detached | as wide_angle | 1 | SphereFace-R |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Form = Literal[
    "identity",
    "hard_affine",
    "hard_quadratic",
    "gaussian",
    "circle",
    "filter",
    "power",
    "power_detached",
    "wide_angle",
    "wide_angle_detached",
]

FORMS: tuple[Form, ...] = get_args(Form)


class Coefficients(NamedTuple):
    """What a form reads beside the cosine; see the module's docstring. None where the form reads none."""

    threshold: Tensor | None = None
    factor: Tensor | None = None
    a: float = 0.0
    b: float = 0.0


Pointwise = Callable[[Tensor, Coefficients], Tensor]


def negative_value(form: Form, cosine: Tensor, coefficients: Coefficients) -> Tensor:
    """ν(c), elementwise; the very tensor ``cosine`` for ``"identity"``."""
    return _VALUES[form](cosine, coefficients)


def negative_slope(form: Form, cosine: Tensor, coefficients: Coefficients) -> Tensor:
    """The slope of ν at c, elementwise."""
    return _SLOPES[form](cosine, coefficients)


def negative_form(form: Form, cosine: Tensor, coefficients: Coefficients) -> Tensor:
    """ν(c) with the slope of the table as its gradient, for autograd.

    Its second derivative is not that of the formula: the slope is a constant of the graph.
    """
    if form == "identity":
        return cosine
    with torch.no_grad():
        value, slope = negative_value(form, cosine, coefficients), negative_slope(form, cosine, coefficients)
    return value + slope * (cosine - cosine.detach())


def _threshold(coefficients: Coefficients) -> Tensor:
    if coefficients.threshold is None:
        raise ValueError("this form compares with a threshold per sample, and none was given")
    return coefficients.threshold


def _factor(coefficients: Coefficients) -> Tensor:
    if coefficients.factor is None:
        raise ValueError("this form reads a running factor, and none was given")
    return coefficients.factor


def _hard_affine(c: Tensor, k: Coefficients) -> Tensor:
    return torch.where(c > _threshold(k), k.a * c + k.b, c)


def _hard_affine_slope(c: Tensor, k: Coefficients) -> Tensor:
    return (c > _threshold(k)).to(c.dtype) * (k.a - 1.0) + 1.0  # torch.where of two numbers would be float32


def _hard_quadratic(c: Tensor, k: Coefficients) -> Tensor:
    return torch.where(c > _threshold(k), c * (_factor(k) + c), c)


def _hard_quadratic_slope(c: Tensor, k: Coefficients) -> Tensor:
    return torch.where(c > _threshold(k), _factor(k) + 2.0 * c, 1.0)


def _gaussian_weight(c: Tensor, k: Coefficients) -> Tensor:
    return k.a * torch.exp((c - _threshold(k)).square() / -k.b)


def _gaussian(c: Tensor, k: Coefficients) -> Tensor:
    return _gaussian_weight(c, k) * (c + 1.0) - 1.0


def _gaussian_slope(c: Tensor, k: Coefficients) -> Tensor:
    return _gaussian_weight(c, k) * (1.0 - (2.0 / k.b) * (c + 1.0) * (c - _threshold(k)))


def _circle(c: Tensor, k: Coefficients) -> Tensor:
    return (c + k.a).clamp_min(0.0) * (c - k.a)


def _circle_slope(c: Tensor, k: Coefficients) -> Tensor:
    return (c + k.a).clamp_min(0.0)


def _filter(c: Tensor, k: Coefficients) -> Tensor:
    return c.masked_fill(c > k.a, -math.inf)


def _filter_slope(c: Tensor, k: Coefficients) -> Tensor:
    return (c <= k.a).to(c.dtype)


def _half(c: Tensor) -> Tensor:
    return ((c + 1.0) * 0.5).clamp_min(0.0)  # a rounding error below -1 has no real power


def _power(c: Tensor, k: Coefficients) -> Tensor:
    return 2.0 * _half(c).pow(k.a) + (k.b - 1.0)


def _power_slope(c: Tensor, k: Coefficients) -> Tensor:
    return k.a * _half(c).pow(k.a - 1.0)


def _wide_angle(c: Tensor, k: Coefficients) -> Tensor:
    return torch.cos(torch.acos(c.clamp(-1.0, 1.0)) / k.a)


def _wide_angle_slope(c: Tensor, k: Coefficients) -> Tensor:
    # sin(θ/a)/(a·sin θ) tends to 1/a² at θ = 0 and to infinity at π, where it is cut off at the rounding of the dtype.
    theta = torch.acos(c.clamp(-1.0, 1.0))
    sine = ((1.0 - c) * (1.0 + c)).clamp_min(torch.finfo(c.dtype).eps).sqrt()
    return torch.where(c > 1.0 - 4.0 * torch.finfo(c.dtype).eps, 1.0 / k.a**2, torch.sin(theta / k.a) / (k.a * sine))


def _one(c: Tensor, k: Coefficients) -> Tensor:
    return torch.ones_like(c)


_VALUES: dict[Form, Pointwise] = {
    "identity": lambda c, k: c,
    "hard_affine": _hard_affine,
    "hard_quadratic": _hard_quadratic,
    "gaussian": _gaussian,
    "circle": _circle,
    "filter": _filter,
    "power": _power,
    "power_detached": _power,
    "wide_angle": _wide_angle,
    "wide_angle_detached": _wide_angle,
}

_SLOPES: dict[Form, Pointwise] = {
    "identity": _one,
    "hard_affine": _hard_affine_slope,
    "hard_quadratic": _hard_quadratic_slope,
    "gaussian": _gaussian_slope,
    "circle": _circle_slope,
    "filter": _filter_slope,
    "power": _power_slope,
    "power_detached": _one,
    "wide_angle": _wide_angle_slope,
    "wide_angle_detached": _one,
}
