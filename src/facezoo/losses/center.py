"""Center loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.losses._batch import check_not_negative, check_sizes, checked_batch, checked_lengths, finite_loss
from facezoo.losses.registry import register_loss


@register_loss("center")
class CenterLoss(nn.Module):
    """``½·mean ‖x_i - c_{y_i}‖²``: pulls embeddings to the center of their class (Wen et al., ECCV 2016).

    Combine it with a loss that separates the classes; the paper uses a weight of 0.003 to 0.01 (see :class:`JointLoss`).

    The centers are buffers, not parameters: each training step moves them by the paper's rule, without the optimizer:
    ``c_j ← c_j - α · Σ_{y_i=j} (c_j - x_i) / (1 + n_j)`` with ``n_j`` samples of class j in the batch. They start at zero.
    Gradient reaches the embeddings only. The paper sums over the batch; here it is the mean, whose weight does not depend on N.

    Under data-parallel training the ranks agree on the centers only if each sees the whole batch, inside :class:`GatheredLoss` (the
    trainer gathers by itself). Otherwise each moves its centers by its own samples, and DDP's ``broadcast_buffers`` keeps rank 0's.

    Args:
        num_classes: number of identities C.
        embedding_dim: width D of the embeddings.
        alpha: rate α of the centers, in [0, 1].

    Attributes:
        centers: buffer ``(C, D)``.
    """

    centers: Tensor

    def __init__(self, *, num_classes: int, embedding_dim: int, alpha: float = 0.5) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, embedding_dim=embedding_dim)
        check_not_negative(alpha=alpha)
        if alpha > 1.0:
            raise ValueError(f"alpha is a rate in [0, 1], got {alpha}")
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.alpha = alpha
        self.register_buffer("centers", torch.zeros(num_classes, embedding_dim))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss over the batch with the current centers; in training mode the centers are updated afterwards.

        Args:
            embeddings: ``(N, D)``, not normalized.
            labels: int, in [0, C), ``(N,)``.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, labels = checked_batch(
                embeddings, labels, width=self.embedding_dim, num_classes=self.num_classes
            )
            checked_lengths(embeddings, kept_as=self.centers.dtype)
            difference = embeddings - self.centers[labels].to(embeddings.dtype)
            loss = finite_loss(0.5 * difference.square().sum(1).mean())
            if self.training:
                self._move_centers(difference.detach(), labels)
            return loss

    @torch.no_grad()
    def _move_centers(self, difference: Tensor, labels: Tensor) -> None:
        counts = torch.bincount(labels, minlength=self.num_classes)
        step = difference * (self.alpha / (1.0 + counts[labels]))[:, None]
        self.centers.index_add_(0, labels, step.to(self.centers.dtype))

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"num_classes={self.num_classes}, embedding_dim={self.embedding_dim}, alpha={self.alpha}"
