"""What a head keeps of each class: centers, a bias, the last embedding. Which classes it holds, and how they start."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from facezoo.margins.engines import SINGLE_PROCESS, Collective, Memory, ProcessGroupCollective
from facezoo.margins.shard import ClassShard, draw_centers
from facezoo.ops.checks import check_embeddings, check_finite, checked_labels, full_precision
from facezoo.ops.margin import unit_vectors

INIT_STD = 0.01


class ClassCenters(nn.Module):
    """One row per class, of all classes or of those of this process, and what is stored beside it.

    Centers are drawn from N(0, 0.01²), as insightface draws them (for cosines only the direction matters for the loss, while the
    length sets how far a gradient step turns a center); a bias starts at 0.

    Args:
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        per_class: centers of a class, K; None for one, without a dimension of its own.
        affine: whether logits are ``x·w + b``, with a bias and centers of any length, instead of cosines.
        memory: an embedding of each class, stored after each training step: ``"mixed"`` into the centers, or ``"only"``, in their
            place; None for none.
        process_group: processes over which the classes are spread; None for no spreading.

    Attributes:
        weight: class centers, parameter ``(C, D)`` or ``(C, K, D)``; for ``memory="only"`` a buffer of stored embeddings.
        bias: parameter ``(C,)``, or None.
        shard: which classes this process holds; None if it holds all.
    """

    weight: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        *,
        embedding_dim: int,
        num_classes: int,
        per_class: int | None,
        affine: bool,
        memory: Literal["mixed", "only"] | None,
        process_group: Any,
    ) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.num_classes = num_classes
        self.affine = affine
        self.memory_kind = memory
        self.shard = None if process_group is None else ClassShard.of_group(num_classes, process_group)
        self._collective: Collective = (
            SINGLE_PROCESS if process_group is None else ProcessGroupCollective(process_group)
        )
        own_classes = num_classes if self.shard is None else self.shard.count
        weight = torch.empty(own_classes, *(() if per_class is None else (per_class,)), embedding_dim)
        if memory == "only":
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight)
        self.register_parameter("bias", nn.Parameter(torch.empty(own_classes)) if affine else None)
        if memory is not None:
            self.register_buffer("memory_steps", torch.zeros((), dtype=torch.int64))
        if memory == "mixed":
            self.register_buffer("memory", torch.zeros(own_classes, embedding_dim))
            self.register_buffer("memory_written", torch.full((own_classes,), -1, dtype=torch.int64))
        # What the last training step has to add to the memory: not before its backward pass is over.
        self._to_remember: tuple[Tensor, Tensor] | None = None
        self._known_steps: int | None = None  # memory_steps, without asking the device
        # The losses that read the stored embeddings and whose backward pass is still to come.
        self._readers: set[object] = set()
        if self.shard is not None:
            self.register_state_dict_post_hook(_shard_state)
            self.register_load_state_dict_pre_hook(_take_own_state)

    def reset_parameters(self) -> None:
        """Draw the centers anew. Running state is left alone."""
        if self.memory_kind == "only":
            nn.init.zeros_(self.weight)
        else:
            first = 0 if self.shard is None else self.shard.rows.start
            draw_centers(self.weight, std=INIT_STD, num_classes=self.num_classes, first=first)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def sharded(self) -> tuple[str, ...]:
        """Names of the parameters and buffers of which this process holds a part, its classes; none without a process group.

        They differ between processes, so whatever makes a module equal everywhere has to leave them out.
        ``DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)`` does that for DDP; for FSDP2 wrap
        the backbone alone.
        """
        if self.shard is None:
            return ()
        names = ("weight", "bias", "memory", "memory_written")
        return tuple(name for name in names if getattr(self, name, None) is not None)

    # -- where the centers start ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def init_from_linear(self, linear: nn.Linear) -> None:
        """Take the centers (and, for ``"linear"``, the bias) of a trained linear classifier.

        With several sub-centers per class it is the first that is set, here and in :meth:`init_from_embeddings`. With a process
        group each process takes its classes from the whole.

        Args:
            linear: ``nn.Linear(D, C)``.

        Raises:
            ValueError: the shapes differ.
            NonFiniteError: NaN or infinity in its weight.
        """
        expected = (self.num_classes, self.embedding_dim)
        centers = self._first_centers()
        if tuple(linear.weight.shape) != expected:
            raise ValueError(
                f"the classifier's weight is {tuple(linear.weight.shape)}, the centers are (C, D) = {expected}"
            )
        check_finite(linear.weight, "weight of the classifier")
        rows = slice(None) if self.shard is None else self.shard.rows
        centers.copy_(linear.weight[rows])
        if self.bias is not None:
            bias = linear.state_dict().get("bias")
            self.bias.copy_(self.bias.new_zeros(()) if bias is None else bias[rows])

    @torch.no_grad()
    def init_from_embeddings(self, embeddings: Tensor, labels: Tensor) -> int:
        """Put each center at the mean of its class, for fine-tuning a backbone that was trained with another loss.

        For cosines the mean is that of the normalized embeddings, and each center keeps its present length, so that the learning
        rate keeps its meaning. For ``"linear"`` it is that of the embeddings as they are, and the bias -‖mean‖²/2, which makes
        the head the nearest-mean classifier. A class without a sample, or whose mean is zero, keeps its center.

        Args:
            embeddings: ``(N, D)``, any device; with a process group the same on every process.
            labels: int, in [0, C), ``(N,)``.

        Returns:
            How many classes were set, of all processes.

        Raises:
            ValueError: an empty batch, a wrong width, or a label out of range.
            TypeError: labels that are not integers.
            NonFiniteError: NaN or infinity in the embeddings.
        """
        check_embeddings(embeddings, width=self.embedding_dim)
        labels = checked_labels(embeddings, labels, num_classes=self.num_classes).to(self.weight.device)
        check_finite(embeddings, "the embeddings")
        embeddings = full_precision(embeddings).to(self.weight.device)
        cosine, centers = not self.affine, self._first_centers()
        if self.shard is not None:
            labels = self.shard.local_labels(labels)
            embeddings, labels = embeddings[labels >= 0], labels[labels >= 0]
        sums = embeddings.new_zeros(len(centers), self.embedding_dim)
        sums.index_add_(0, labels, unit_vectors(embeddings)[0] if cosine else embeddings)
        counts = torch.bincount(labels, minlength=len(centers))[:, None]
        means = sums / counts.clamp_min(1)
        found = counts[:, 0] > 0
        if cosine:
            direction, length = unit_vectors(means)
            # Random embeddings cancel to rounding, not to zero; a class of them has no direction either.
            found &= length[:, 0] > torch.finfo(means.dtype).eps
            means = direction
            if self.memory_kind != "only":
                means = means * torch.linalg.vector_norm(centers.to(means.dtype), dim=1, keepdim=True)
        centers.copy_(torch.where(found[:, None], means.to(centers.dtype), centers))
        if self.bias is not None:
            self.bias.copy_(torch.where(found, -0.5 * means.square().sum(1).to(self.bias.dtype), self.bias))
        return int(self._collective.sum(found.sum())[0])

    def _first_centers(self) -> Tensor:
        """One center per class, ``(C, D)``: a view of the weight."""
        return self.weight.detach() if self.weight.dim() == 2 else self.weight.detach()[:, 0]

    # -- memory --------------------------------------------------------------------------------------------------------------------

    def _steps(self) -> int:
        """Training steps whose embeddings are in the memory. Asks the device once, then counts along."""
        if self._known_steps is None:
            self._known_steps = int(self.get_buffer("memory_steps"))
        return self._known_steps

    def _mixed_in(self, *, share: float, freshness: int) -> Memory:
        """The stored embeddings that are no older than ``freshness`` training steps, with their share in the centers."""
        written = self.get_buffer("memory_written")
        fresh = (written >= 0) & (self._steps() - written <= freshness)
        return Memory(self.get_buffer("memory"), fresh.to(self.weight.dtype) * share)

    def _is_read_by(self, losses: Tensor) -> None:
        """Say that the backward pass from ``losses`` needs the stored embeddings as they are now."""
        if losses.requires_grad:
            readers, reader = self._readers, object()
            readers.add(reader)
            losses.register_hook(lambda _: readers.discard(reader))

    @torch.no_grad()
    def _remember(self) -> None:
        """Write the last training step's embeddings into the memory. Of several of one class the last one stays."""
        if self._to_remember is None:
            return
        features, labels = self._to_remember
        self._to_remember = None
        name = "weight" if self.memory_kind == "only" else "memory"
        if self._readers:
            # A backward pass is still to come (mixup has two losses before one): it keeps what it has read.
            setattr(self, name, self.get_buffer(name).clone())
            self._readers = set()
        stored = self.get_buffer(name)
        if self.shard is not None:
            labels = self.shard.local_labels(labels)
        if len(stored):
            # Rows of other processes' classes stand for row 0: they write what it has.
            rows, order = labels.clamp_min(0), torch.arange(len(labels), device=labels.device)
            order = torch.where(labels < 0, -1, order)
            last = labels.new_full((len(stored),), -1).scatter_reduce_(0, rows, order, "amax")[rows]
            here = last >= 0
            stored.index_copy_(0, rows, torch.where(here[:, None], features[last].to(stored.dtype), stored[rows]))
            if self.memory_kind == "mixed":
                written = self.get_buffer("memory_written")
                written.index_copy_(0, rows, torch.where(here, self._steps(), written[rows]))
        self._known_steps = self._steps() + 1
        self.get_buffer("memory_steps").fill_(self._known_steps)

    def _save_to_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._remember()
        super()._save_to_state_dict(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._to_remember = self._known_steps = None
        super()._load_from_state_dict(*arguments, **options)


def _shard_state(head: ClassCenters, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """Give each part of the state dict its place in the whole, for torch.distributed.checkpoint."""
    assert head.shard is not None
    head.shard.put_dtensors(state_dict, [prefix + name for name in head.sharded])


def _take_own_state(head: ClassCenters, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take this process's part of what may be the whole."""
    assert head.shard is not None
    head.shard.take_parts(state_dict, [prefix + name for name in head.sharded])
