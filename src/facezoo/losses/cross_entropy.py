"""Cross-entropy on logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.losses._batch import check_number, checked_batch, finite_loss
from facezoo.losses.registry import register_loss


@register_loss("cross_entropy")
class CrossEntropyLoss(nn.Module):
    """Softmax cross-entropy on logits, with label smoothing (1512.00567).

    Args:
        label_smoothing: probability mass that is distributed evenly over all classes, in [0, 1).
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        check_number(label_smoothing=label_smoothing)
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is a share in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batch, in float32.

        Args:
            logits: ``(N, C)``, of any floating dtype; they are not embeddings.
            labels: int, in [0, C), ``(N,)``.
        """
        with torch.autocast(logits.device.type, enabled=False):
            classes = logits.shape[1] if logits.dim() == 2 else None
            logits, labels = checked_batch(logits, labels, what="logits", num_classes=classes)
            return finite_loss(F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing), "logits")

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"label_smoothing={self.label_smoothing}"
