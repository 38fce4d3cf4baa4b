"""The one head: owns the class centres, runs any margin through any engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.margins.engines import (
    ENGINES,
    SINGLE_PROCESS,
    ClassStatistics,
    Collective,
    DenseGradient,
    SinkFactory,
    dense_logits,
    pick_engine,
)
from facezoo.margins.spec import MARGINS, MarginInputs, MarginSpec
from facezoo.ops.margin import detach_margin, unit_vectors
from facezoo.ops.negatives import Coefficients
from facezoo.registry import unknown_name_message

INIT_STD = 0.01

_HEAD_OPTIONS = (
    "label_smoothing",
    "engine",
    "block_size",
    "process_group",
    "sample_rate",
    "optimizer_in_backward",
)
_GRADIENTS = ("exact", "detached")


def create_margin(name: str, *, embedding_dim: int, num_classes: int, **options: Any) -> MarginHead:
    """Build a margin head by name.

    ::

        head = create_margin("arcface", embedding_dim=512, num_classes=8631, margin=0.5, scale=64.0)
        loss = head(embeddings, labels)

    Args:
        name: one of :func:`list_margins`.
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        **options: the margin's own options (:func:`describe_margin` lists them with their defaults) and those of every head:
            ``label_smoothing``, ``engine``, ``block_size``, see :class:`MarginHead`. Anything else is an error.

    Returns:
        A :class:`MarginHead` in training mode.

    Raises:
        UnknownNameError: no such margin.
        TypeError: an option that this margin does not have.
        ValueError: an option out of its range.
    """
    spec = MARGINS[name]
    accepted = [*spec.defaults, *_HEAD_OPTIONS]
    for key, value in options.items():
        if key not in accepted:
            raise TypeError(
                f"margin {name!r}: {unknown_name_message('option', key, accepted)} (got {key}={value!r}). "
                f"It accepts {', '.join(accepted)}"
            )
    own = {key: options.pop(key, default) for key, default in spec.defaults.items()}
    return MarginHead(spec, own, embedding_dim=embedding_dim, num_classes=num_classes, **options)


class MarginHead(nn.Module):
    """Class centres and the margin-softmax loss over them. Build it with :func:`create_margin`.

    The loss is the mean over the batch of the cross-entropy of the logits, with the margin on the logit of the own class.
    It is computed in float32 (float64 for float64 embeddings) whatever autocast says.

    Centres are drawn from N(0, 0.01²), as insightface draws them (for cosines only the direction matters for the loss, while the
    length sets how far a gradient step turns a centre); the bias of ``"linear"`` starts at 0.

    Args:
        spec: the margin.
        options: every option of ``spec.defaults`` with its value.
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        label_smoothing: share of the target distribution that is spread evenly over all classes, in [0, 1).
        engine: ``"dense"`` (N × C logits at once), ``"chunked"`` (blocks over the classes, logits computed again in the backward
            pass: the same numbers in less memory and, beyond small sizes, less time; no second derivatives) or ``"auto"``.
        block_size: classes per block of the chunked engine; None chooses by device.
        process_group: reserved; None.
        sample_rate: reserved; 1.0.
        optimizer_in_backward: reserved; None.

    Attributes:
        weight: class centres, parameter ``(C, D)``.
        bias: parameter ``(C,)`` of ``"linear"``, else None.
        options: the margin's options, read-only.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    offset: nn.Parameter | None

    def __init__(
        self,
        spec: MarginSpec,
        options: Mapping[str, Any],
        *,
        embedding_dim: int,
        num_classes: int,
        label_smoothing: float = 0.0,
        engine: str = "auto",
        block_size: int | None = None,
        process_group: Any = None,
        sample_rate: float = 1.0,
        optimizer_in_backward: Any = None,
    ) -> None:
        super().__init__()
        _check_head_options(embedding_dim, num_classes, label_smoothing, engine, block_size)
        _check_reserved(process_group, sample_rate, optimizer_in_backward)
        _check_margin_options(spec, options)
        self.spec = spec
        self._options = dict(options)
        self._rule_options = {key: value for key, value in options.items() if key not in ("scale", "gradient")}
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.scale = float(options.get("scale", 1.0))
        self.label_smoothing = label_smoothing
        self.engine = engine
        self.block_size = block_size
        per_class = () if spec.sub_centres is None else (int(options[spec.sub_centres]),)
        self.weight = nn.Parameter(torch.empty(num_classes, *per_class, embedding_dim))
        self._logits = spec.logits_of(**options)
        self._negatives = spec.negatives_of(**options)
        self._collective: Collective = SINGLE_PROCESS
        self._make_sink: SinkFactory = DenseGradient
        self.register_parameter("bias", nn.Parameter(torch.empty(num_classes)) if self._logits == "affine" else None)
        self.register_parameter("offset", nn.Parameter(torch.empty(())) if spec.offset is not None else None)
        self._state_names: tuple[str, ...] = ()
        if spec.state is not None:
            state = spec.state(num_classes=num_classes, **options)
            self._state_names = tuple(state)
            for key, value in state.items():
                self.register_buffer(key, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the centres anew. Running state is left alone."""
        nn.init.normal_(self.weight, std=INIT_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.offset is not None and self.spec.offset is not None:
            nn.init.constant_(self.offset, self.spec.offset(num_classes=self.num_classes, **self._options))

    @property
    def name(self) -> str:
        """Name of the margin in the registry."""
        return self.spec.name

    @property
    def options(self) -> Mapping[str, Any]:
        """The margin's options, read-only."""
        return MappingProxyType(self._options)

    @property
    def margin(self) -> float | tuple[float, float, float]:
        """The margin: a number in the unit of the formula, 0 where there is none, ``(m1, m2, m3)`` for ``"combined"``."""
        if "m1" in self._options:
            return self._options["m1"], self._options["m2"], self._options["m3"]
        return self._options.get("margin", 0.0)

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits without margin, for inference.

        Args:
            embeddings: ``(N, D)``, not normalised.

        Returns:
            ``(N, C)``, float32 (float64 for float64 embeddings): scaled cosines; cosines times ‖x‖ for ``"sphereface"``;
            the affine map for ``"linear"``.

        Raises:
            ValueError: the embeddings are not ``(N, D)``.
        """
        self._check_embeddings(embeddings)
        with torch.autocast(embeddings.device.type, enabled=False):
            features, norm = self._features(embeddings)
            scale = self._logit_scale(norm, self._state())
            return dense_logits(features, self.weight, scale=scale, bias=self.bias, normalise=self._logits != "affine")

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch. In training mode a margin with running state advances it by one step.

        Args:
            embeddings: ``(N, D)``, any floating dtype, not normalised.
            labels: class of each sample, any integer dtype, in [0, C), ``(N,)``. On the CPU a label outside is a ValueError;
                on a GPU, and inside ``torch.compile``, it is an assertion on the device, so that no step waits for it.

        Returns:
            The loss, 0-dimensional, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: an empty batch, a wrong width, or a label out of range.
            TypeError: labels that are not integers (soft labels, for instance).
        """
        self._check_embeddings(embeddings)
        labels = self._checked_labels(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            features, norm = self._features(embeddings)
            features = self._collective.gather_features(features)
            norm = self._collective.gather_replicated(norm)
            labels = self._collective.gather_replicated(labels)
            return self._losses(features, norm, labels).mean()

    def _losses(self, features: Tensor, norm: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, ``(N,)``."""
        spec, state = self.spec, self._state()
        advance_pending = self.training and spec.update is not None
        noise = torch.zeros_like(norm)
        if self.training and "noise" in spec.needs:
            noise = self._collective.broadcast(torch.randn_like(norm))

        def inputs_for(target: Tensor, negatives: Tensor | None = None) -> MarginInputs:
            return MarginInputs(target, norm, labels, state, noise, negatives)

        def advance(target: Tensor, negatives: Tensor | None = None) -> None:
            nonlocal state, advance_pending
            if advance_pending:
                state = self._advance(inputs_for(target.detach(), negatives))
                advance_pending = False

        def prepare(target: Tensor) -> Coefficients:
            assert spec.coefficients is not None
            advance(target)
            inputs = inputs_for(target)
            return spec.coefficients(inputs, self._margined(inputs), **self._options)

        if advance_pending and "negatives" in spec.needs:
            with torch.no_grad():
                before = self._reduce(features, labels, self._logit_scale(norm, state), None)
            advance(before.target, before.negatives)
        scale = self._logit_scale(norm, state)
        statistics = self._reduce(features, labels, scale, None if spec.coefficients is None else prepare)
        advance(statistics.target)
        inputs = inputs_for(statistics.target)
        margined = self._margined(inputs)
        target_logit = scale * margined
        if self.bias is not None:
            target_logit = target_logit + self.bias.to(features.dtype)[labels]
        if self.offset is not None:
            target_logit = target_logit + self.offset.to(features.dtype)
        if spec.combine is not None:
            loss = spec.combine(target_logit, statistics.negatives, **self._options)
        else:
            # log(Σ_{j≠y} exp z_j + exp z_y) - z_y. The threshold is where softplus may turn linear: 20, its default, is too early
            # for float64.
            loss = F.softplus(statistics.negatives - target_logit, threshold=50.0)
        if statistics.total is not None:
            # Cross-entropy with the mean of all logits, the target's with its margin, in place of ε of the target's.
            mean_logit = (statistics.total + target_logit) / self.num_classes
            loss = loss + self.label_smoothing * (target_logit - mean_logit)
        if spec.penalty is not None:
            loss = loss + spec.penalty(inputs, **self._options)
        return loss

    def _reduce(
        self,
        features: Tensor,
        labels: Tensor,
        scale: float | Tensor,
        prepare: Callable[[Tensor], Coefficients] | None,
    ) -> ClassStatistics:
        """The class statistics by the engine of this head."""
        return pick_engine(self.engine, samples=len(labels), classes=self.num_classes)(
            features,
            self.weight,
            labels,
            scale=scale,
            offset=None if self.offset is None else self.offset.to(features.dtype),
            bias=self.bias,
            normalise=self._logits != "affine",
            negatives=self._negatives,
            prepare=prepare,
            memory=None,
            with_total=self.label_smoothing > 0.0,
            block_size=self.block_size,
            collective=self._collective,
            make_sink=self._make_sink,
        )

    @torch.no_grad()
    def init_from_linear(self, linear: nn.Linear) -> None:
        """Take the centres (and, for ``"linear"``, the bias) of a trained linear classifier.

        Args:
            linear: ``nn.Linear(D, C)``.

        Raises:
            ValueError: the shapes differ.
        """
        expected = (self.num_classes, self.embedding_dim)
        if tuple(linear.weight.shape) != expected:
            raise ValueError(
                f"the classifier's weight is {tuple(linear.weight.shape)}, the centres are (C, D) = {expected}"
            )
        self.weight.copy_(linear.weight)
        if self.bias is not None:
            bias = linear.state_dict().get("bias")
            self.bias.copy_(self.bias.new_zeros(()) if bias is None else bias)

    @torch.no_grad()
    def init_from_embeddings(self, embeddings: Tensor, labels: Tensor) -> int:
        """Put each centre at the mean of its class, for fine-tuning a backbone that was trained with another loss.

        For cosines the mean is that of the normalised embeddings, and each centre keeps its present length, so that the learning
        rate keeps its meaning. For ``"linear"`` it is that of the embeddings as they are, and the bias -‖mean‖²/2, which makes
        the head the nearest-mean classifier. A class without a sample, or whose mean is zero, keeps its centre.

        Args:
            embeddings: ``(N, D)``, any device.
            labels: int, in [0, C), ``(N,)``.

        Returns:
            How many classes were set.

        Raises:
            ValueError: an empty batch, a wrong width, or a label out of range.
            TypeError: labels that are not integers.
        """
        self._check_embeddings(embeddings)
        labels = self._checked_labels(embeddings, labels).to(self.weight.device)
        embeddings = _full_precision(embeddings).to(self.weight.device)
        cosine = self._logits != "affine"
        sums = embeddings.new_zeros(self.num_classes, self.embedding_dim)
        sums.index_add_(0, labels, unit_vectors(embeddings)[0] if cosine else embeddings)
        counts = torch.bincount(labels, minlength=self.num_classes)[:, None]
        means = sums / counts.clamp_min(1)
        found = counts[:, 0] > 0
        if cosine:
            direction, length = unit_vectors(means)
            # Random embeddings cancel to rounding, not to zero; a class of them has no direction either.
            found &= length[:, 0] > torch.finfo(means.dtype).eps
            means = direction * torch.linalg.vector_norm(self.weight.to(means.dtype), dim=1, keepdim=True)
        self.weight.copy_(torch.where(found[:, None], means.to(self.weight.dtype), self.weight))
        if self.bias is not None:
            self.bias.copy_(torch.where(found, -0.5 * means.square().sum(1).to(self.bias.dtype), self.bias))
        return int(found.sum())

    def extra_repr(self) -> str:
        """The margin, its sizes and its options."""
        options = "".join(f", {key}={value!r}" for key, value in self._options.items())
        return f"{self.name!r}, embedding_dim={self.embedding_dim}, num_classes={self.num_classes}{options}, engine={self.engine!r}"

    def _features(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Features as the engine wants them, ``(N, D)``, and the lengths of the embeddings, ``(N,)``."""
        embeddings = _full_precision(embeddings)
        if self._logits == "affine":
            return embeddings, torch.linalg.vector_norm(embeddings.detach(), dim=1)
        features, norm = unit_vectors(embeddings)
        return features, norm[:, 0]

    def _logit_scale(self, norm: Tensor, state: Mapping[str, Tensor]) -> float | Tensor:
        if self._logits == "norm_cosine":
            return norm
        return self.scale if self.spec.scale_state is None else state[self.spec.scale_state].to(norm.dtype)

    def _margined(self, inputs: MarginInputs) -> Tensor:
        """φ, ``(N,)``."""
        margined = self.spec.rule(inputs, **self._rule_options)
        return detach_margin(inputs.target, margined) if self._options.get("gradient") == "detached" else margined

    def _state(self) -> dict[str, Tensor]:
        return {key: self.get_buffer(key) for key in self._state_names}

    def _advance(self, inputs: MarginInputs) -> dict[str, Tensor]:
        """Advance the running state by one step; returns its new values, which share no memory with the buffers."""
        # Where a buffer is both changed and used in one compiled graph, its backward pass may compute with the value of the next
        # step (seen in torch 2.15). So the change happens outside, and the rule gets tensors that nobody changes.
        advance = torch.compiler.disable(self._write_state) if torch.compiler.is_compiling() else self._write_state
        return advance(inputs)

    @torch.no_grad()
    def _write_state(self, inputs: MarginInputs) -> dict[str, Tensor]:
        assert self.spec.update is not None
        state = dict(inputs.state) | dict(self.spec.update(inputs, **self._rule_options))
        for key, value in state.items():
            self.get_buffer(key).copy_(value)
        return {key: value.clone() for key, value in state.items()}

    def _check_embeddings(self, embeddings: Tensor) -> None:
        if embeddings.dim() != 2 or embeddings.shape[1] != self.embedding_dim:
            raise ValueError(
                f"expected embeddings of shape (N, {self.embedding_dim}), got {tuple(embeddings.shape)}; "
                "does embedding_dim of the head equal that of the model?"
            )
        if not embeddings.is_floating_point():
            raise TypeError(f"expected floating-point embeddings, got {embeddings.dtype}")

    def _checked_labels(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        if labels.is_floating_point() or labels.dim() == 2:
            raise TypeError(
                f"expected integer labels of shape (N,), got {labels.dtype} of shape {tuple(labels.shape)}. Soft labels have no "
                "target to put a margin on: for mixup and cutmix call the head twice, lam·head(x, labels_a) + "
                "(1 - lam)·head(x, labels_b); for smoothed labels use label_smoothing"
            )
        if labels.dtype == torch.bool or labels.is_complex():
            raise TypeError(f"expected integer labels, got {labels.dtype}")
        if labels.shape != embeddings.shape[:1]:
            raise ValueError(f"expected {len(embeddings)} labels, one per embedding, got shape {tuple(labels.shape)}")
        if labels.device != embeddings.device:
            raise ValueError(f"embeddings are on {embeddings.device} but labels on {labels.device}; move the labels")
        if len(labels) == 0:
            raise ValueError("the batch is empty: the mean of no losses is not defined")
        labels = labels.long()
        if labels.device.type != "meta":
            self._check_range(labels)
        return labels

    def _check_range(self, labels: Tensor) -> None:
        bad = (labels < 0) | (labels >= self.num_classes)
        if labels.is_cuda or torch.compiler.is_compiling():
            torch._assert_async(~bad.any(), f"a label lies outside [0, {self.num_classes}), the range of this head")
        elif bool(bad.any()):
            index = int(bad.nonzero()[0])
            raise ValueError(
                f"label {int(labels[index])} at position {index} lies outside [0, {self.num_classes}), the range of this head "
                f"({int(bad.sum())} of {len(labels)} labels do); num_classes is the largest label plus 1, "
                "and samples to be ignored have to be left out of the batch"
            )


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_head_options(
    embedding_dim: int, num_classes: int, label_smoothing: float, engine: str, block_size: int | None
) -> None:
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim is at least 1, got {embedding_dim}")
    if num_classes < 1:
        raise ValueError(f"num_classes is at least 1, got {num_classes}")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing is a share in [0, 1), got {label_smoothing}")
    if engine != "auto" and engine not in ENGINES:
        known = ["auto", *ENGINES]
        raise ValueError(unknown_name_message("engine", str(engine), known, hint=f"there are {', '.join(known)}"))
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size is at least 1 class, got {block_size}")


def _check_reserved(process_group: Any, sample_rate: float, optimizer_in_backward: Any) -> None:
    for name, value, unused in (
        ("process_group", process_group, None),
        ("sample_rate", sample_rate, 1.0),
        ("optimizer_in_backward", optimizer_in_backward, None),
    ):
        if value != unused:
            raise ValueError(f"{name} is not available yet: leave it at {unused!r}; got {value!r}")


def _check_margin_options(spec: MarginSpec, options: Mapping[str, Any]) -> None:
    if set(options) != set(spec.defaults):
        raise ValueError(f"margin {spec.name!r} has the options {sorted(spec.defaults)}, got {sorted(options)}")
    scale = options.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0.0 < scale < math.inf:
        raise ValueError(f"scale is a finite number above 0 (typically 30 to 64), got {scale!r}")
    if options.get("gradient", "exact") not in _GRADIENTS:
        raise ValueError(
            unknown_name_message("gradient", str(options["gradient"]), _GRADIENTS, hint="'exact' or 'detached'")
        )
    if spec.check is not None:
        spec.check(**options)
