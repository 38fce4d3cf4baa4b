"""Everything that is trained, as one module: backbone, margin head and additional losses."""

from __future__ import annotations

from torch import Tensor, nn

from facezoo.losses import JointLoss
from facezoo.ops.checks import full_precision


class Objective(nn.Module):
    """``loss = head(model(images), labels) + joint(model(images), labels) + distill(model(images), labels, teacher)``.

    It is one module so that distributed training averages the gradients of the backbone *and* of the class centers, and one
    check of the optimizer covers both. The keys of its state dict (``model.…``, ``head.…``, ``joint.…``, ``distill.…``) are the
    checkpoint's.

    Args:
        model: (N, C, H, W) images -> (N, D) embeddings.
        head: margin head: (N, D), (N,) int64 -> scalar.
        joint: the weighted additional losses; None if there are none.
        distill: the distillation loss: embeddings (N, D), labels (N,), teacher (N, T), head -> scalar; None without a teacher.
    """

    def __init__(
        self, model: nn.Module, head: nn.Module, joint: JointLoss | None = None, distill: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.joint = joint
        self.distill = distill

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        other_labels: Tensor | None = None,
        lam: float = 1.0,
        teacher: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of one batch.

        Args:
            images: (N, C, H, W).
            labels: (N,) int64.
            other_labels: (N,) int64, the second label of a mixed batch (mixup, CutMix).
            lam: share of ``labels`` in a mixed batch, fraction of 1.
            teacher: (N, T) embeddings of a teacher, for ``distill``.

        Returns:
            The scalar loss (float32; float64 stays) and the (N, D) embeddings, detached.
        """
        embeddings = self.model(images)
        loss = self._loss(embeddings, labels)
        if other_labels is not None and lam < 1.0:
            loss = lam * loss + (1.0 - lam) * self._loss(embeddings, other_labels)
        if self.distill is not None:
            loss = loss + self.distill(embeddings, labels, teacher, self.head)
        return loss, embeddings.detach()

    def _loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = full_precision(self.head(embeddings, labels))
        return loss if self.joint is None else loss + self.joint(embeddings, labels)
