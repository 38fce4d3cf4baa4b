"""The head of all margins: normalizes, runs an engine over the classes, applies margin and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.margins.backward import BackwardOptimizer, BackwardSettings, StepSink
from facezoo.margins.engines import ClassStatistics, DenseGradient, Memory, Problem, dense_logits, pick_engine
from facezoo.margins.margin import Batch, Margin
from facezoo.margins.negatives import Coefficients, Negatives
from facezoo.margins.options import check_head_options, negatives_of
from facezoo.margins.running import RunningState
from facezoo.margins.sampling import ClassSampler, PresentClasses
from facezoo.ops.checks import TOO_LONG, check_embeddings, check_finite, checked_labels, full_precision
from facezoo.ops.margin import detach_margin, unit_vectors


@dataclass
class _Step:
    """The intermediate values of one batch. The running state is updated once, when it is first needed.

    Attributes:
        head: the head.
        norm: lengths of the embeddings, ``(N,)``.
        labels: class of each sample, ``(N,)``.
        noise: see :class:`Batch`.
        state: the running state.
        pending: whether the state must still be updated.
        progress: progress of the warm-up, 0 to 1; None without a warm-up.
    """

    head: MarginHead
    norm: Tensor
    labels: Tensor
    noise: Tensor
    state: dict[str, Tensor]
    pending: bool
    progress: Tensor | None

    def batch(self, target: Tensor, negatives: Tensor | None = None) -> Batch:
        """The input of the margin."""
        return Batch(target, self.norm, self.labels, self.state, self.noise, negatives)

    def advance(self, target: Tensor, negatives: Tensor | None = None) -> None:
        """Update the running state, unless it is up to date."""
        if self.pending:
            self.state, self.pending = self.head._advance(self.batch(target.detach(), negatives)), False

    def margined(self, target: Tensor) -> Tensor:
        """φ, ``(N,)``; during the warm-up a value between the cosine and φ."""
        margin = self.head.definition
        margined = margin.target(self.batch(target))
        if self.progress is not None and margin.warmable:
            margined = torch.lerp(target, margined, self.progress.to(margined.dtype))
        return detach_margin(target, margined) if self.head._detached else margined

    def thresholds(self, target: Tensor) -> Coefficients:
        """The thresholds of the form of the negatives."""
        self.advance(target)
        return self.head.definition.thresholds(self.batch(target), self.margined(target))


class MarginHead(RunningState):
    """Class centers and the margin-softmax loss over them. Build it with :func:`create_margin`.

    The loss is the mean over the batch of the cross-entropy of the logits, with the margin on the logit of the own class.
    It is computed in float32 (float64 for float64 embeddings) whatever autocast says.

    The base class :class:`~facezoo.margins.centers.ClassCenters` has the tensors per class;
    :class:`~facezoo.margins.running.RunningState` has the state that changes in every step.

    Args:
        margin: the margin with its options, such as ``ArcFace(margin=0.4)``.
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        label_smoothing: probability mass that is distributed evenly over all classes, in [0, 1); for softmax losses.
        engine: ``"dense"`` (N × C logits at once), ``"chunked"`` (blocks of classes, with logits recomputed in the backward
            pass: the same values with less memory and, except for small sizes, in less time; no second derivatives),
                ``"fused"`` (the same in
            Triton kernels, on CUDA devices, with the precision of ``torch.set_float32_matmul_precision``) or ``"auto"``.
        block_size: classes per block of the chunked and the fused engine; None chooses by device.
        warmup_steps: training steps in which the margin grows from zero to its full value, linearly in the cosine: the target is
            ``(1 - p)·cos θ + p·φ``. The step is a buffer (see :meth:`set_step`). 0 for no warm-up.
        warmup_scale: scale at the start of the warm-up; it reaches ``scale`` at the end. None keeps the scale.
        interclass_filter: ignore other classes with a cosine above this value, such as 0.4: probably the same identity under
            another name. (insightface sets their cosine to 0 instead, which leaves exp(0) in the sum.) For margins with plain
            softmax.
        process_group: processes of torch.distributed over which the classes are distributed, ⌈C/W⌉ per process (fewer in the
            last); ``torch.distributed.group.WORLD`` for all processes. Every process calls the head with its own batch of the
            same size, and gets the mean loss over all batches. Gradients are correct with the averaging of
            DistributedDataParallel and FSDP2, which must not handle the tensors of :attr:`sharded`, see
            :mod:`facezoo.margins.engines.collective`. None for one process.
        sample_rate: fraction of the classes used in a training step, in (0, 1] (PartialFC): the classes of the batch, and a
            random sample of each process's other classes. Centers that were not drawn get gradient 0, but an optimizer with
            momentum or weight decay would still move them; ``optimizer_in_backward`` does not. In evaluation mode the loss is
            over all classes.
        optimizer_in_backward: :class:`BackwardSGD` or :class:`BackwardAdamW`: in training mode the backward pass of the loss
            updates the centers, and their gradient is never stored. ``weight.requires_grad`` is then False and ``weight.grad``
            stays None, so another optimizer does not change the weight. Every backward pass is an optimizer step: gradient
            accumulation over k parts makes k steps, and a second loss from the same centers is an error. Gradient scaling and
            clipping have no effect on it.

    Attributes:
        weight: class centers, parameter ``(C, D)``; ``(C, K, D)`` with K sub-centers per class; a buffer of stored embeddings for
            ``"unitsface"``.
        bias: parameter ``(C,)`` of ``"linear"``, else None.
        offset: parameter, 0-dimensional, of the binary losses, else None: added to every logit.
        definition: the margin.
        options: the margin's options, read-only.
        shard: the classes of this process; None if it has all.
        backward_optimizer: state and learning rate (``.lr``) of ``optimizer_in_backward``, else None.
    """

    offset: nn.Parameter | None

    def __init__(
        self,
        margin: Margin,
        *,
        embedding_dim: int,
        num_classes: int,
        label_smoothing: float = 0.0,
        engine: str = "auto",
        block_size: int | None = None,
        process_group: Any = None,
        sample_rate: float = 1.0,
        optimizer_in_backward: BackwardSettings | None = None,
        warmup_steps: int = 0,
        warmup_scale: float | None = None,
        interclass_filter: float | None = None,
    ) -> None:
        check_head_options(
            margin, embedding_dim=embedding_dim, num_classes=num_classes, label_smoothing=label_smoothing, engine=engine,
            block_size=block_size, process_group=process_group, sample_rate=sample_rate,
            optimizer_in_backward=optimizer_in_backward, warmup_steps=warmup_steps, warmup_scale=warmup_scale,
        )  # fmt: skip
        super().__init__(
            margin,
            embedding_dim=embedding_dim,
            num_classes=num_classes,
            warmup_steps=warmup_steps,
            process_group=process_group,
        )
        self._negatives = negatives_of(margin, interclass_filter, label_smoothing)
        self._logits = margin.logits
        self._detached = margin.options.get("gradient") == "detached"
        self.scale = float(margin.options.get("scale", 1.0))
        self.label_smoothing = label_smoothing
        self.engine = engine
        self.block_size = block_size
        self.warmup_scale = warmup_scale
        self.interclass_filter = interclass_filter
        self.sample_rate = sample_rate
        self.register_parameter("offset", nn.Parameter(torch.empty(())) if "offset" in margin.has else None)
        self.reset_parameters()
        self.class_sampler = None if sample_rate == 1.0 else ClassSampler(sample_rate)
        self.backward_optimizer: BackwardOptimizer | None = None
        if optimizer_in_backward is not None:
            self.weight.requires_grad_(False)
            self.backward_optimizer = BackwardOptimizer(optimizer_in_backward, self.weight)

    def reset_parameters(self) -> None:
        """Initialize the centers and a learned offset again. Running state is not changed."""
        super().reset_parameters()
        if self.offset is not None:
            nn.init.constant_(self.offset, self.definition.offset(self.num_classes))

    @property
    def name(self) -> str:
        """Name of the margin in the registry."""
        return self.definition.name

    @property
    def options(self) -> Mapping[str, Any]:
        """The margin's options, read-only."""
        return MappingProxyType(dict(self.definition.options))

    @property
    def margin(self) -> float | tuple[float, ...]:
        """The margin, in the unit of the formula: a number (0 if there is none), or a tuple if the formula has several."""
        for names in (("m1", "m2", "m3"), ("margin_min", "margin_max"), ("a", "b")):
            if names[0] in self.options:
                return tuple(self.options[name] for name in names)
        return self.options.get("margin", 0.0)

    @property
    def sharded(self) -> tuple[str, ...]:
        """See :attr:`ClassCenters.sharded`; includes the state of ``optimizer_in_backward``."""
        names = super().sharded
        if self.shard is not None and self.backward_optimizer is not None:
            names += tuple(f"backward_optimizer.{name}" for name, _ in self.backward_optimizer.named_buffers())
        return names

    def extra_repr(self) -> str:
        """The margin, its sizes and its options."""
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"{self.name!r}, embedding_dim={self.embedding_dim}, num_classes={self.num_classes}{options}, engine={self.engine!r}"

    # -- logits and loss -----------------------------------------------------------------------------------------------------------

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits without margin, for inference.

        Args:
            embeddings: ``(N, D)``, not normalized.

        With a process group every process must call it with the same number of embeddings; the logits then have no gradient.

        Returns:
            ``(N, C)``, float32 (float64 for float64 embeddings): scaled cosines, with the nearest sub-center where a class has
            several; cosines times ‖x‖ for ``"sphereface"``; the affine map for ``"linear"``.

        Raises:
            ValueError: the embeddings are not ``(N, D)``.
        """
        check_embeddings(embeddings, width=self.embedding_dim)
        if (
            not self.training and self.memory_kind is not None
        ):  # in training, the last loss's backward pass may not have run yet
            self._remember()
        with torch.autocast(embeddings.device.type, enabled=False):
            features, norm = self._features(embeddings)
            if self.shard is not None:
                with torch.no_grad():
                    labels = torch.zeros_like(norm, dtype=torch.int64)
                    features, norm, _ = self._collective.gather(features, norm, labels)
                    return self.shard.exchange_columns(self._logits_here(features, norm))
            return self._logits_here(features, norm)

    def _logits_here(self, features: Tensor, norm: Tensor) -> Tensor:
        scale = self._logit_scale(norm, self._state(), None)
        return dense_logits(features, self.weight, scale=scale, bias=self.bias, normalize=not self.affine)

    if TYPE_CHECKING:  # torch types the call of a module as Any

        def __call__(self, embeddings: Tensor, labels: Tensor) -> Tensor: ...  # noqa: D102

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch. In training mode the running state of the margin is updated.

        Args:
            embeddings: ``(N, D)``, any floating dtype, not normalized.
            labels: class of each sample, any integer dtype, in [0, C), ``(N,)``. On the CPU a label outside is a ValueError;
                on a GPU, and inside ``torch.compile``, it is an assertion on the device, without a synchronization.

        Returns:
            The loss, 0-dimensional, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: an empty batch, a wrong width, or a label out of range.
            NonFiniteError: NaN or infinity in the embeddings (in the head's own tensors, where that makes the loss NaN); it names
                the tensor and the row. Looked for on the CPU and, of the embeddings, inside ``torch.autograd.detect_anomaly()``.
            TypeError: labels that are not integers (soft labels, for instance).
            RuntimeError: the class counts of ``"dyn_arcface"`` are not set.
        """
        if "class_counts" in self._state_names and not self._known_counts:
            check = self._require_class_counts
            (torch.compiler.disable(check) if torch.compiler.is_compiling() else check)()
        check_embeddings(embeddings, width=self.embedding_dim)
        labels = checked_labels(embeddings, labels, num_classes=self.num_classes)
        check_finite(
            embeddings,
            "the embeddings",
            hint="the network before the head made them: a lower learning rate, or clipped gradients, usually help",
        )
        with torch.autocast(embeddings.device.type, enabled=False):
            features, norm = self._features(embeddings)
            if self.shard is not None:
                features, norm, labels = self._collective.gather(features, norm, labels)
            losses = self._losses if self.memory_kind is None else self._losses_with_memory
            if self.memory_kind is not None and torch.compiler.is_compiling():
                losses = torch.compiler.disable(losses)  # steps are counted on the host
            loss = losses(features, norm, labels).mean()
        if self.backward_optimizer is not None and self.training:
            guard = self.backward_optimizer.guard
            (torch.compiler.disable(guard) if torch.compiler.is_compiling() else guard)(loss)
        if loss.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(torch.isfinite(loss)):
            self._blame(loss)
        return loss

    def _losses(self, features: Tensor, norm: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, ``(N,)``. In training mode the running state is updated."""
        margin, present, step = self.definition, self._present(labels), self._step(norm, labels)
        if step.pending and margin.updates_by_negatives:
            with torch.no_grad():
                before = self._reduce(features, present, self._logit_scale(norm, step.state, step.progress))
            step.advance(before.target, before.negatives)
        scale = self._logit_scale(norm, step.state, step.progress)
        memory = self._memory() if self.memory_kind == "mixed" else None
        statistics = self._reduce(features, present, scale, step=step, memory=memory)
        step.advance(statistics.target)
        target_logit = scale * step.margined(statistics.target)
        if self.bias is not None:
            target_logit = target_logit + self._own_bias(self.bias.to(features.dtype), present)
        if self.offset is not None:
            target_logit = target_logit + self.offset.to(features.dtype)
        if "combine" in margin.has:
            loss = margin.combine(target_logit, statistics.negatives)
        else:
            # log(Σ_{j≠y} exp z_j + exp z_y) - z_y. Above the threshold softplus becomes linear; its default of 20 is too low
            # for float64.
            loss = F.softplus(statistics.negatives - target_logit, threshold=50.0)
        if statistics.total is not None:
            # Label smoothing replaces a part ε of the target logit by the mean of all logits (the target's with margin).
            mean_logit = (statistics.total + target_logit) / present.total
            loss = loss + self.label_smoothing * (target_logit - mean_logit)
        if "penalty" in margin.has:
            loss = loss + margin.penalty(step.batch(statistics.target))
        return loss

    def _losses_with_memory(self, features: Tensor, norm: Tensor, labels: Tensor) -> Tensor:
        """:meth:`_losses` with stored embeddings; those of this step are added before the next step."""
        stored = self.definition.stored
        assert stored is not None
        self._remember()
        if self.training:
            self._to_remember = features.detach(), labels
        if stored.place == "only":
            if self._steps() < stored.start:
                return (features * 0.0).sum(1) + (0.0 if self.offset is None else self.offset * 0.0)
            if self.training and self._steps() == stored.start:
                self._calibrate_offset(features, labels)
        losses = self._losses(features, norm, labels)
        self._is_read_by(losses)
        return losses

    def _step(self, norm: Tensor, labels: Tensor) -> _Step:
        margin = self.definition
        progress = self._advance_warmup() if self.warmup_steps else None
        noise = torch.zeros_like(norm)
        if self.training and margin.uses_noise:
            noise = self._collective.broadcast(torch.randn_like(norm))
        pending = self.training and "update" in margin.has and not margin.frozen
        return _Step(self, norm, labels, noise, self._state() if self._state_names else {}, pending, progress)

    def _blame(self, loss: Tensor) -> None:
        """Raise an error that names the first tensor of this head that is not finite. If all are finite, return the loss
        unchanged."""
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if tensor.is_floating_point():
                check_finite(tensor, f"{name} of the {self.name!r} head, so the loss is {float(loss.detach())}")

    def _features(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """The features for the engine, ``(N, D)``, and the lengths of the embeddings, ``(N,)``."""
        embeddings = full_precision(embeddings)
        if self.affine:
            return embeddings, torch.linalg.vector_norm(embeddings, dim=1)
        features, norm = unit_vectors(embeddings, "embeddings")
        return features, norm[:, 0]

    def _logit_scale(self, norm: Tensor, state: Mapping[str, Tensor], progress: Tensor | None) -> float | Tensor:
        if self._logits == "norm_cosine":
            check_finite(norm.detach().square(), "the squared lengths of the embeddings", hint=TOO_LONG)
            return norm
        if "running_scale" in self.definition.has:
            return self.definition.running_scale(state).to(norm.dtype)
        if self.warmup_scale is not None and progress is not None:
            return self.warmup_scale + (self.scale - self.warmup_scale) * progress.to(norm.dtype)
        return self.scale

    # -- the classes of a step, and the engine that runs over them -----------------------------------------------------------------

    def _present(self, labels: Tensor, *, sampled: bool = True) -> PresentClasses:
        """The classes of this step; a new random sample if classes are sampled."""
        classes, first, total = self.num_classes, 0, self.num_classes
        if self.shard is not None:
            classes, first = self.shard.count, self.shard.rows.start
            labels = self.shard.local_labels(labels)
        if self.class_sampler is None or not self.training or not sampled:
            return PresentClasses(None, labels, total)
        count = self.class_sampler.count
        parts = [classes] if self.shard is None else [self.shard.count_of(rank) for rank in range(self.shard.size)]
        draw = self.class_sampler.draw
        if torch.compiler.is_compiling():
            draw = torch.compiler.disable(draw)
        rows, positions = draw(labels, classes=classes, first=first)
        return PresentClasses(rows, positions, sum(count(part, len(labels)) for part in parts))

    def _own_bias(self, bias: Tensor, present: PresentClasses) -> Tensor:
        """The bias of each sample's class, ``(N,)``."""
        labels, bias = present.labels, bias if present.rows is None else present.of(bias)
        if self.shard is None:
            return bias[labels]
        own = torch.cat([bias, bias.new_zeros(1)])[labels]  # -1 is the last
        (everywhere,) = self._collective.sum(own.detach())
        return own + (everywhere - own.detach())

    def _reduce(
        self,
        features: Tensor,
        present: PresentClasses,
        scale: float | Tensor,
        *,
        step: _Step | None = None,
        memory: Memory | None = None,
        negatives: Negatives | None = None,
    ) -> ClassStatistics:
        """The class statistics, from this head's engine. With ``negatives`` in place of the margin's, the offset is left out
        too."""
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if present.rows is not None:
            weight, bias = present.of(weight), None if bias is None else present.of(bias)
            memory = None if memory is None else Memory(present.of(memory.features), present.of(memory.share))
        make_sink: Any = DenseGradient
        if self.backward_optimizer is not None:
            weight = weight.detach()
            if self.training and torch.is_grad_enabled():
                weight.requires_grad_()
            make_sink = partial(self._step_sink, present.rows)
        engine = pick_engine(
            self.engine,
            samples=len(present.labels),
            classes=len(weight),
            device=features.device,
            negatives=self._negatives,
            dense_will_do=self.shard is None and self.backward_optimizer is None,
        )
        prepare = step.thresholds if step is not None and "thresholds" in self.definition.has else None
        return engine(
            Problem(
                features,
                weight,
                present.labels,
                scale=scale,
                scale_bound=max(self.scale, self.warmup_scale) if self.warmup_scale is not None else None,
                offset=None if self.offset is None or negatives is not None else self.offset.to(features.dtype),
                bias=bias,
                normalize=not self.affine,
                negatives=self._negatives if negatives is None else negatives,
                prepare=prepare,
                memory=memory,
                with_total=self.label_smoothing > 0.0,
                block_size=self.block_size,
                collective=self._collective,
                make_sink=make_sink,
            )
        )

    def _step_sink(self, rows: Tensor | None, weight: Tensor) -> StepSink:
        """The sink of ``optimizer_in_backward``. ``weight`` may be a copy of some rows, so it updates the head's own weight."""
        assert self.backward_optimizer is not None
        return self.backward_optimizer.sink(self.weight, rows)

    def _memory(self) -> Memory | None:
        """The stored embeddings that are mixed into the centers of this step."""
        stored = self.definition.stored
        if stored is None or self._steps() < stored.start:
            return None
        return self._mixed_in(share=stored.share, freshness=stored.freshness)

    @torch.no_grad()
    def _calibrate_offset(self, features: Tensor, labels: Tensor) -> None:
        assert self.offset is not None
        present = self._present(labels, sampled=False)
        negatives = self._reduce(features, present, self.scale, negatives=Negatives()).negatives
        self.offset.copy_(-negatives.mean())
