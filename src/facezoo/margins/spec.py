"""What a margin is: a small function of the target similarity, and the frozen record that describes it.

A loss of the catalog is, for a sample with own class y and over the other classes j,

    loss = combine(scale·φ + offset, reduction_j(scale·ν(c_j) + offset)) + penalty

φ is the *rule*; ν and the reduction are named by :class:`~facezoo.margins.engines.statistics.Negatives`, out of closed sets that
every engine knows; ``combine`` is cross-entropy unless the paper has another.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from facezoo.margins.engines.statistics import Negatives
from facezoo.ops.negatives import Coefficients
from facezoo.registry import Registry, unknown_name_message

Logits = Literal["scaled_cosine", "norm_cosine", "cosine", "affine"]
Gradient = Literal["exact", "detached"]

_LOGITS: dict[Logits, str] = {
    "scaled_cosine": "scale·cos θ_j",
    "norm_cosine": "‖x‖·cos θ_j",
    "cosine": "cos θ_j",
    "affine": "x·w_j + b_j",
}


@dataclass(frozen=True)
class MarginInputs:
    """What a margin may look at, for a batch of N samples.

    Attributes:
        target: similarity of each sample with its own class center (the cosine, or ``x·w_y`` for affine logits), ``(N,)``.
        norm: length of each embedding before normalization, ``(N,)``.
        labels: int64, class among all C, ``(N,)``.
        state: the margin's buffers by name.
        noise: standard normal numbers, ``(N,)``; zeros in evaluation mode, and unless the margin needs ``"noise"``.
        negatives: the reduction over the other classes before the state is updated, ``(N,)``; only for an update of a margin that
            needs ``"negatives"``.
    """

    target: Tensor
    norm: Tensor
    labels: Tensor
    state: Mapping[str, Tensor]
    noise: Tensor
    negatives: Tensor | None = None


# All of these take the margin's options by keyword. A rule maps the inputs to φ, the target similarity with its margin, (N,); it is
# pure and differentiable by autograd. An update returns new values of the state, by name; it is called without gradient, once per
# training step and before the rule, which sees the new values.
Rule = Callable[..., Tensor]
Update = Callable[..., Mapping[str, Tensor]]
StateFactory = Callable[..., dict[str, Tensor]]
Check = Callable[..., None]


@dataclass(frozen=True, eq=False)
class MarginSpec:
    """One margin of the catalog. Listing, description, option checks, documentation and tests come from this record.

    Attributes:
        name: name in the registry.
        rule: the margin, ``rule(inputs, **options) -> (N,)``.
        title: the name under which the paper knows it.
        formula: the target logit, as text.
        paper: arXiv number or venue.
        defaults: every option of the margin with its default, ``scale`` among them where there is one.
        logits: how logits are made of similarities: ``"scaled_cosine"``, ``"norm_cosine"`` (by ‖x‖ instead of a scale),
            ``"cosine"`` or ``"affine"``; or a function of the options that says so, ``logits(**options)``.
        needs: what the rule and the update read apart from the target similarity: ``"norm"``, ``"labels"``, ``"state"``,
            ``"noise"``; ``"negatives"``: their reduction with the present state (a further pass over the classes).
        negatives: form and reduction of the other classes, or a function of the options, ``negatives(**options)``.
        other_logits: the other classes' logits as text, where they are not those that ``logits`` says.
        coefficients: thresholds and factors of the form, ``coefficients(inputs, margined, **options) -> Coefficients``, with
            φ as ``margined``; called without gradient: the coefficients are constant in the backward pass.
        combine: the loss of each sample from its target logit and its reduced negatives, ``combine(target_logit, negatives,
            **options) -> (N,)``; None for cross-entropy.
        penalty: added to the loss of each sample, ``penalty(inputs, **options) -> (N,)``.
        offset: first value of a learned number added to every logit, ``offset(num_classes=..., **options) -> float``.
        state: makes the buffers, ``state(num_classes=..., **options) -> {name: tensor}``; None if there are none.
        update: new values of the buffers, ``update(inputs, **options) -> {name: tensor}``, each time the loss is computed in
            training mode.
        frozen: whether the state stays as it is for these options, ``frozen(**options) -> bool``; None for no.
        scale_state: name of a buffer that is the scale, in place of the option.
        sub_centers: name of the option that says how many centers a class has.
        memory: stored features of each class: ``"mixed"`` into the centers (options ``share``, ``freshness`` and ``start``), or
            ``"only"``, in place of centers (option ``start``).
        warmable: whether ``warmup_steps`` applies: φ without its margin is the cosine.
        check: raises ValueError for options out of their range, ``check(**options)``.
    """

    name: str
    rule: Rule
    title: str
    formula: str
    paper: str
    defaults: Mapping[str, Any]
    logits: Logits | Callable[..., Logits] = "scaled_cosine"
    needs: frozenset[str] = field(default_factory=frozenset)
    negatives: Negatives | Callable[..., Negatives] = field(default_factory=Negatives)
    other_logits: str | None = None
    coefficients: Callable[..., Coefficients] | None = None
    combine: Callable[..., Tensor] | None = None
    penalty: Callable[..., Tensor] | None = None
    offset: Callable[..., float] | None = None
    state: StateFactory | None = None
    update: Update | None = None
    frozen: Callable[..., bool] | None = None
    scale_state: str | None = None
    sub_centers: str | None = None
    memory: Literal["mixed", "only"] | None = None
    warmable: bool = False
    check: Check | None = None

    @property
    def description(self) -> str:
        """One line: title, formula, paper."""
        return f"{self.title}: {self.formula} ({self.paper})"

    @property
    def has_scale(self) -> bool:
        """Whether ``scale`` is an option."""
        return "scale" in self.defaults

    @property
    def other_formula(self) -> str:
        """The other classes' logits, as text, for the default options."""
        return self.other_logits or _LOGITS[self.logits_of(**self.defaults)]

    def logits_of(self, **options: Any) -> Logits:
        """How logits are made, for these options."""
        return self.logits(**options) if callable(self.logits) else self.logits

    def negatives_of(self, **options: Any) -> Negatives:
        """Form and reduction of the other classes, for these options."""
        return self.negatives(**options) if callable(self.negatives) else self.negatives

    def describe(self) -> str:
        """Several lines: what the margin computes, its options with their defaults, what it needs."""
        options = ", ".join(f"{key}={value!r}" for key, value in self.defaults.items()) or "none"
        return "\n".join(
            [
                f"{self.name}: {self.title} ({self.paper})",
                f"  target logit: {self.formula}",
                f"  other logits: {self.other_formula}",
                f"  options: {options}",
                f"  reads: {', '.join(['target similarity', *sorted(self.needs)])}",
            ]
        )


