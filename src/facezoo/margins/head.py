"""The one head: owns the class centers, runs any margin through any engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.margins.backward import BackwardOptimizer, BackwardSettings, StepSink
from facezoo.margins.centers import ClassCenters
from facezoo.margins.engines import (
    ClassStatistics,
    DenseGradient,
    Memory,
    Negatives,
    SinkFactory,
    dense_logits,
    pick_engine,
)
from facezoo.margins.inputs import check_embeddings, checked_labels, full_precision
from facezoo.margins.options import (
    check_head_options,
    check_label_smoothing,
    check_margin_options,
    check_scale_out,
    check_warmup,
    filtered_negatives,
)
from facezoo.margins.sampling import ClassSampler, PresentClasses
from facezoo.margins.spec import MarginInputs, MarginSpec
from facezoo.ops.finite import TOO_LONG, check_finite
from facezoo.ops.margin import detach_margin, unit_vectors
from facezoo.ops.negatives import Coefficients


class MarginHead(ClassCenters):
    """Class centers and the margin-softmax loss over them. Build it with :func:`create_margin`.

    The loss is the mean over the batch of the cross-entropy of the logits, with the margin on the logit of the own class.
    It is computed in float32 (float64 for float64 embeddings) whatever autocast says.

    What is kept of each class, and where it starts, is the part of :class:`~facezoo.margins.centers.ClassCenters`.

    Args:
        spec: the margin.
        options: every option of ``spec.defaults`` with its value.
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        label_smoothing: share of the target distribution that is spread evenly over all classes, in [0, 1); for softmax losses.
        engine: ``"dense"`` (N × C logits at once), ``"chunked"`` (blocks over the classes, logits computed again in the backward
            pass: the same numbers in less memory and, beyond small sizes, less time; no second derivatives), ``"fused"`` (that in
            Triton kernels, on CUDA devices, with float32 products as ``torch.set_float32_matmul_precision`` says) or ``"auto"``.
        block_size: classes per block of the chunked and the fused engine; None chooses by device.
        warmup_steps: training steps over which the margin grows from none to all of it, linearly in the cosine: the target is
            ``(1 - p)·cos θ + p·φ``. The step is a buffer (see :meth:`set_step`). 0 for no warm-up.
        warmup_scale: scale at the beginning of the warm-up; it reaches ``scale`` at its end. None keeps the scale.
        interclass_filter: leave out other classes whose cosine exceeds this, such as 0.4: identities that occur under two names.
            (insightface sets their cosine to 0 instead, which leaves exp(0) in the sum.) For margins with plain softmax.
        process_group: processes of torch.distributed over which the classes are spread, each holding ⌈C/W⌉ of them (the last ones
            fewer); ``torch.distributed.group.WORLD`` for all. Every process calls the head with its own batch, all of one size, and
            gets the mean loss over the batches of all; gradients are right under the averaging of DistributedDataParallel and
            FSDP2, from which the tensors of :attr:`sharded` have to be kept away, see
            :mod:`facezoo.margins.engines.collective`. None for no spreading.
        sample_rate: share of the classes that a training step computes with, in (0, 1] (PartialFC): those of the batch, and a
            random selection of each process's others. Rows that were not drawn get the gradient 0, but an optimizer with momentum
            or weight decay moves them all the same: let it be done by ``optimizer_in_backward``, which leaves them alone. In
            evaluation mode the loss is over all classes.
        optimizer_in_backward: :class:`BackwardSGD` or :class:`BackwardAdamW`: the backward pass of the loss steps the centers in
            training mode, and their gradient is never held. ``weight.requires_grad`` is then False and ``weight.grad`` stays None,
            so another optimizer that is given the weight leaves it as it is. Every backward pass is a step: gradient accumulation
            over k parts makes k of them, and a second loss from the same centers is an error. A gradient scaler or a clipping of
            the gradient knows nothing of it.

    Attributes:
        weight: class centers, parameter ``(C, D)``; ``(C, K, D)`` with K sub-centers per class; a buffer of stored embeddings for
            ``"unitsface"``.
        bias: parameter ``(C,)`` of ``"linear"``, else None.
        offset: parameter, 0-dimensional, of the binary losses, else None: added to every logit.
        options: the margin's options, read-only.
        shard: which classes this process holds; None if it holds all.
        backward_optimizer: state and learning rate (``.lr``) of ``optimizer_in_backward``, else None.
    """

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
        optimizer_in_backward: BackwardSettings | None = None,
        warmup_steps: int = 0,
        warmup_scale: float | None = None,
        interclass_filter: float | None = None,
    ) -> None:
        check_head_options(embedding_dim, num_classes, label_smoothing, engine, block_size)
        check_margin_options(spec, options)
        check_scale_out(spec, engine, process_group, sample_rate, optimizer_in_backward)
        logits = spec.logits_of(**options)
        super().__init__(
            embedding_dim=embedding_dim,
            num_classes=num_classes,
            per_class=None if spec.sub_centers is None else int(options[spec.sub_centers]),
            affine=logits == "affine",
            memory=spec.memory,
            process_group=process_group,
        )
        self.spec = spec
        self._options = dict(options)
        self._rule_options = {key: value for key, value in options.items() if key not in ("scale", "gradient")}
        self.scale = float(options.get("scale", 1.0))
        self.label_smoothing = label_smoothing
        self.engine = engine
        self.block_size = block_size
        self.warmup_steps = warmup_steps
        self.warmup_scale = warmup_scale
        self.interclass_filter = interclass_filter
        self.sample_rate = sample_rate
        self._logits = logits
        self._negatives = spec.negatives_of(**options)
        if interclass_filter is not None:
            self._negatives = filtered_negatives(spec, self._negatives, self._logits, interclass_filter)
        check_warmup(spec, warmup_steps, warmup_scale)
        if label_smoothing > 0.0:
            check_label_smoothing(spec, self._negatives)
        self.register_parameter("offset", nn.Parameter(torch.empty(())) if spec.offset is not None else None)
        self._state_names: tuple[str, ...] = ()
        self._known_counts = False  # whether class_counts are set, without asking the device
        if spec.state is not None:
            state = spec.state(num_classes=num_classes, **options)
            self._state_names = tuple(state)
            for key, value in state.items():
                self.register_buffer(key, value)
        if warmup_steps:
            self.register_buffer("warmup_step", torch.zeros((), dtype=torch.int64))
        self.reset_parameters()
        self.class_sampler = None if sample_rate == 1.0 else ClassSampler(sample_rate)
        self.backward_optimizer: BackwardOptimizer | None = None
        if optimizer_in_backward is not None:
            self.weight.requires_grad_(False)
            self.backward_optimizer = BackwardOptimizer(optimizer_in_backward, self.weight)

    def reset_parameters(self) -> None:
        """Draw the centers anew, and put a learned offset at its start. Running state is left alone."""
        super().reset_parameters()
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
    def margin(self) -> float | tuple[float, ...]:
        """The margin: a number in the unit of the formula, 0 where there is none, a tuple where the formula has several."""
        for names in (("m1", "m2", "m3"), ("margin_min", "margin_max"), ("a", "b")):
            if names[0] in self._options:
                return tuple(self._options[name] for name in names)
        return self._options.get("margin", 0.0)

    @property
    def sharded(self) -> tuple[str, ...]:
        """See :attr:`ClassCenters.sharded`; the state of ``optimizer_in_backward`` is in parts too."""
        names = super().sharded
        if self.shard is not None and self.backward_optimizer is not None:
            names += tuple(f"backward_optimizer.{name}" for name, _ in self.backward_optimizer.named_buffers())
        return names

    def extra_repr(self) -> str:
        """The margin, its sizes and its options."""
        options = "".join(f", {key}={value!r}" for key, value in self._options.items())
        return f"{self.name!r}, embedding_dim={self.embedding_dim}, num_classes={self.num_classes}{options}, engine={self.engine!r}"

    # -- what it is told -----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def set_margin_progress(self, progress: float) -> None:
        """Put the warm-up at a point of its course; training goes on from there.

        Args:
            progress: 0 (no margin, ``warmup_scale``) to 1 (the full margin, ``scale``).

        Raises:
            ValueError: the head has no warm-up, or the number lies outside [0, 1].
        """
        if not self.warmup_steps:
            raise ValueError("this head has no warm-up: create it with warmup_steps of at least 1")
        if not 0.0 <= progress <= 1.0:
            raise ValueError(f"progress lies between 0 (no margin) and 1 (all of it), got {progress}")
        self.get_buffer("warmup_step").fill_(round(progress * self.warmup_steps))

    @torch.no_grad()
    def set_step(self, step: int) -> None:
        """Say how many training steps are done, for what follows a schedule: the warm-up, and the annealing of ``"sphereface"``.

        By itself the head counts its calls in training mode. A training step of several calls (accumulated gradients, mixup) says
        here which one it is, before each.

        Args:
            step: 0 before the first.

        Raises:
            ValueError: a number below 0.
        """
        if step < 0:
            raise ValueError(f"step is a number of training steps done, 0 or more; got {step}")
        if self.warmup_steps:
            self.get_buffer("warmup_step").fill_(min(step, self.warmup_steps))
        if "iteration" in self._state_names:
            self.get_buffer("iteration").fill_(step)

    @torch.no_grad()
    def set_class_counts(self, counts: Tensor) -> None:
        """Tell ``"dyn_arcface"`` how many images each class has; the numbers go into the checkpoint.

        Args:
            counts: int, at least 1, ``(C,)``, for instance ``torch.bincount(labels, minlength=num_classes)``; with a process
                group those of all classes, on every process.

        Raises:
            ValueError: another margin, another shape, or a class without images.
        """
        if "class_counts" not in self._state_names:
            raise ValueError(f"margin {self.name!r} does not use class counts; 'dyn_arcface' does")
        if tuple(counts.shape) != (self.num_classes,):
            raise ValueError(f"expected one count per class, ({self.num_classes},), got {tuple(counts.shape)}")
        if bool((counts < 1).any()):
            index = int((counts < 1).nonzero()[0])
            raise ValueError(f"class {index} has {int(counts[index])} images; every class has at least 1")
        self.get_buffer("class_counts").copy_(counts)
        self._known_counts = True

    # -- logits and loss -----------------------------------------------------------------------------------------------------------

    def logits(self, embeddings: Tensor) -> Tensor:
        """Logits without margin, for inference.

        Args:
            embeddings: ``(N, D)``, not normalized.

        With a process group every process has to call it, with as many embeddings as the others; the logits have no gradient then.

        Returns:
            ``(N, C)``, float32 (float64 for float64 embeddings): scaled cosines, with the nearest sub-center where a class has
            several; cosines times ‖x‖ for ``"sphereface"``; the affine map for ``"linear"``.

        Raises:
            ValueError: the embeddings are not ``(N, D)``.
        """
        check_embeddings(embeddings, self.embedding_dim)
        if not self.training:  # in training the backward pass of the last loss may be still to come
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

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of a batch. In training mode a margin with running state advances it by one step.

        Args:
            embeddings: ``(N, D)``, any floating dtype, not normalized.
            labels: class of each sample, any integer dtype, in [0, C), ``(N,)``. On the CPU a label outside is a ValueError;
                on a GPU, and inside ``torch.compile``, it is an assertion on the device, so that no step waits for it.

        Returns:
            The loss, 0-dimensional, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: an empty batch, a wrong width, or a label out of range.
            NonFiniteError: NaN or infinity in the embeddings (in the head's own tensors, where that makes the loss NaN); it names
                the tensor and the row. Looked for on the CPU and, of the embeddings, inside ``torch.autograd.detect_anomaly()``.
            TypeError: labels that are not integers (soft labels, for instance).
            RuntimeError: ``"dyn_arcface"`` was not told its class counts.
        """
        if "class_counts" in self._state_names and not self._known_counts:
            check = self._require_class_counts
            (torch.compiler.disable(check) if torch.compiler.is_compiling() else check)()
        check_embeddings(embeddings, self.embedding_dim)
        labels = checked_labels(embeddings, labels, self.num_classes)
        check_finite(
            embeddings,
            "the embeddings",
            hint="the network before the head made them: a lower learning rate, or clipped gradients, usually help",
        )
        with torch.autocast(embeddings.device.type, enabled=False):
            features, norm = self._features(embeddings)
            features, norm, labels = self._collective.gather(features, norm, labels)
            losses = self._losses
            if self.spec.memory is not None and torch.compiler.is_compiling():
                losses = torch.compiler.disable(losses)  # steps are counted on the host
            loss = losses(features, norm, labels).mean()
        if self.backward_optimizer is not None and self.training:
            guard = self.backward_optimizer.guard
            (torch.compiler.disable(guard) if torch.compiler.is_compiling() else guard)(loss)
        if loss.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(torch.isfinite(loss)):
            self._blame(loss)
        return loss

    def _blame(self, loss: Tensor) -> None:
        """Name the first tensor of this head that is not finite. A loss that overflowed by itself is returned as it is."""
        for name, tensor in (*self.named_parameters(), *self.named_buffers()):
            if tensor.is_floating_point():
                check_finite(tensor, f"{name} of the {self.name!r} head, so the loss is {float(loss.detach())}")

    def _losses(self, features: Tensor, norm: Tensor, labels: Tensor) -> Tensor:
        """The loss of each sample, ``(N,)``. State and memory advance by one step in training mode."""
        self._remember()
        if self.spec.memory is not None and self.training:
            self._to_remember = features.detach(), labels
        if self.spec.memory == "only":
            start = self._options["start"]
            if self._steps() < start:
                return (features * 0.0).sum(1) + (0.0 if self.offset is None else self.offset * 0.0)
            if self.training and self._steps() == start:
                self._calibrate_offset(features, labels)
        losses = self._losses_of_centers(features, norm, labels)
        if self.spec.memory is not None:
            self._is_read_by(losses)
        return losses

    def _losses_of_centers(self, features: Tensor, norm: Tensor, labels: Tensor) -> Tensor:
        spec, state, present = self.spec, self._state(), self._present(labels)
        progress = self._advance_warmup() if self.warmup_steps else None
        advance_pending = (
            self.training and spec.update is not None and not (spec.frozen is not None and spec.frozen(**self._options))
        )
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
            return spec.coefficients(inputs, self._margined(inputs, progress), **self._options)

        if advance_pending and "negatives" in spec.needs:
            with torch.no_grad():
                before = self._reduce(features, present, self._logit_scale(norm, state, progress))
            advance(before.target, before.negatives)
        scale = self._logit_scale(norm, state, progress)
        statistics = self._reduce(
            features, present, scale, prepare=None if spec.coefficients is None else prepare, memory=self._memory()
        )
        advance(statistics.target)
        inputs = inputs_for(statistics.target)
        target_logit = scale * self._margined(inputs, progress)
        if self.bias is not None:
            target_logit = target_logit + self._own_bias(self.bias.to(features.dtype), present)
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
            mean_logit = (statistics.total + target_logit) / present.total
            loss = loss + self.label_smoothing * (target_logit - mean_logit)
        if spec.penalty is not None:
            loss = loss + spec.penalty(inputs, **self._options)
        return loss

    def _features(self, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Features as the engine wants them, ``(N, D)``, and the lengths of the embeddings, ``(N,)``."""
        embeddings = full_precision(embeddings)
        if self.affine:
            needed = "norm" in self.spec.needs
            return embeddings, torch.linalg.vector_norm(embeddings, dim=1) if needed else embeddings.new_zeros(
                len(embeddings)
            )
        features, norm = unit_vectors(embeddings)
        return features, norm[:, 0]

    def _logit_scale(self, norm: Tensor, state: Mapping[str, Tensor], progress: Tensor | None) -> float | Tensor:
        if self._logits == "norm_cosine":
            check_finite(norm.detach().square(), "the squared lengths of the embeddings", hint=TOO_LONG)
            return norm
        if self.spec.scale_state is not None:
            return state[self.spec.scale_state].to(norm.dtype)
        if self.warmup_scale is not None and progress is not None:
            return self.warmup_scale + (self.scale - self.warmup_scale) * progress.to(norm.dtype)
        return self.scale

    def _margined(self, inputs: MarginInputs, progress: Tensor | None) -> Tensor:
        """φ, ``(N,)``; during the warm-up between the cosine and φ."""
        margined = self.spec.rule(inputs, **self._rule_options)
        if progress is not None and self.spec.warmable:
            margined = torch.lerp(inputs.target, margined, progress.to(margined.dtype))
        return detach_margin(inputs.target, margined) if self._options.get("gradient") == "detached" else margined

    # -- the classes of a step, and the engine that runs over them -----------------------------------------------------------------

    def _present(self, labels: Tensor, *, sampled: bool = True) -> PresentClasses:
        """The classes of this step, drawn anew where classes are sampled."""
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
        labels = present.labels
        if self.shard is None:
            return present.of(bias)[labels]
        padded = torch.cat([present.of(bias), bias.new_zeros(1)])  # -1 is the last
        own = padded[labels]
        (everywhere,) = self._collective.sum(own.detach())
        return own + (everywhere - own.detach())

    def _reduce(
        self,
        features: Tensor,
        present: PresentClasses,
        scale: float | Tensor,
        *,
        negatives: Negatives | None = None,
        prepare: Callable[[Tensor], Coefficients] | None = None,
        memory: Memory | None = None,
    ) -> ClassStatistics:
        """The class statistics by the engine of this head."""
        offset = None if self.offset is None or negatives is not None else self.offset.to(features.dtype)
        weight = present.of(self.weight)
        make_sink: SinkFactory = DenseGradient
        if self.backward_optimizer is not None:
            weight = weight.detach()
            if self.training and torch.is_grad_enabled():
                weight.requires_grad_()
            make_sink = partial(self._step_sink, present.rows)
        if memory is not None:
            memory = Memory(present.of(memory.features), present.of(memory.share))
        engine = pick_engine(
            self.engine,
            samples=len(present.labels),
            classes=len(weight),
            device=features.device,
            dense_will_do=self.shard is None and self.backward_optimizer is None,
        )
        return engine(
            features,
            weight,
            present.labels,
            scale=scale,
            scale_bound=max(self.scale, self.warmup_scale) if self.warmup_scale is not None else None,
            offset=offset,
            bias=None if self.bias is None else present.of(self.bias),
            normalize=not self.affine,
            negatives=self._negatives if negatives is None else negatives,
            prepare=prepare,
            memory=memory,
            with_total=self.label_smoothing > 0.0,
            block_size=self.block_size,
            collective=self._collective,
            make_sink=make_sink,
        )

    def _step_sink(self, rows: Tensor | None, weight: Tensor) -> StepSink:
        """The sink of ``optimizer_in_backward``; ``weight`` may be a copy of some rows, so the head's own is stepped."""
        assert self.backward_optimizer is not None
        return self.backward_optimizer.sink(self.weight, rows)

    # -- running state -------------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        """The running state. A loss may keep it for its backward pass, before which another training step may change it."""
        state = {key: self.get_buffer(key) for key in self._state_names}
        return {key: value.clone() if value.is_floating_point() else value for key, value in state.items()}

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

    def _advance_warmup(self) -> Tensor:
        """Progress of this step; in training mode the next one's is larger."""
        advance = torch.compiler.disable(self._write_warmup) if torch.compiler.is_compiling() else self._write_warmup
        return advance()

    @torch.no_grad()
    def _write_warmup(self) -> Tensor:
        step = self.get_buffer("warmup_step")
        progress = step / self.warmup_steps
        if self.training:
            step.add_(1).clamp_(max=self.warmup_steps)
        return progress

    def _memory(self) -> Memory | None:
        """What is mixed into the centers of this step."""
        if self.spec.memory != "mixed" or self._steps() < self._options["start"]:
            return None
        return self._mixed_in(share=self._options["share"], freshness=self._options["freshness"])

    @torch.no_grad()
    def _calibrate_offset(self, features: Tensor, labels: Tensor) -> None:
        assert self.offset is not None
        present = self._present(labels, sampled=False)
        negatives = self._reduce(features, present, self.scale, negatives=Negatives()).negatives
        self.offset.copy_(-negatives.mean())

    def _require_class_counts(self) -> None:
        """Asks the device until there are counts, and not again."""
        counts = self.get_buffer("class_counts")
        self._known_counts = self._known_counts or counts.is_meta or bool((counts > 0).any())
        if not self._known_counts:
            raise RuntimeError(
                f"margin {self.name!r} depends on how many images each class has, and nobody has said so: call "
                "head.set_class_counts(torch.bincount(labels, minlength=num_classes)) with the labels of the training set "
                "(`facezoo train` does)"
            )

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._known_counts = False
        super()._load_from_state_dict(*arguments, **options)
