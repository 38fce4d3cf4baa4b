# mypy: ignore-errors
# ruff: noqa: RET505
# (What @triton.jit compiles is not Python: it has other types, and a branch on a constant has to be an if with its else.)
"""The forms of the negatives as Triton functions, by name; a test holds them to :class:`facezoo.margins.Negatives`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _angle(c):
    """θ = acos c, to 2e-8: Abramowitz and Stegun 4.4.46 (the language has no acos of its own)."""
    r = tl.minimum(tl.abs(c), 1.0)
    p = -0.0012624911
    p = p * r + 0.0066700901
    p = p * r - 0.0170881256
    p = p * r + 0.0308918810
    p = p * r - 0.0501743046
    p = p * r + 0.0889789874
    p = p * r - 0.2145988016
    p = p * r + 1.5707963050
    theta = tl.sqrt(1.0 - r) * p
    return tl.where(c < 0.0, 3.14159265358979 - theta, theta)


@triton.jit
def _half_power(c, exponent):
    """((c + 1)/2)^exponent; the floor keeps 0^0 from being 0·∞."""
    return tl.exp2(exponent * tl.log2(tl.maximum((c + 1.0) * 0.5, 1e-30)))


@triton.jit
def negative_value(c, f, t, a, b, FORM: tl.constexpr):
    """ν(c)."""
    if FORM == "hard_affine":
        return tl.where(c > f, a * c + b, c)
    elif FORM == "hard_quadratic":
        return tl.where(c > f, c * (t + c), c)
    elif FORM == "gaussian":
        return a * tl.exp((c - f) * (c - f) / -b) * (c + 1.0) - 1.0
    elif FORM == "circle":
        return tl.maximum(c + a, 0.0) * (c - a)
    elif FORM == "filter":
        return tl.where(c > a, float("-inf"), c)
    elif FORM == "power" or FORM == "power_detached":
        return 2.0 * _half_power(c, a) + (b - 1.0)
    elif FORM == "wide_angle" or FORM == "wide_angle_detached":
        return tl.cos(_angle(c) / a)
    else:
        tl.static_assert(FORM == "identity")
        return c


@triton.jit
def negative_slope(c, f, t, a, b, FORM: tl.constexpr):
    """The slope of ν at c."""
    if FORM == "hard_affine":
        return tl.where(c > f, a, 1.0)
    elif FORM == "hard_quadratic":
        return tl.where(c > f, t + 2.0 * c, 1.0)
    elif FORM == "gaussian":
        return a * tl.exp((c - f) * (c - f) / -b) * (1.0 - (2.0 / b) * (c + 1.0) * (c - f))
    elif FORM == "circle":
        return tl.maximum(c + a, 0.0)
    elif FORM == "filter":
        return tl.where(c > a, 0.0, 1.0)
    elif FORM == "power":
        return a * _half_power(c, a - 1.0)
    elif FORM == "wide_angle":
        sine = tl.sqrt(tl.maximum((1.0 - c) * (1.0 + c), 1.1920929e-07))
        return tl.where(c > 1.0 - 4.0 * 1.1920929e-07, 1.0 / (a * a), tl.sin(_angle(c) / a) / (a * sine))
    else:
        tl.static_assert(FORM == "identity" or FORM == "power_detached" or FORM == "wide_angle_detached")
        return tl.full(c.shape, 1.0, tl.float32)


@triton.jit
def softplus(z):
    """log(1 + exp z), exact to rounding for very negative z too: a sum of a million of them depends on it.

    log(1 + e) = 2·artanh(e/(2 + e)), whose argument is at most 1/3: seven terms of its series are enough.
    """
    e = tl.exp(-tl.abs(z))
    r = e / (2.0 + e)
    q = r * r
    s = q * (1.0 / 13.0) + 1.0 / 11.0
    s = s * q + 1.0 / 9.0
    s = s * q + 1.0 / 7.0
    s = s * q + 1.0 / 5.0
    s = s * q + 1.0 / 3.0
    s = s * q + 1.0
    return tl.maximum(z, 0.0) + 2.0 * r * s


@triton.jit
def sigmoid(z):
    """1/(1 + exp(-z)) without an infinity in between."""
    e = tl.exp(-tl.abs(z))
    return tl.where(z < 0.0, e, 1.0) / (1.0 + e)
