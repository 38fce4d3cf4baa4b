"""A loss on embeddings: how evenly they lie on the sphere, 2005.10242, equation 4."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.losses import register_loss


@register_loss("uniformity")
class Uniformity(nn.Module):
    """Logarithm of the mean Gaussian potential between different embeddings (2005.10242).

    Args:
        sharpness: t of the paper, the inverse squared width of the potential.
    """

    def __init__(self, *, sharpness: float = 2.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """``(N, D)`` embeddings to a scalar of at most 0; the labels are not looked at."""
        unit = F.normalize(embeddings)
        first, second = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
        distances = (unit[first] - unit[second]).square().sum(dim=1)
        return distances.mul(-self.sharpness).exp().mean().log()
