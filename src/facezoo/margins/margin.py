"""The base class of margins: a frozen dataclass of options, with optional methods for the parts of a loss.

The loss of a sample with own class y and other classes j is

    loss = combine(scale·φ + offset, reduction_j(scale·ν(c_j) + offset)) + penalty

φ is :meth:`Margin.target`; ν and the reduction are :attr:`Margin.negatives`; ``combine`` is cross-entropy unless the paper has
another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

from torch import Tensor
from typing_extensions import dataclass_transform

from facezoo.checks import is_real
from facezoo.margins.negatives import NEGATIVES, PLAIN, Coefficients, Negatives
from facezoo.registry import Registry, unknown_name_message

Logits = Literal["scaled_cosine", "norm_cosine", "cosine", "affine"]
Gradient = Literal["exact", "detached"]

_LOGITS: dict[Logits, str] = {
    "scaled_cosine": "scale·cos θ_j",
    "norm_cosine": "‖x‖·cos θ_j",
    "cosine": "cos θ_j",
    "affine": "x·w_j + b_j",
}
_OPTIONAL = ("state", "update", "thresholds", "combine", "penalty", "offset", "running_scale")

Declared = TypeVar("Declared", bound=Callable[..., Any])


@dataclass(frozen=True)
class Batch:
    """The input of a margin, for a batch of N samples.

    Attributes:
        target: similarity of each sample with its own class center (the cosine, or ``x·w_y`` for affine logits), ``(N,)``.
        norm: length of each embedding before normalization, ``(N,)``.
        labels: int64, class among all C, ``(N,)``.
        state: the margin's running state by name.
        noise: standard normal numbers, ``(N,)``; zeros in evaluation mode and if the margin does not set ``uses_noise``.
        negatives: the reduction over the other classes before the state is updated, ``(N,)``; only for the ``update`` of a margin
            that sets ``updates_by_negatives``.
    """

    target: Tensor
    norm: Tensor
    labels: Tensor
    state: Mapping[str, Tensor]
    noise: Tensor
    negatives: Tensor | None = None


@dataclass(frozen=True)
class Stored:
    """Settings for stored embeddings: one per class, stored after each training step.

    Attributes:
        place: ``"mixed"`` into the centers, or ``"only"``: in place of centers.
        start: training steps that only fill the memory.
        share: weight of the stored embedding in the center, 0 to 1; for ``"mixed"``.
        freshness: a stored embedding older than this number of training steps is ignored; for ``"mixed"``.
    """

    place: Literal["mixed", "only"]
    start: int
    share: float = 0.0
    freshness: int = 0


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Margin:
    """A margin-softmax loss. A subclass declares its options as typed fields with defaults; it becomes a frozen dataclass.

    The head uses two options if a margin declares them: ``scale``, which multiplies cosines, and ``gradient``, ``"exact"`` or
    ``"detached"`` (the margin is then a constant in the backward pass, ``cos θ + detach(φ - cos θ)``).

    Only the method ``target`` is required. Define the others if the paper has the corresponding part.

    Attributes:
        title: the paper's name of the loss.
        formula: the target logit, as text.
        paper: arXiv number or venue.
        other_formula: the other classes' logits as text; by default derived from ``logits``.
        logits: how logits are computed from similarities: ``"scaled_cosine"``, ``"norm_cosine"`` (times ‖x‖ instead of a scale),
            ``"cosine"`` or ``"affine"``; a property if it depends on the options.
        negatives: form and reduction of the other classes; a property if it depends on the options.
        warmable: whether ``warmup_steps`` applies: without the margin, φ is the cosine.
        uses_noise: whether ``batch.noise`` is drawn.
        frozen: whether the state is constant with these options.
        updates_by_negatives: whether ``update`` uses ``batch.negatives``, which needs another pass over the classes.
        centers_per_class: number of centers per class; None for one center, without a separate dimension in ``head.weight``.
        stored: settings for stored embeddings of each class; None for none.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    formula: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    other_formula: ClassVar[str] = ""
    description: ClassVar[str] = ""
    warmable: ClassVar[bool] = True
    uses_noise: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    has: ClassVar[frozenset[str]] = frozenset()
    """Which of the optional methods the class has."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = ""  # set by registration, for each class
        dataclass(frozen=True, eq=False, kw_only=True)(cls)
        cls.defaults = MappingProxyType({option.name: option.default for option in fields(cls)})  # type: ignore[arg-type]
        cls.has = frozenset(name for name in _OPTIONAL if getattr(cls, name) is not getattr(Margin, name))

    def __post_init__(self) -> None:
        scale = self.options.get("scale", 1.0)
        if not is_real(scale) or scale <= 0.0:
            raise ValueError(f"scale is a finite number above 0 (typically 30 to 64), got {scale!r}")
        gradient = self.options.get("gradient", "exact")
        if gradient not in get_args(Gradient):
            hint = "'exact' or 'detached'"
            raise ValueError(unknown_name_message("gradient", str(gradient), get_args(Gradient), hint=hint))
        self.check()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_registered, (self.name, dict(self.options))) if self.name else super().__reduce__()  # type: ignore[return-value]

    def __deepcopy__(self, memo: dict[int, Any]) -> Margin:
        return self  # it is immutable

    # -- what a subclass writes ----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise ValueError for options out of range."""

    @property
    def logits(self) -> Logits:
        """See the class."""
        return "scaled_cosine"

    @property
    def negatives(self) -> Negatives:
        """See the class."""
        return PLAIN

    @property
    def frozen(self) -> bool:
        """See the class."""
        return False

    @property
    def updates_by_negatives(self) -> bool:
        """See the class."""
        return False

    @property
    def centers_per_class(self) -> int | None:
        """See the class."""
        return None

    @property
    def stored(self) -> Stored | None:
        """See the class."""
        return None

    def target(self, batch: Batch) -> Tensor:
        """φ, the similarity with the own class after the margin, ``(N,)``: a pure function, differentiable by autograd."""
        raise NotImplementedError(f"{type(self).__name__} has no `target`, the similarity with its margin")

    def state(self, num_classes: int) -> dict[str, Tensor]:
        """The initial running state; the head stores it in buffers with these names."""
        raise NotImplementedError

    def update(self, batch: Batch) -> Mapping[str, Tensor]:
        """New values of the state. Called without gradient once per training step, before ``target``, which uses the new
        values."""
        raise NotImplementedError

    def thresholds(self, batch: Batch, margined: Tensor) -> Coefficients:
        """The thresholds of the form of the negatives, given φ as ``margined``. Called without gradient."""
        raise NotImplementedError

    def combine(self, target_logit: Tensor, negatives: Tensor) -> Tensor:
        """The loss of each sample, ``(N,)``, from its target logit and its reduced negatives. The default is cross-entropy."""
        raise NotImplementedError

    def penalty(self, batch: Batch) -> Tensor:
        """A term that is added to the loss of each sample, ``(N,)``."""
        raise NotImplementedError

    def offset(self, num_classes: int) -> float:
        """Initial value of a learned number that is added to every logit."""
        raise NotImplementedError

    def running_scale(self, state: Mapping[str, Tensor]) -> Tensor:
        """The scale, 0-dimensional, if it is part of the state instead of an option."""
        raise NotImplementedError

    # -- what a reader asks --------------------------------------------------------------------------------------------------------

    @property
    def options(self) -> Mapping[str, Any]:
        """Every option with its value, in the order of the fields."""
        return {option: getattr(self, option) for option in self.defaults}

    @classmethod
    def describe(cls) -> str:
        """Several lines: formulas, options with their defaults, and optional methods of the margin."""
        options = ", ".join(f"{key}={value!r}" for key, value in cls.defaults.items()) or "none"
        return "\n".join(
            [
                f"{cls.name}: {cls.title} ({cls.paper})",
                f"  target logit: {cls.formula}",
                f"  other logits: {cls.other_formula}",
                f"  options: {options}",
                f"  has: {', '.join(['target', *sorted(cls.has)])}",
            ]
        )


