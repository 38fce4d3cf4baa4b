"""Several losses at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facezoo.losses.cross_entropy import CrossEntropyLoss
from facezoo.losses.weights import WeightSchedule
from facezoo.ops.gather import gather_with_gradient


class JointLoss(nn.Module):
    """``Σ_k weight_k · loss_k(embeddings, labels)``: joint optimization of several objectives on the same embeddings.

    ::

        head = facezoo.create_margin("linear", embedding_dim=512, num_classes=8631)
        center = facezoo.create_loss("center", num_classes=8631, embedding_dim=512)
        criterion = JointLoss([head, center], weights=[1.0, WeightSchedule(0.003, warmup=500)], names=["softmax", "center"])
        loss = criterion(embeddings, labels)
        criterion.last          # {"softmax": tensor(9.1), "center": tensor(60.2)}, unweighted, for the log

    Every part takes embeddings: a classifier takes part as a margin head (``"linear"``), not as ``"cross_entropy"`` on logits.
    (To use losses one after the other no class is needed: train with one loss, then with another. A margin head can be
    initialized with ``init_from_embeddings`` or ``init_from_linear``.)

    The parts get the embeddings in float32 (float64 stays float64), outside autocast: they square distances, for which float16
    would overflow and bfloat16 would be too coarse.

    Args:
        parts: modules ``part(embeddings, labels) -> scalar``: losses, margin heads.
        weights: one per part: a number of at least 0, or a :class:`WeightSchedule`. A part with the number 0 as weight is
            computed and logged, but gets no gradient at all; a part whose schedule is at 0 gets a gradient of zeros.
        names: one name per part, for the log; by default the part's ``name``, or that of its class.
        gather: compute every part on the batch of all ranks, like :class:`GatheredLoss`, but gather only once.
        count_calls: whether each call in training mode is one step of the schedules. False: the caller sets the step with
            :meth:`set_step` (for updates with several micro-batches, for example).

    Attributes:
        parts: ``nn.ModuleDict`` by name.
        weights: by name, as given; they may be changed between steps.
        steps: buffer, 0-dimensional int64: steps done. It is in the state dict, so that schedules continue after a resume.
        last: the unweighted parts of the last call by name, detached.
    """

    steps: Tensor

    def __init__(
        self,
        parts: Sequence[nn.Module],
        *,
        weights: Sequence[float | WeightSchedule],
        names: Sequence[str] | None = None,
        gather: bool = False,
        count_calls: bool = True,
    ) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a joint loss has at least one part")
        names = [_name(part) for part in parts] if names is None else list(names)
        if not len(parts) == len(weights) == len(names):
            raise ValueError(
                f"one weight and one name per part: got {len(parts)} parts, {len(weights)} weights, {len(names)} names"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"the parts need different names, got {names}; pass names=[...]")
        for name, weight in zip(names, weights, strict=True):
            if not isinstance(weight, WeightSchedule) and not 0.0 <= weight < math.inf:
                raise ValueError(f"weights are finite and not negative; that of {name!r} is {weight}")
        for name, part in zip(names, parts, strict=True):
            if isinstance(part, CrossEntropyLoss):
                raise ValueError(
                    f"part {name!r} takes logits, but a joint loss passes embeddings to every part; "
                    "use create_margin('linear', ...), which holds the classifier itself"
                )
        self.parts = nn.ModuleDict(dict(zip(names, parts, strict=True)))
        self.weights: dict[str, float | WeightSchedule] = dict(zip(names, weights, strict=True))
        self.gather = gather
        self.count_calls = count_calls
        self.last: dict[str, Tensor] = {}
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def set_step(self, step: int) -> None:
        """Set the number of steps done, for the schedules."""
        self.steps.fill_(step)

    def weight(self, name: str) -> float | Tensor:
        """The current weight of a part; a 0-dimensional tensor on the device of ``steps`` if it changes."""
        weight = self.weights[name]
        if not isinstance(weight, WeightSchedule):
            return weight
        return float(weight.weight) if weight.is_constant else weight.at(self.steps)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The weighted sum.

        Args:
            embeddings: ``(N, D)``.
            labels: int, ``(N,)``.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            if self.gather:
                embeddings, labels = gather_with_gradient(embeddings), gather_with_gradient(labels)
            if embeddings.dtype in (torch.float16, torch.bfloat16):
                embeddings = embeddings.float()
            values = {name: part(embeddings, labels) for name, part in self.parts.items()}
            self.last = {name: value.detach() for name, value in values.items()}
            weights = {name: self.weight(name) for name in values}
            if self.training and self.count_calls:
                self.steps.add_(1)
            # A part with the number 0 as weight is left out of the sum: 0 times an infinite gradient would be NaN. A part whose
            # schedule is at 0 stays in the sum, because DistributedDataParallel waits for the gradients of its parameters.
            weighted = [
                weight * values[name] for name, weight in weights.items() if isinstance(weight, Tensor) or weight > 0.0
            ]
            return torch.stack(weighted or [0.0 * value for value in values.values()]).sum()

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"weights={self.weights}" + (", gather=True" if self.gather else "")


def _name(part: nn.Module) -> str:
    name = getattr(part, "name", None)
    return name if isinstance(name, str) else type(part).__name__
