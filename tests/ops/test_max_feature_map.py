"""Max-feature-map, 1511.02683."""

from __future__ import annotations

import pytest
import torch

from facezoo.layers import MaxFeatureMap
from facezoo.ops import max_feature_map


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 3, 4)])
def test_the_larger_of_channel_c_and_c_plus_half(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    expected = torch.stack([torch.maximum(x[:, c], x[:, c + 3]) for c in range(3)], dim=1)
    assert torch.equal(max_feature_map(x), expected)
    assert torch.equal(MaxFeatureMap()(x), expected)


def test_gradient_goes_to_the_winner() -> None:
    x = torch.tensor([[1.0, 5.0, 2.0, 3.0]], requires_grad=True)
    max_feature_map(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


def test_an_odd_number_of_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match="even number of them, got 5"):
        max_feature_map(torch.zeros(1, 5))