MARGINS: Registry[type[Margin]] = Registry(
    "margin",
    listed_by="facezoo.list_margins()",
    elsewhere={
        "softmax": "linear",
        "cross_entropy": "linear",
        "crossentropy": "linear",
        "ce": "linear",
        "none": "linear",
        "a_softmax": "sphereface",
        "asoftmax": "sphereface",
        "amsoftmax": "am_softmax",
        "aam_softmax": "arcface",
        "norm_softmax": "normface",
        "arcmargin": "arcface",
        "addmargin": "cosface",
        **{
            name: f"it is a metric loss: facezoo.create_loss({name!r})"
            for name in ("triplet", "contrastive", "supcon", "center", "multi_similarity", "proxy_anchor")
        },
    },
)


def register_margin(
    name: str, *, title: str = "", formula: str = "", paper: str = "", scale: float | None = None
) -> Callable[[Declared], Declared]:
    """Register a margin: a decorator for a subclass of :class:`Margin` or, as a short form, for a function of the batch.

    ::

        @register_margin("my_margin", title="My margin", formula="s·(cos θ - m)", paper="unpublished", scale=64.0)
        def my_margin(batch, *, margin=0.3):
            return batch.target - margin

        @register_margin("my_other_margin")
        class MyOtherMargin(Margin):
            title = "My other margin"
            formula = "s·(cos θ - m·‖x‖)"
            paper = "unpublished"

            scale: float = 64.0
            margin: float = 0.01

            def target(self, batch):
                return batch.target - self.margin * batch.norm

    The options of a function are its keyword-only arguments, each with a default; ``scale`` and ``gradient`` are added here.

    Args:
        name: name in the registry.
        title: for a function: the paper's name of the loss. A class has this and the following as attributes.
        formula: the target logit, as text.
        paper: arXiv number or venue.
        scale: the default of the option ``scale``.

    Returns the decorator, which returns what it decorates.

    Raises:
        TypeError: it is neither a subclass of :class:`Margin` nor a function.
        ValueError: the declaration contradicts itself.
        DuplicateNameError: the name is taken.
    """

    def decorate(declared: Declared) -> Declared:
        if isinstance(declared, type):
            if not issubclass(declared, Margin):
                raise TypeError(
                    f"margin {name!r} is a subclass of facezoo.margins.Margin or a function, got {declared!r}"
                )
            if title or formula or paper or scale is not None:
                raise ValueError(
                    f"margin {name!r}: a class has title, formula, paper and scale as attributes of its own"
                )
            margin: type[Margin] = declared
        else:
            margin = _from_function(name, declared, title, formula, paper, scale)
        _check_declaration(name, margin)
        MARGINS.register(name, margin)
        margin.name = name
        margin.description = f"{margin.title}: {margin.formula} ({margin.paper})"
        return declared

    return decorate


