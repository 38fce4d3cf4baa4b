"""What a margin is: a small function of the target similarity, and the frozen record that describes it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from facezoo.registry import Registry, unknown_name_message

Logits = Literal["scaled_cosine", "norm_cosine", "affine"]

_LOGITS: dict[Logits, str] = {
    "scaled_cosine": "scale·cos θ_j",
    "norm_cosine": "‖x‖·cos θ_j",
    "affine": "x·w_j + b_j",
}


@dataclass(frozen=True)
class MarginInputs:
    """What a margin may look at, for a batch of N samples.

    Attributes:
        target: similarity of each sample with its own class centre (the cosine, or ``x·w_y`` for affine logits), ``(N,)``.
        norm: length of each embedding before normalisation, ``(N,)``.
        labels: int64, ``(N,)``.
        state: the margin's buffers by name.
    """

    target: Tensor
    norm: Tensor
    labels: Tensor
    state: Mapping[str, Tensor]


# A rule maps the inputs, and its options by keyword, to the target similarity with its margin, (N,). It is pure and differentiable
# by autograd. An update returns new values of the state, by name; it is called without gradient, once per training step and before
# the rule, which sees the new values.
Rule = Callable[..., Tensor]
Update = Callable[..., Mapping[str, Tensor]]
StateFactory = Callable[..., dict[str, Tensor]]
Check = Callable[..., None]


@dataclass(frozen=True, eq=False)
class MarginSpec:
    """One margin of the catalogue. Listing, description, option checks, documentation and tests come from this record.

    Attributes:
        name: name in the registry.
        rule: the margin, ``rule(inputs, **options) -> (N,)``.
        title: the name under which the paper knows it.
        formula: the target logit, as text.
        paper: arXiv number or venue.
        defaults: every option of the margin with its default, ``scale`` among them where there is one.
        logits: how all other logits are made: ``"scaled_cosine"``, ``"norm_cosine"`` (by ‖x‖ instead of a scale) or ``"affine"``.
        needs: what the rule reads apart from the target similarity: ``"norm"``, ``"labels"``, ``"state"``.
        state: makes the buffers, ``state(**options) -> {name: tensor}``; None if there are none.
        update: new values of the buffers, ``update(inputs, **options) -> {name: tensor}``, each time the loss is computed in
            training mode.
        check: raises ValueError for options out of their range, ``check(**options)``.
    """

    name: str
    rule: Rule
    title: str
    formula: str
    paper: str
    defaults: Mapping[str, Any]
    logits: Logits = "scaled_cosine"
    needs: frozenset[str] = field(default_factory=frozenset)
    state: StateFactory | None = None
    update: Update | None = None
    check: Check | None = None

    @property
    def description(self) -> str:
        """One line: title, formula, paper."""
        return f"{self.title}: {self.formula} ({self.paper})"

    @property
    def has_scale(self) -> bool:
        """Whether ``scale`` is an option."""
        return "scale" in self.defaults

    def describe(self) -> str:
        """Several lines: what the margin computes, its options with their defaults, what it needs."""
        options = ", ".join(f"{key}={value!r}" for key, value in self.defaults.items()) or "none"
        return "\n".join(
            [
                f"{self.name}: {self.title} ({self.paper})",
                f"  target logit: {self.formula}",
                f"  other logits: {_LOGITS[self.logits]}",
                f"  options: {options}",
                f"  reads: {', '.join(['target similarity', *sorted(self.needs)])}",
            ]
        )


MARGINS: Registry[MarginSpec] = Registry("margin", listed_by="facezoo.list_margins()")

_NEEDS = ("norm", "labels", "state")


def register_margin(
    name: str,
    *,
    title: str,
    formula: str,
    paper: str,
    scale: float | None = None,
    detachable: bool = True,
    logits: Logits = "scaled_cosine",
    needs: frozenset[str] = frozenset(),
    state: StateFactory | None = None,
    update: Update | None = None,
    check: Check | None = None,
) -> Callable[[Rule], Rule]:
    """Register a margin: a decorator for its rule, or a call that takes the rule.

    ::

        @register_margin("my_margin", title="My margin", formula="s·(cos θ - m)", paper="unpublished", scale=64.0)
        def my_margin(inputs, *, margin=0.3):
            return inputs.target - margin

    The options of the margin are the rule's keyword-only arguments, each with a default; ``scale`` and ``gradient`` are added
    here and handled by the head, for every margin alike.

    Args:
        name: name in the registry.
        title: the name under which the paper knows it.
        formula: the target logit, as text.
        paper: arXiv number or venue.
        scale: default of the ``scale`` option, for ``logits="scaled_cosine"``.
        detachable: whether there is a ``gradient`` option, ``"exact"`` (default) or ``"detached"``.
        logits: see :class:`MarginSpec`.
        needs: see :class:`MarginSpec`.
        state: see :class:`MarginSpec`.
        update: see :class:`MarginSpec`.
        check: see :class:`MarginSpec`.

    Returns:
        The decorator; it returns the rule unchanged.

    Raises:
        ValueError: the declaration contradicts itself.
        DuplicateNameError: the name is taken.
    """
    if logits not in _LOGITS:
        raise ValueError(f"margin {name!r}: {unknown_name_message('kind of logits', logits, _LOGITS)}")
    if (scale is not None) != (logits == "scaled_cosine"):
        raise ValueError(f"margin {name!r}: a default scale goes with logits='scaled_cosine' and with no other")
    for need in needs:
        if need not in _NEEDS:
            raise ValueError(f"margin {name!r}: {unknown_name_message('need', need, _NEEDS)}")
    if (state is not None) != ("state" in needs) or (update is not None and state is None):
        raise ValueError(f"margin {name!r}: needs={{'state'}} and state= go together, and update= needs both")

    def decorate(rule: Rule) -> Rule:
        defaults: dict[str, Any] = {} if scale is None else {"scale": float(scale)}
        defaults |= _keyword_defaults(name, rule)
        if detachable:
            defaults["gradient"] = "exact"
        MARGINS.register(
            name,
            MarginSpec(
                name=name,
                rule=rule,
                title=title,
                formula=formula,
                paper=paper,
                defaults=defaults,
                logits=logits,
                needs=needs,
                state=state,
                update=update,
                check=check,
            ),
        )
        return rule

    return decorate


def list_margins(pattern: str = "*") -> list[str]:
    """Names of the margins that match a wildcard pattern, in natural order."""
    return MARGINS.list(pattern)


def margin_spec(name: str) -> MarginSpec:
    """The record of the margin called ``name``. Raises :class:`~facezoo.registry.UnknownNameError`."""
    return MARGINS[name]


def describe_margin(name: str) -> str:
    """Several lines about the margin called ``name``: formula, paper, options, needs."""
    return MARGINS[name].describe()


def _keyword_defaults(name: str, rule: Rule) -> dict[str, Any]:
    first, *others = inspect.signature(rule).parameters.values()
    defaults = {}
    for parameter in others:
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise ValueError(
                f"margin {name!r}: the rule takes one positional argument ({first.name}) and keyword-only options with defaults; "
                f"got {parameter}"
            )
        if parameter.name in ("scale", "gradient"):
            raise ValueError(
                f"margin {name!r}: {parameter.name!r} belongs to the head, not to the rule; use register_margin's "
                f"{'scale' if parameter.name == 'scale' else 'detachable'} argument"
            )
        defaults[parameter.name] = parameter.default
    return defaults
