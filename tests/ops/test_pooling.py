"""Global pooling against its definition."""

from __future__ import annotations

import pytest
import torch

from facezoo.layers import GeMPool, create_pool
from facezoo.ops import generalized_mean_pool


def test_definitions() -> None:
    x = torch.randn(2, 3, 4, 5)
    mean, largest = x.flatten(2).mean(-1), x.flatten(2).max(-1).values
    for name, expected in (("avg", mean), ("max", largest), ("avgmax", (mean + largest) / 2)):
        pool, features = create_pool(name, 3, (4, 5))
        torch.testing.assert_close(pool(x), expected)
        assert features == 3


def test_generalized_mean_lies_between_mean_and_maximum() -> None:
    x = torch.rand(2, 3, 7, 7) + 0.1
    torch.testing.assert_close(generalized_mean_pool(x, 1.0), x.mean((2, 3)))
    torch.testing.assert_close(
        generalized_mean_pool(x.double(), 200.0), x.double().amax((2, 3)).double(), rtol=0.03, atol=0
    )
    assert bool((generalized_mean_pool(x, 3.0) > x.mean((2, 3))).all())


def test_generalized_mean_survives_half_precision() -> None:
    out = generalized_mean_pool(torch.full((1, 1, 2, 2), 3000.0, dtype=torch.float16), 3.0)
    assert float(out) == pytest.approx(3000.0, rel=1e-2)


def test_gem_learns_its_exponent() -> None:
    pool = GeMPool()
    pool(torch.rand(2, 3, 4, 4)).sum().backward()
    assert pool.p.grad is not None
    assert float(pool.p.grad.abs()) > 0


@pytest.mark.parametrize(
    ("name", "width"), [("avg", 6), ("max", 6), ("avgmax", 6), ("gem", 6), ("gdc", 6), ("flatten", 6 * 4 * 5)]
)
def test_every_pool_says_its_width(name: str, width: int) -> None:
    pool, features = create_pool(name, 6, (4, 5))
    assert features == width
    assert pool(torch.rand(2, 6, 4, 5)).shape == (2, width)


def test_unknown_pool_suggests() -> None:
    with pytest.raises(ValueError, match="did you mean 'avgmax'"):
        create_pool("avgmx", 4, (7, 7))
