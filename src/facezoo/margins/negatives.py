"""The other classes in the loss of a sample: a pointwise form ν(c) of the cosine, and a reduction over the classes.

The logit of sample i for another class j is ``z_ij = scale_i · ν(c_ij) + offset_i``; the reduction gives one number per sample.
Every engine takes value, slope and bound of a form from its class here (or beside the margin that uses it): with the dense
engine, autograd uses the slope as the derivative of the value; the chunked engine multiplies by the slope in its own backward
pass. The fused kernel has its own formulas for some forms, which a test compares with these; other forms use the chunked engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor
from typing_extensions import dataclass_transform

from facezoo.registry import Registry, unknown_name_message

Reduction = Literal["logsumexp", "softplus", "square"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)

Form = TypeVar("Form", bound="type[Negatives]")


class Coefficients(NamedTuple):
    """Inputs of a form besides the cosine and its options. Both are constant in the backward pass.

    Attributes:
        threshold: f, a number per sample, often the target cosine with its margin, in a shape that broadcasts with the
            cosines; None if the form has no threshold.
        factor: t, a running number of the margin, 0-dimensional; None if the form has no factor.
    """

    threshold: Tensor | None = None
    factor: Tensor | None = None


@dataclass_transform(kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Plain cosines, ``ν(c) = c``, as in most margins. Other forms are subclasses.

    A subclass declares its constants as typed fields and defines ``value`` and ``slope``; it becomes a frozen dataclass::

        @register_negatives("hard_affine")
        class HardAffine(Negatives):
            factor: float
            shift: float
            reads_threshold = True

            def value(self, cosine, coefficients): ...
            def slope(self, cosine, coefficients): ...

    Args:
        reduction: function of a sample's logits: ``log Σ exp z``, ``Σ log(1 + exp z)`` or ``Σ z²``.

    Raises:
        ValueError: an unknown reduction, or a constant that is not finite.
    """

    name: ClassVar[str] = ""
    reads_threshold: ClassVar[bool] = False
    is_identity: ClassVar[bool] = True
    """Whether a logit is the cosine times the scale; true only for this class."""

    reduction: Reduction = "logsumexp"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name, cls.is_identity = "", False  # a separate form, not the plain one it inherits from
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        if self.reduction not in REDUCTIONS:
            raise ValueError(unknown_name_message("reduction of the negatives", str(self.reduction), REDUCTIONS))
        for field, number in zip(self._constant_names(), self.constants, strict=True):
            if not math.isfinite(number):
                raise ValueError(f"{field} of the negatives is a finite number; got {number!r}")

    @property
    def constants(self) -> tuple[float, ...]:
        """The values of the subclass's fields, in order."""
        return tuple(float(getattr(self, name)) for name in self._constant_names())

    @property
    def bound(self) -> float | None:
        """A number that \\|ν(c)\\| never exceeds for cosines; None if none is known. It spares an engine the search for the largest
        logit."""
        return 1.0 if self.is_identity else None

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """ν(c), elementwise, for cosines of any shape."""
        return cosine

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """∂ν/∂c with constant coefficients, elementwise; or another factor, if the paper defines the gradient differently."""
        return torch.ones_like(cosine)

    def differentiable(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """ν(c) with :meth:`slope` as its gradient, for autograd.

        Its second derivative is not that of the formula: the slope is a constant of the graph.
        """
        with torch.no_grad():
            value, slope = self.value(cosine, coefficients), self.slope(cosine, coefficients)
        return value + slope * (cosine - cosine.detach())

    @classmethod
    def _constant_names(cls) -> list[str]:
        return [field.name for field in fields(cls) if field.name != "reduction"]


NEGATIVES: Registry[type[Negatives]] = Registry("form of the negatives", listed_by="facezoo.margins.NEGATIVES.list()")


def register_negatives(name: str) -> Callable[[Form], Form]:
    """Register a form of the negatives: a decorator for a subclass of :class:`Negatives`.

    Raises:
        TypeError: it is not a subclass.
        DuplicateNameError: the name is taken.
    """

    def decorate(form: Form) -> Form:
        if not (isinstance(form, type) and issubclass(form, Negatives)):
            raise TypeError(f"a form of the negatives is a subclass of facezoo.margins.Negatives, got {form!r}")
        NEGATIVES.register(name, form)
        form.name = name
        return form

    return decorate


register_negatives("identity")(Negatives)
PLAIN = Negatives()


@register_negatives("filter")
class Filter(Negatives):
    """Plain cosines; those above ``limit`` are ignored: ``ν(c) = -∞``."""

    limit: float

    @property
    def bound(self) -> float | None:
        """1."""
        return 1.0

    def value(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """``c``, or -∞."""
        return cosine.masked_fill(cosine > self.limit, -math.inf)

    def slope(self, cosine: Tensor, coefficients: Coefficients) -> Tensor:
        """1, or 0."""
        return (cosine <= self.limit).to(cosine.dtype)


def threshold_of(coefficients: Coefficients) -> Tensor:
    """The threshold. Raises ValueError if the margin has none."""
    if coefficients.threshold is None:
        raise ValueError("this form compares with a threshold per sample: the margin needs a method `thresholds`")
    return coefficients.threshold


def factor_of(coefficients: Coefficients) -> Tensor:
    """The running factor. Raises ValueError if the margin has none."""
    if coefficients.factor is None:
        raise ValueError("this form reads a running factor: the margin's `thresholds` has to return one")
    return coefficients.factor
