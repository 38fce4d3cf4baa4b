"""Margins on the target cosine, as plain functions of an ``(N,)`` tensor.

All functions are differentiable by autograd, with finite values and gradients on [-1, 1] and a rounding error beyond.

Two traps determine the code: the gradients of ``acos`` and ``sqrt(1 - c²)`` are infinite at |c| = 1, and ``torch.where`` passes
on an infinite gradient even from the branch that is not selected.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from facezoo.ops.checks import TOO_LONG, check_finite

Easy = Literal["monotone", "easy", "none"]

# Below this length a vector has no direction: its unit vector is zero and so is its gradient.
ZERO_NORM = 1e-12


def unit_vectors(x: Tensor, what: str | None = "vectors") -> tuple[Tensor, Tensor]:
    """Directions and lengths of the rows of ``x``.

    Unlike with ``F.normalize``, a zero row gets a zero gradient (not 1e12), and a row whose squared length is out of range is
    an error (NaN if nothing is checked, see :func:`~facezoo.ops.check_finite`), not a zero row.

    Args:
        x: ``(..., D)``.
        what: name of the rows, for the message; None checks nothing and returns NaN.

    Returns:
        ``(unit, norm)``: ``(..., D)`` rows of length 1 (0 for a zero row), and their original lengths, ``(..., 1)``.

    Raises:
        NonFiniteError: the squared length of a row is not finite.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if what is not None:
        check_finite(norm, f"the squared lengths of the {what}", hint=TOO_LONG)
    # Dividing by infinity makes value and gradient of a zero row zero; vector_norm's own gradient is zero there too. The last
    # term is zero, and NaN for an infinite length.
    return x / (torch.where(norm > ZERO_NORM, norm, math.inf) + 0.0 * norm.detach()), norm


def guarded_sine(cosine: Tensor) -> Tensor:
    """``sin θ ≥ 0`` from ``cos θ``: exact in value, with a finite gradient at θ = 0 and π.

    Closer to ±1 than the rounding of the dtype, sin θ is treated as a constant: its gradient there is 0 instead of infinite.

    Args:
        cosine: any shape, in [-1, 1] up to rounding.

    Returns:
        A tensor of the shape of ``cosine``, in [0, 1].
    """
    square = (1.0 - cosine) * (1.0 + cosine)  # 1 - c*c would cancel near ±1
    guarded = square.clamp_min(torch.finfo(cosine.dtype).eps).sqrt()
    return guarded + (square.clamp_min(0.0).sqrt() - guarded).detach()


def additive_cosine_margin(cosine: Tensor, margin: float) -> Tensor:
    """``cos θ - m``: CosFace (1801.09414), AM-Softmax (1801.05599).

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        margin: m, a difference of cosines.
    """
    return cosine - margin


def additive_angular_margin(cosine: Tensor, margin: float, *, easy: Easy = "monotone") -> Tensor:
    """``cos(θ + m)``: ArcFace (1801.07698).

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        margin: m, in radians.
        easy: how to continue where θ + m leaves [0, π] and cos(θ + m) would rise again. ``"monotone"``: ``cos θ - m·sin m`` where
            cos θ ≤ cos(π - m). ``"easy"``: no margin where cos θ ≤ 0. ``"none"``: the plain formula.
    """
    return combined_margin(cosine, 1.0, margin, 0.0, easy=easy)


def combined_margin(cosine: Tensor, m1: float, m2: float, m3: float, *, easy: Easy = "monotone") -> Tensor:
    """``cos(m1·θ + m2) - m3``: the three margins together (1801.07698, equation 4).

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        m1: factor of the angle.
        m2: added to the angle, in radians.
        m3: taken from the cosine.
        easy: see :func:`additive_angular_margin`. For m1 ≠ 1 ``"monotone"`` starts at θ₀ = (π - m2) / m1, where the margin has
            increased the angle by π - θ₀, and continues with ``cos θ - (π - θ₀)·sin θ₀ - m3``. ``"easy"`` uses none of the
            three margins where cos θ ≤ 0.
    """
    sine = guarded_sine(cosine)
    if m1 == 1.0:
        margined = cosine * math.cos(m2) - sine * math.sin(m2) - m3
    else:
        margined = torch.cos(m1 * torch.atan2(sine, cosine) + m2) - m3
    if easy == "easy":
        return torch.where(cosine > 0.0, margined, cosine)
    last_angle = monotone_limit(m1, m2)
    if easy == "none" or last_angle >= math.pi:
        return margined
    continued = cosine - (math.pi - last_angle) * math.sin(last_angle) - m3
    return torch.where(cosine > math.cos(last_angle), margined, continued)


