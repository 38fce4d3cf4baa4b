"""Linear layers of low rank."""

from __future__ import annotations

from torch import Tensor, nn


class LowRankLinear(nn.Module):
    """Two linear layers with a narrow layer between them. EdgeFace, 2307.01838, section 3.

    Args:
        in_features: input width.
        out_features: output width.
        rank_ratio: width of the narrow layer divided by the smaller width, in (0, 1]; the narrow layer is at least 2 wide.
        bias: whether the second layer has a bias; the first has none.
    """

    def __init__(self, in_features: int, out_features: int, rank_ratio: float, bias: bool = True) -> None:
        super().__init__()
        if not 0.0 < rank_ratio <= 1.0:
            raise ValueError(f"rank_ratio is a fraction in (0, 1], got {rank_ratio}")
        rank = max(2, int(min(in_features, out_features) * rank_ratio))
        self.reduce = nn.Linear(in_features, rank, bias=False)
        self.expand = nn.Linear(rank, out_features, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in_features) -> (..., out_features)``."""
        return self.expand(self.reduce(x))


def create_linear(
    in_features: int, out_features: int, *, bias: bool = True, rank_ratio: float | None = None
) -> nn.Module:
    """``nn.Linear``, or a :class:`LowRankLinear` if ``rank_ratio`` is given."""
    if rank_ratio is None:
        return nn.Linear(in_features, out_features, bias=bias)
    return LowRankLinear(in_features, out_features, rank_ratio, bias)
