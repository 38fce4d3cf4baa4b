"""Everything that is trained, as one module: the backbone, the margin head and the metric losses beside it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Objective(nn.Module):
    """``loss = head(model(images), labels) + Σ weight · criterion(model(images), labels)``.

    One module, so that distributed training averages the gradients of the backbone *and* of the class centres, one optimizer
    check covers both, and the keys of its state dict (``model.…``, ``head.…``, ``joint.…``) are those of the checkpoint.

    Args:
        model: (N, C, H, W) images -> (N, D) embeddings.
        head: margin head: (N, D), (N,) int64 -> scalar.
        joint: metric losses by name, each (N, D), (N,) -> scalar.
        weights: weight of each of them.
    """

    def __init__(
        self,
        model: nn.Module,
        head: nn.Module,
        joint: Mapping[str, nn.Module] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.joint = nn.ModuleDict(dict(joint or {}))
        self.weights = dict(weights or {})
        if set(self.joint) != set(self.weights):
            raise ValueError(
                f"joint losses {sorted(self.joint)} and weights {sorted(self.weights)} must have the same names"
            )

    def forward(
        self, images: Tensor, labels: Tensor, other_labels: Tensor | None = None, lam: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """The loss of one batch.

        Args:
            images: (N, C, H, W).
            labels: (N,) int64.
            other_labels: (N,) int64, the second label of a mixed batch (mixup, CutMix).
            lam: share of ``labels`` in a mixed batch, fraction of 1.

        Returns:
            The scalar loss (float32) and the (N, D) embeddings, detached.
        """
        embeddings = self.model(images)
        loss = self._loss(embeddings, labels)
        if other_labels is not None and lam < 1.0:
            loss = lam * loss + (1.0 - lam) * self._loss(embeddings, other_labels)
        return loss, embeddings.detach()

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.head(embeddings, labels).float()
        # Metric losses square distances: float16 would overflow, bfloat16 would round near pairs together.
        with torch.autocast(embeddings.device.type, enabled=False):
            for name, criterion in self.joint.items():
                loss = loss + self.weights[name] * criterion(embeddings.float(), labels)
        return loss
