"""Global response normalization, against its definition in float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facezoo.ops import global_response_norm


@given(shape=st.tuples(*(st.integers(1, 4) for _ in range(4))), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_equals_equation_3_of_the_paper(shape: tuple[int, int, int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    weight, bias = torch.randn(2, shape[3], dtype=torch.float64, generator=generator)
    got = global_response_norm(x, weight, bias)
    for n in range(shape[0]):
        energy = [float((x[n, :, :, c] ** 2).sum()) ** 0.5 for c in range(shape[3])]
        for c in range(shape[3]):
            share = energy[c] / (sum(energy) / len(energy) + 1e-6)
            expected = weight[c] * x[n, :, :, c] * share + bias[c] + x[n, :, :, c]
            torch.testing.assert_close(got[n, :, :, c], expected)


def test_an_empty_map_stays_finite_with_its_gradient() -> None:
    x = torch.zeros(1, 3, 3, 4, requires_grad=True)
    global_response_norm(x, torch.ones(4), torch.zeros(4)).sum().backward()
    assert x.grad is not None
    assert bool(torch.isfinite(x.grad).all())
