"""The per-class tensors of a head: centers, bias, last embedding; their initialization and sharding."""

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
    """The tensors with one row per class, for all classes or those of this process.

    Centers are drawn from N(0, 0.01²), as in insightface. (With cosines the loss depends only on the direction; the length
    determines how far a gradient step rotates a center.) A bias starts at 0.

    Args:
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        per_class: centers of a class, K; None for one, without a dimension of its own.
        affine: whether logits are ``x·w + b``, with a bias and centers of any length, instead of cosines.
        memory: whether an embedding of each class is stored after each training step: ``"mixed"`` into the centers, or
            ``"only"``, in place of centers; None for none.
        process_group: processes over which the classes are distributed; None for one process.

    Attributes:
        weight: class centers, parameter ``(C, D)`` or ``(C, K, D)``; for ``memory="only"`` a buffer of stored embeddings.
        bias: parameter ``(C,)``, or None.
        shard: the classes of this process; None if it has all.
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
        # Embeddings of the last training step, added to the memory only after its backward pass.
        self._to_remember: tuple[Tensor, Tensor] | None = None
        self._known_steps: int | None = None  # copy of memory_steps on the host, to avoid a device sync
        # Losses that use the stored embeddings and whose backward pass has not run yet.
        self._readers: set[object] = set()
        if self.shard is not None:
            self.register_state_dict_post_hook(_shard_state)
            self.register_load_state_dict_pre_hook(_take_own_state)

    def reset_parameters(self) -> None:
        """Initialize the centers again. Running state is not changed."""
        if self.memory_kind == "only":
            nn.init.zeros_(self.weight)
        else:
            first = 0 if self.shard is None else self.shard.rows.start
            draw_centers(self.weight, std=INIT_STD, num_classes=self.num_classes, first=first)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def sharded(self) -> tuple[str, ...]:
        """Names of the sharded parameters and buffers; none without a process group.

        They differ between processes, so code that synchronizes a module must skip them.
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

        With several sub-centers per class only the first is set, here and in :meth:`init_from_embeddings`. With a process group
        each process takes its own classes.

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
        """Set each center to the mean of its class, for fine-tuning a backbone that was trained with another loss.

        For cosines it is the mean of the normalized embeddings, and each center keeps its length, so that the effect of the
        learning rate does not change. For ``"linear"`` it is the mean of the embeddings without normalization, and the bias is
        -‖mean‖²/2, which gives the nearest-mean classifier. A class without samples, or with a zero mean, keeps its center.

        Args:
            embeddings: ``(N, D)``, any device; with a process group the same on every process.
            labels: int, in [0, C), ``(N,)``.

        Returns:
            The number of classes that were set, over all processes.

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
            # The mean of opposite embeddings is rounding noise rather than zero; such a class has no direction either.
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
        """Number of training steps in the memory. It reads the device once, then counts on the host."""
        if self._known_steps is None:
            self._known_steps = int(self.get_buffer("memory_steps"))
        return self._known_steps

    def _mixed_in(self, *, share: float, freshness: int) -> Memory:
        """The stored embeddings of the last ``freshness`` training steps, with their share in the centers."""
        written = self.get_buffer("memory_written")
        fresh = (written >= 0) & (self._steps() - written <= freshness)
        return Memory(self.get_buffer("memory"), fresh.to(self.weight.dtype) * share)

    def _is_read_by(self, losses: Tensor) -> None:
        """Record that the backward pass from ``losses`` needs the current stored embeddings."""
        if losses.requires_grad:
            readers, reader = self._readers, object()
            readers.add(reader)
            losses.register_hook(lambda _: readers.discard(reader))

    @torch.no_grad()
    def _remember(self) -> None:
        """Write the last training step's embeddings into the memory. The last embedding of a class is kept."""
        if self._to_remember is None:
            return
        features, labels = self._to_remember
        self._to_remember = None
        name = "weight" if self.memory_kind == "only" else "memory"
        if self._readers:
            # A backward pass has not run yet (mixup has two losses before it): it keeps the tensor that it has read.
            setattr(self, name, self.get_buffer(name).clone())
            self._readers = set()
        stored = self.get_buffer(name)
        if self.shard is not None:
            labels = self.shard.local_labels(labels)
        if len(stored):
            # Rows of other processes' classes map to row 0 and write its old value.
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
    """Convert sharded entries of the state dict to DTensors, for torch.distributed.checkpoint."""
    assert head.shard is not None
    head.shard.put_dtensors(state_dict, [prefix + name for name in head.sharded])


def _take_own_state(head: ClassCenters, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Take this process's part of entries that may be whole tensors."""
    assert head.shard is not None
    head.shard.take_parts(state_dict, [prefix + name for name in head.sharded])
