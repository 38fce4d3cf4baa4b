"""facezoo.ops.drop_path and its module."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import stochastic_depth

from facezoo.layers import StochasticDepth, linear_drop_path_rates
from facezoo.ops import drop_path


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("drop_prob", [0.1, 0.5, 0.9])
def test_equals_torchvision_under_the_same_draws(mode: str, drop_prob: float) -> None:
    x = torch.randn(64, 3, 2, 2)
    torch.manual_seed(1)
    ours = drop_path(x, drop_prob, mode=mode)
    torch.manual_seed(1)
    theirs = stochastic_depth(x, drop_prob, mode)
    torch.testing.assert_close(ours, theirs)


@given(drop_prob=st.floats(0.0, 0.95), rows=st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_row_mode_keeps_or_drops_whole_rows(drop_prob: float, rows: int) -> None:
    out = drop_path(torch.ones(rows, 4, 3), drop_prob)
    per_row = out.flatten(1)
    assert bool((per_row == per_row[:, :1]).all())
    scale = 1.0 / (1.0 - drop_prob)
    assert all(value == 0.0 or value == pytest.approx(scale, rel=1e-5) for value in per_row[:, 0].tolist())


def test_batch_mode_draws_once() -> None:
    torch.manual_seed(0)
    sums = {round(float(drop_path(torch.ones(16, 2), 0.5, mode="batch").sum()), 3) for _ in range(40)}
    assert sums == {0.0, 64.0}


def test_expectation_is_kept() -> None:
    torch.manual_seed(0)
    mean = drop_path(torch.ones(200_000, 1), 0.3).mean()
    assert float(mean) == pytest.approx(1.0, abs=0.01)


def test_evaluation_and_zero_probability_return_the_input_itself() -> None:
    x = torch.randn(2, 3)
    assert drop_path(x, 0.5, training=False) is x
    assert drop_path(x, 0.0) is x
    assert StochasticDepth(0.5).eval()(x) is x


def test_certain_drop_has_zero_gradient_and_no_nan() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    out = drop_path(x, 1.0)
    out.sum().backward()
    assert bool((out == 0).all())
    assert x.grad is not None
    assert bool((x.grad == 0).all())


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_probability_outside_the_unit_interval_is_an_error(value: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        drop_path(torch.ones(1), value)
    with pytest.raises(ValueError, match="probability"):
        StochasticDepth(value)


def test_unknown_mode_is_an_error() -> None:
    with pytest.raises(ValueError, match="'row'"):
        drop_path(torch.ones(1), 0.5, mode="column")  # type: ignore[arg-type]


def test_rates_grow_linearly_from_zero() -> None:
    assert linear_drop_path_rates(0.3, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert linear_drop_path_rates(0.3, 1) == [0.0]