MARGINS: Registry[MarginSpec] = Registry(
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

_NEEDS = ("norm", "labels", "state", "noise", "negatives")


def register_margin(
    name: str,
    *,
    title: str,
    formula: str,
    paper: str,
    scale: float | None = None,
    detachable: bool = True,
    gradient: Gradient = "exact",
    logits: Logits | Callable[..., Logits] = "scaled_cosine",
    needs: frozenset[str] = frozenset(),
    negatives: Negatives | Callable[..., Negatives] | None = None,
    other_logits: str | None = None,
    coefficients: Callable[..., Coefficients] | None = None,
    combine: Callable[..., Tensor] | None = None,
    penalty: Callable[..., Tensor] | None = None,
    offset: Callable[..., float] | None = None,
    state: StateFactory | None = None,
    update: Update | None = None,
    frozen: Callable[..., bool] | None = None,
    scale_state: str | None = None,
    sub_centers: str | None = None,
    memory: Literal["mixed", "only"] | None = None,
    warmable: bool | None = None,
    check: Check | None = None,
) -> Callable[[Rule], Rule]:
    """Register a margin: a decorator for its rule, or a call that takes the rule.

    ::

        @register_margin("my_margin", title="My margin", formula="s·(cos θ - m)", paper="unpublished", scale=64.0)
        def my_margin(inputs, *, margin=0.3):
            return inputs.target - margin

    The options of the margin are the rule's keyword-only arguments, each with a default; ``scale`` and ``gradient`` are added
    here and handled by the head, for every margin alike. (``negatives``, ``combine`` and the other functions of the declaration
    get them too; the rule and the update do not.)

    Args:
        name: name in the registry.
        title: the name under which the paper knows it.
        formula: the target logit, as text.
        paper: arXiv number or venue.
        scale: default of the ``scale`` option, where logits are scaled cosines.
        detachable: whether there is a ``gradient`` option, ``"exact"`` or ``"detached"``.
        gradient: its default.
        logits: see :class:`MarginSpec`.
        needs: see :class:`MarginSpec`.
        negatives: see :class:`MarginSpec`; None for scaled cosines and log-sum-exp.
        other_logits: see :class:`MarginSpec`.
        coefficients: see :class:`MarginSpec`.
        combine: see :class:`MarginSpec`.
        penalty: see :class:`MarginSpec`.
        offset: see :class:`MarginSpec`.
        state: see :class:`MarginSpec`.
        update: see :class:`MarginSpec`.
        frozen: see :class:`MarginSpec`.
        scale_state: see :class:`MarginSpec`.
        sub_centers: see :class:`MarginSpec`.
        memory: see :class:`MarginSpec`.
        warmable: see :class:`MarginSpec`; None: whether it is detachable.
        check: see :class:`MarginSpec`.

    Returns:
        The decorator; it returns the rule unchanged.

    Raises:
        ValueError: the declaration contradicts itself.
        DuplicateNameError: the name is taken.
    """
    if not callable(logits):
        if logits not in _LOGITS:
            raise ValueError(f"margin {name!r}: {unknown_name_message('kind of logits', logits, _LOGITS)}")
        if (scale is not None or scale_state is not None) != (logits == "scaled_cosine"):
            raise ValueError(
                f"margin {name!r}: a default scale (or a scale_state) goes with logits='scaled_cosine' and with no other"
            )
    for need in needs:
        if need not in _NEEDS:
            raise ValueError(f"margin {name!r}: {unknown_name_message('need', need, _NEEDS)}")
    if (state is not None) != ("state" in needs) or (update is not None and state is None):
        raise ValueError(f"margin {name!r}: needs={{'state'}} and state= go together, and update= needs both")
    if "negatives" in needs and (update is None or coefficients is not None):
        raise ValueError(f"margin {name!r}: needs={{'negatives'}} is for an update, and excludes coefficients=")

    def decorate(rule: Rule) -> Rule:
        defaults: dict[str, Any] = {} if scale is None else {"scale": float(scale)}
        defaults |= _keyword_defaults(name, rule)
        if detachable:
            defaults["gradient"] = gradient
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
                negatives=Negatives() if negatives is None else negatives,
                other_logits=other_logits,
                coefficients=coefficients,
                combine=combine,
                penalty=penalty,
                offset=offset,
                state=state,
                update=update,
                frozen=frozen,
                scale_state=scale_state,
                sub_centers=sub_centers,
                memory=memory,
                warmable=detachable if warmable is None else warmable,
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