def _from_function(
    name: str, rule: Callable[..., Tensor], title: str, formula: str, paper: str, scale: float | None
) -> type[Margin]:
    """The margin whose ``target`` is ``rule``."""
    if scale is None:
        raise ValueError(
            f"margin {name!r}: a function needs the default of its scale; register_margin(..., scale=64.0)"
        )
    first, *others = inspect.signature(rule).parameters.values()
    for parameter in others:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ValueError(
                f"margin {name!r}: the function takes one positional argument ({first.name}) and keyword-only options with "
                f"defaults; got {parameter}"
            )
        if parameter.name in ("scale", "gradient"):
            raise ValueError(
                f"margin {name!r}: {parameter.name!r} belongs to the head, and is added to the function's options"
            )
    options = {parameter.name: parameter.default for parameter in others}

    def target(self: Margin, batch: Batch) -> Tensor:
        return rule(batch, **{option: getattr(self, option) for option in options})

    values = {"scale": float(scale), **options, "gradient": "exact"}
    members: dict[str, Any] = {option: field(default=value) for option, value in values.items()}
    members |= {"title": title, "formula": formula, "paper": paper, "target": target}
    members |= {
        "__doc__": rule.__doc__,
        "__module__": rule.__module__,
        "__annotations__": dict.fromkeys(values, object),
    }
    return cast("type[Margin]", type(rule.__name__, (Margin,), members))


def _check_declaration(name: str, margin: type[Margin]) -> None:
    """Raise ValueError if a declaration contradicts itself. It creates the margin with its default options."""
    missing = [option.name for option in fields(margin) if option.default is MISSING]  # type: ignore[arg-type]
    if missing:
        raise ValueError(f"margin {name!r}: every option has a default; {', '.join(missing)} has none")
    if margin.target is Margin.target:
        raise ValueError(f"margin {name!r} has no `target`, the similarity with its margin")
    made = margin()
    if made.logits not in _LOGITS:
        raise ValueError(f"margin {name!r}: {unknown_name_message('kind of logits', made.logits, _LOGITS)}")
    has_scale = "scale" in made.options or "running_scale" in margin.has
    if made.logits == "scaled_cosine" and not has_scale:
        raise ValueError(f"margin {name!r} scales its cosines: it needs a default scale, as a field `scale`")
    declared: object = margin.logits  # a property if the logits depend on the options
    if has_scale and isinstance(declared, str) and declared != "scaled_cosine":
        raise ValueError(f"margin {name!r} has a scale, which logits={declared!r} do not use")
    if not isinstance(made.negatives, Negatives) or made.negatives.name not in NEGATIVES:
        raise ValueError(
            f"margin {name!r}: its negatives are not a registered form, see facezoo.margins.register_negatives"
        )
    if made.negatives.reads_threshold and "thresholds" not in margin.has:
        raise ValueError(f"margin {name!r}: its negatives compare with a threshold, so it needs a method `thresholds`")
    if "update" in margin.has and "state" not in margin.has:
        raise ValueError(f"margin {name!r} has `update`, so it needs `state`, which makes what is updated")
    if made.updates_by_negatives and ("update" not in margin.has or "thresholds" in margin.has):
        raise ValueError(f"margin {name!r}: updates_by_negatives is for margins with `update` and without `thresholds`")
    margin.other_formula = margin.other_formula or _LOGITS[made.logits]


def _registered(name: str, options: dict[str, Any]) -> Margin:
    return MARGINS[name](**options)


def list_margins(pattern: str = "*") -> list[str]:
    """Names of the margins that match a wildcard pattern, in natural order."""
    return MARGINS.list(pattern)


def margin_class(name: str) -> type[Margin]:
    """The class of the margin called ``name``. Raises :class:`~facezoo.registry.UnknownNameError`."""
    return MARGINS[name]


def describe_margin(name: str) -> str:
    """Several lines about the margin called ``name``: formula, paper, options, what it has."""
    return MARGINS[name].describe()
