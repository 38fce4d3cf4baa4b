"""Regularizers of the length of the embeddings. They do not use the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.losses._batch import check_not_negative, check_positive, checked_batch, checked_lengths, finite_loss
from facezoo.losses.registry import register_loss


@register_loss("ring")
class RingLoss(nn.Module):
    """``½·mean (‖x_i‖ - R)²`` with a learned radius R (1803.00130): pulls all embeddings to one length, in addition to a
    softmax loss.

    The paper uses a weight of 0.01 beside softmax (see :class:`JointLoss`). It has no effect beside losses that normalize the
    embeddings.

    R is a parameter, updated by the optimizer. It starts at ``radius`` or, as in the authors' code, at the mean length of the
    first training batch; until then it is -1. In data-parallel training the first batch must be that of all ranks (use
    :class:`GatheredLoss`; the trainer gathers by itself), otherwise the ranks start with different radii.

    Args:
        radius: initial R, in the unit of the embeddings; None for the mean length of the first batch.

    Attributes:
        radius: parameter, 0-dimensional.
    """

    def __init__(self, *, radius: float | None = None) -> None:
        super().__init__()
        if radius is not None:
            check_positive(radius=radius)
        self.radius = nn.Parameter(torch.tensor(-1.0 if radius is None else float(radius)))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Half the mean squared difference from the radius.

        Args:
            embeddings: ``(N, D)``, not normalized.
            labels: int, ``(N,)``; checked, not used.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, _ = checked_batch(embeddings, labels)
            lengths = checked_lengths(embeddings, kept_as=self.radius.dtype)
            if self.training:
                with torch.no_grad():  # the value is not read, which would synchronize
                    mean = lengths.detach().mean().to(self.radius.dtype)
                    self.radius.copy_(torch.where(self.radius < 0, mean, self.radius))
            return finite_loss(0.5 * (lengths - self.radius.to(lengths.dtype)).square().mean())


@register_loss("norm")
class NormPenalty(nn.Module):
    """``½·mean (‖x_i‖ - r)²`` with a fixed r: for r = 0 the plain L2 penalty of the embeddings.

    For losses on dot products (N-pair) it limits the lengths; with r > 0 it is ring loss with a fixed radius.

    Args:
        target: r, in the unit of the embeddings.
    """

    def __init__(self, *, target: float = 0.0) -> None:
        super().__init__()
        check_not_negative(target=target)
        self.target = target

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Half the mean squared difference from the target.

        Args:
            embeddings: ``(N, D)``, not normalized.
            labels: int, ``(N,)``; checked, not used.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, _ = checked_batch(embeddings, labels)
            return finite_loss(0.5 * (checked_lengths(embeddings) - self.target).square().mean())

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"target={self.target}"
