"""Muon's orthogonal update."""

from __future__ import annotations

import math

import pytest
import torch

from facezoo.training.muon import Muon, _iterate, orthogonal


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


def test_dead_filters_leave_no_denormal_numbers() -> None:
    """Their momentum decays for ever; a CPU multiplies numbers below 1.2e-38 many times slower."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 6, 3, 3))
    optimizer = Muon([weight], lr=0.01)
    alive = torch.ones_like(weight)
    for update in range(2500):
        if update == 5:
            alive[3] = 0.0  # from here on this filter has no gradient
        weight.grad = torch.randn_like(weight) * alive
        if update < 10 or update % 250 == 0:
            optimizer.step()
        else:
            optimizer.state[weight]["momentum_buffer"].mul_(0.95).add_(weight.grad, alpha=0.05)
    optimizer.step()
    buffer = optimizer.state[weight]["momentum_buffer"]
    assert not buffer[3].any()
    assert buffer[:3].all()


def test_vectors_may_have_a_learning_rate_of_their_own() -> None:
    torch.manual_seed(0)
    ends = {}
    for name, options, lr in (("scaled", {"vector_lr_scale": 0.5}, 0.02), ("lower", {}, 0.01), ("plain", {}, 0.02)):
        torch.manual_seed(1)
        matrix, vector, beside = (torch.nn.Parameter(torch.ones(shape)) for shape in ((3, 4), (5,), (2, 2)))
        optimizer = Muon([{"params": [matrix, vector]}, {"params": [beside], "use_muon": False}], lr=lr, **options)
        for parameter in (matrix, vector, beside):
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        ends[name] = (matrix.detach(), vector.detach(), beside.detach())
    assert torch.equal(ends["scaled"][1], ends["lower"][1])
    assert torch.equal(ends["scaled"][0], ends["plain"][0])
    assert torch.equal(ends["scaled"][2], ends["plain"][2])
    with pytest.raises(ValueError, match="vector_lr_scale is above 0"):
        Muon([torch.nn.Parameter(torch.ones(2))], vector_lr_scale=0.0)


def test_tiny_entries_do_not_change_the_update() -> None:
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(0))
    tiny, dead = matrix.clone(), matrix.clone()
    tiny[2] *= 1e-22
    dead[2] = 0.0
    assert torch.equal(orthogonal(tiny), orthogonal(dead))
    small = matrix.clone()
    small[2] *= 1e-6
    assert orthogonal(small)[2].abs().max() > 1e-4
    assert not orthogonal(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("values", [(1.0, 1.0), (1.0, 1e-3), (1.0, 1e-6)])
@pytest.mark.parametrize("shape", [(6, 54), (54, 6), (8, 8)])
def test_the_shared_factor_is_the_iteration(shape: tuple[int, int], values: tuple[float, float]) -> None:
    """Against the plain iteration in float64, with singular values far apart."""
    generator = torch.Generator().manual_seed(0)
    left, middle, right = torch.linalg.svd(
        torch.randn(shape, generator=generator, dtype=torch.float64), full_matrices=False
    )
    high, low = values
    matrix = left @ torch.diag(torch.logspace(math.log10(high), math.log10(low), len(middle)).double()) @ right
    expected = matrix / matrix.norm()
    expected = expected if shape[0] <= shape[1] else expected.T
    for _ in range(5):
        gram = expected @ expected.T
        expected = 3.4445 * expected - 4.7750 * gram @ expected + 2.0315 * gram @ gram @ expected
    expected = expected if shape[0] <= shape[1] else expected.T
    torch.testing.assert_close(orthogonal(matrix.float()).double(), expected, rtol=0, atol=1e-3)
    on_a_gpu = _iterate((matrix if shape[0] <= shape[1] else matrix.T) / matrix.norm(), 5)
    torch.testing.assert_close(on_a_gpu if shape[0] <= shape[1] else on_a_gpu.T, expected, rtol=0, atol=1e-9)