def monotone_limit(m1: float, m2: float) -> float:
    """The angle in radians up to which ``cos(m1·θ + m2)`` decreases with θ; if it is above π, it decreases everywhere."""
    return (math.pi - m2) / m1


def angular_margin_per_sample(cosine: Tensor, margin: Tensor, *, easy: Easy = "monotone") -> Tensor:
    """``cos(θ + m_i)`` with a separate margin for each sample, differentiable in both.

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        margin: m_i, in radians, ``(N,)``.
        easy: as for :func:`additive_angular_margin`.
    """
    margined = cosine * torch.cos(margin) - guarded_sine(cosine) * torch.sin(margin)
    if easy == "easy":
        return torch.where(cosine > 0.0, margined, cosine)
    if easy == "none":
        return margined
    return torch.where(cosine > -torch.cos(margin), margined, cosine - margin * torch.sin(margin))


def folded_angular_margin(cosine: Tensor, margin: float) -> Tensor:
    """``ψ(θ) = (-1)^k cos(m·θ) - 2k`` with ``k = ⌊m·θ/π⌋`` for any m of at least 1: SphereFace-R (2109.05565), v0.

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        margin: m, a factor of the angle.
    """
    angle = margin * torch.atan2(guarded_sine(cosine), cosine)
    with torch.no_grad():
        k = torch.floor(angle / math.pi).clamp(0, math.ceil(margin) - 1)
        sign = 1.0 - 2.0 * (k % 2.0)
    return sign * torch.cos(angle) - 2.0 * k


def clipped_angular_margin(cosine: Tensor, factor: float = 1.0, shift: Tensor | float = 0.0) -> Tensor:
    """``cos(min(max(m·θ + g, 0), π))``: SphereFace-R (2109.05565), v1, and AdaFace's angular part (2204.00964).

    Where the angle is clipped the gradient is zero.

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        factor: m, multiplies the angle.
        shift: g, added to the angle, in radians; a number or ``(N,)``.
    """
    angle = factor * torch.atan2(guarded_sine(cosine), cosine) + shift
    return torch.cos(angle.clamp(0.0, math.pi))


def multiplicative_angular_margin(cosine: Tensor, margin: int) -> Tensor:
    """``ψ(θ) = (-1)^k cos(m·θ) - 2k`` with ``k = ⌊m·θ/π⌋``: SphereFace (1704.08063).

    cos(m·θ) is the Chebyshev polynomial T_m(cos θ), so its gradient is always finite.

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        margin: m, a whole number of at least 1.
    """
    before, multiple = torch.ones_like(cosine), cosine  # cos 0θ, cos 1θ
    for _ in range(margin - 1):
        before, multiple = multiple, 2.0 * cosine * multiple - before
    with torch.no_grad():
        angle = torch.acos(cosine.clamp(-1.0, 1.0))
        k = torch.floor(angle * (margin / math.pi)).clamp(max=margin - 1)
        sign = 1.0 - 2.0 * (k % 2.0)
    return sign * multiple - 2.0 * k


def annealed_margin(cosine: Tensor, margined: Tensor, weight: Tensor | float) -> Tensor:
    """``(λ·cos θ + φ) / (1 + λ)``: a margin annealed by λ, from far above 1 (no margin) to 0 (the full margin).

    Args:
        cosine: cosine of each sample with its own class center, ``(N,)``.
        margined: φ, the cosine with its margin, ``(N,)``.
        weight: λ, not negative.
    """
    return (weight * cosine + margined) / (1.0 + weight)


def sphereface_annealing(
    iteration: Tensor, *, lambda_max: float = 1000.0, lambda_min: float = 5.0, gamma: float = 0.12
) -> Tensor:
    """SphereFace's schedule ``λ = max(λ_min, λ_max / (1 + γ·iteration))`` (1704.08063 and its published settings).

    Args:
        iteration: number of the training step, from 1; 0-dimensional.
        lambda_max: λ at the start.
        lambda_min: λ at the end.
        gamma: speed of the fall, per step.

    Returns:
        λ, 0-dimensional, on the device of ``iteration`` (without a synchronization).
    """
    return (lambda_max / (1.0 + gamma * iteration)).clamp_min(lambda_min)


def detach_margin(cosine: Tensor, margined: Tensor) -> Tensor:
    """The value of ``margined`` with the gradient of ``cosine``: ∂φ/∂cos θ = 1.

    insightface has done this since December 2022: it leaves out the paper's factor, sin(θ + m) / sin θ for ArcFace.
    """
    return cosine + (margined - cosine).detach()
