"""The state of a head that changes in every training step: the margin's running state, and the warm-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from facezoo.margins.centers import ClassCenters
from facezoo.margins.margin import Batch, Margin


class RunningState(ClassCenters):
    """Class centers with the running state of a margin, in buffers named by the margin.

    Args:
        margin: the margin.
        embedding_dim: width D of the embeddings.
        num_classes: number of identities C.
        warmup_steps: training steps over which the margin grows; 0 for none.
        process_group: processes over which the classes are distributed; None for one process.
    """

    def __init__(
        self, margin: Margin, *, embedding_dim: int, num_classes: int, warmup_steps: int, process_group: Any
    ) -> None:
        super().__init__(
            embedding_dim=embedding_dim,
            num_classes=num_classes,
            per_class=margin.centers_per_class,
            affine=margin.logits == "affine",
            memory=None if margin.stored is None else margin.stored.place,
            process_group=process_group,
        )
        self.definition = margin
        self.warmup_steps = warmup_steps
        state = margin.state(num_classes) if "state" in margin.has else {}
        self._state_names = tuple(state)
        for key, value in state.items():
            self.register_buffer(key, value)
        if warmup_steps:
            self.register_buffer("warmup_step", torch.zeros((), dtype=torch.int64))
        self._known_counts = False  # whether class_counts are set; kept on the host to avoid a device sync

    # -- settings ------------------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def set_margin_progress(self, progress: float) -> None:
        """Set the progress of the warm-up; training continues from there.

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

    @property
    def counts_steps(self) -> bool:
        """Whether the loss depends on the number of training steps done: by a warm-up, or by the margin itself."""
        return bool(self.warmup_steps) or "iteration" in self._state_names

    @torch.no_grad()
    def set_step(self, step: int) -> None:
        """Set the number of training steps done, for schedules: the warm-up, and the annealing of ``"sphereface"``.

        Otherwise the head counts its calls in training mode. If a training step calls the head several times (gradient
        accumulation, mixup), call this before each of them.

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
        """Set the number of images per class for ``"dyn_arcface"``; the numbers are saved in the checkpoint.

        Args:
            counts: int, at least 1, ``(C,)``, for instance ``torch.bincount(labels, minlength=num_classes)``; with a process
                group those of all classes, on every process.

        Raises:
            ValueError: another margin, another shape, or a class without images.
        """
        if "class_counts" not in self._state_names:
            raise ValueError(f"margin {self.definition.name!r} does not use class counts; 'dyn_arcface' does")
        if tuple(counts.shape) != (self.num_classes,):
            raise ValueError(f"expected one count per class, ({self.num_classes},), got {tuple(counts.shape)}")
        if bool((counts < 1).any()):
            index = int((counts < 1).nonzero()[0])
            raise ValueError(f"class {index} has {int(counts[index])} images; every class has at least 1")
        self.get_buffer("class_counts").copy_(counts)
        self._known_counts = True

    def _require_class_counts(self) -> None:
        """Raise if the class counts are not set. Once they are, the device is not read again."""
        counts = self.get_buffer("class_counts")
        self._known_counts = self._known_counts or counts.is_meta or bool((counts > 0).any())
        if not self._known_counts:
            raise RuntimeError(
                f"margin {self.definition.name!r} depends on how many images each class has, and class counts are not set: call "
                "head.set_class_counts(torch.bincount(labels, minlength=num_classes)) with the labels of the training set "
                "(`facezoo train` does)"
            )

    # -- a step --------------------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Tensor]:
        """A copy of the running state. A loss may keep it for its backward pass, while another training step changes the
        buffers."""
        state = {key: self.get_buffer(key) for key in self._state_names}
        return {key: value.clone() if value.is_floating_point() else value for key, value in state.items()}

    def _advance(self, batch: Batch) -> dict[str, Tensor]:
        """Update the running state by one step; returns the new values, which share no memory with the buffers."""
        # If a buffer is both changed and used in one compiled graph, the backward pass may use the value of the next step (seen
        # in torch 2.15). So the buffer is changed outside, and the margin gets tensors that do not change.
        advance = torch.compiler.disable(self._write_state) if torch.compiler.is_compiling() else self._write_state
        return advance(batch)

    @torch.no_grad()
    def _write_state(self, batch: Batch) -> dict[str, Tensor]:
        state: Mapping[str, Tensor] = dict(batch.state) | dict(self.definition.update(batch))
        for key, value in state.items():
            self.get_buffer(key).copy_(value)
        return {key: value.clone() for key, value in state.items()}

    def _advance_warmup(self) -> Tensor:
        """The progress of this step; in training mode it is increased for the next one."""
        advance = torch.compiler.disable(self._write_warmup) if torch.compiler.is_compiling() else self._write_warmup
        return advance()

    @torch.no_grad()
    def _write_warmup(self) -> Tensor:
        step = self.get_buffer("warmup_step")
        progress = step / self.warmup_steps
        if self.training:
            step.add_(1).clamp_(max=self.warmup_steps)
        return progress

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._known_counts = False
        super()._load_from_state_dict(*arguments, **options)
