"""Muon's orthogonal update."""

from __future__ import annotations

import pytest
import torch

from facezoo.training.muon import orthogonal


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (5, 5)])
def test_singular_values_go_to_one_and_directions_stay(shape: tuple[int, int]) -> None:
    """Tall matrices too, which are computed on their side."""
    left, values, right = torch.linalg.svd(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False
    )
    matrix = left @ torch.diag(values.clamp_min(0.5)) @ right
    result = orthogonal(matrix)
    assert result.shape == shape
    inner = left.T @ result @ right.T  # diagonal, near one
    torch.testing.assert_close(inner.diagonal(), torch.ones(len(inner)), rtol=0, atol=0.4)
    torch.testing.assert_close(inner - torch.diag(inner.diagonal()), torch.zeros_like(inner), rtol=0, atol=1e-3)
