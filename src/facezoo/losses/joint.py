"""Several losses at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from facezoo.losses.cross_entropy import CrossEntropyLoss


class JointLoss(nn.Module):
    """``Σ_k weight_k · loss_k(embeddings, labels)``: joint optimisation of several objectives on the same embeddings.

    ::

        head = facezoo.create_margin("linear", embedding_dim=512, num_classes=8631)
        center = facezoo.create_loss("center", num_classes=8631, embedding_dim=512)
        criterion = JointLoss([head, center], weights=[1.0, 0.003], names=["softmax", "center"])
        loss = criterion(embeddings, labels)
        criterion.last          # {"softmax": tensor(9.1), "center": tensor(60.2)}, unweighted, for the log

    Every part takes embeddings: a classifier takes part as a margin head (``"linear"``), not as ``"cross_entropy"`` on logits.
    (Sequential use needs no class: train with one loss, then go on with another; a margin head's ``init_from_embeddings`` and
    ``init_from_linear`` give it a start.)

    Args:
        parts: modules ``part(embeddings, labels) -> scalar``: losses, margin heads.
        weights: one number per part, not negative; a part with weight 0 is computed and logged, and contributes nothing.
        names: one name per part, for the log; by default the part's ``name``, or that of its class.

    Attributes:
        parts: ``nn.ModuleDict`` by name.
        weights: floats by name; they may be changed between steps (a schedule, for instance).
        last: the unweighted parts of the last call by name, detached.
    """

    def __init__(
        self, parts: Sequence[nn.Module], *, weights: Sequence[float], names: Sequence[str] | None = None
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
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"weights are finite and not negative; that of {name!r} is {weight}")
        for name, part in zip(names, parts, strict=True):
            if isinstance(part, CrossEntropyLoss):
                raise ValueError(
                    f"part {name!r} takes logits, but a joint loss passes embeddings to every part; "
                    "use create_margin('linear', ...), which holds the classifier itself"
                )
        self.parts = nn.ModuleDict(dict(zip(names, parts, strict=True)))
        self.weights: dict[str, float] = {name: float(weight) for name, weight in zip(names, weights, strict=True)}
        self.last: dict[str, Tensor] = {}

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The weighted sum.

        Args:
            embeddings: ``(N, D)``.
            labels: int, ``(N,)``.
        """
        values = {name: part(embeddings, labels) for name, part in self.parts.items()}
        self.last = {name: value.detach() for name, value in values.items()}
        # A part of weight 0 is left out of the sum: 0 times an infinite gradient would be NaN.
        weighted = [self.weights[name] * value for name, value in values.items() if self.weights[name] > 0.0]
        return torch.stack(weighted or [0.0 * value for value in values.values()]).sum()

    def extra_repr(self) -> str:
        """The weights."""
        return f"weights={self.weights}"


def _name(part: nn.Module) -> str:
    name = getattr(part, "name", None)
    return name if isinstance(name, str) else type(part).__name__
