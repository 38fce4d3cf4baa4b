from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from facezoo.ops import batch_norm_affine, bias_map, fold_after, fold_before


@pytest.mark.parametrize("affine", [True, False])
def test_the_affine_map_of_a_batch_norm(affine: bool) -> None:
    mean, var, x = torch.randn(6), torch.rand(6) + 0.1, torch.randn(5, 6)
    weight, bias = (torch.randn(6), torch.randn(6)) if affine else (None, None)
    scale, shift = batch_norm_affine(mean, var, weight, bias, 1e-3)
    expected = F.batch_norm(
        x.double(), mean.double(), var.double(), *(w if w is None else w.double() for w in (weight, bias)), eps=1e-3
    )
    torch.testing.assert_close(x * scale + shift, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_bias", [True, False])
def test_behind_a_linear_layer(with_bias: bool) -> None:
    weight, x, scale, shift = (torch.randn(*shape).double() for shape in ((4, 3), (5, 3), (4,), (4,)))
    bias = torch.randn(4).double() if with_bias else None
    torch.testing.assert_close(
        F.linear(x, *fold_after(weight, bias, scale, shift)), F.linear(x, weight, bias) * scale + shift
    )


def test_in_front_of_a_linear_layer() -> None:
    weight, x, scale, shift = (torch.randn(*shape).double() for shape in ((4, 3), (5, 3), (3,), (3,)))
    folded, taps = fold_before(weight, scale, shift)
    torch.testing.assert_close(F.linear(x, folded, taps.sum(dim=1)), F.linear(x * scale + shift, weight))


@settings(max_examples=60, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 6]),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(7, 11), st.integers(7, 11)),
    seed=st.integers(0, 1000),
)
def test_in_front_of_any_convolution(groups, kernel, stride, padding, dilation, size, seed) -> None:
    """Against the plain sequence; a scale of zero is exact."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(12, 6 // groups, *kernel, generator=generator, dtype=torch.float64)
    x = torch.randn(2, 6, *size, generator=generator, dtype=torch.float64)
    scale, shift = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    scale[seed % 6] = 0
    expected = F.conv2d(
        x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1), weight, None, stride, padding, dilation, groups
    )
    folded, taps = fold_before(weight, scale, shift, groups)
    cells = bias_map(taps, size, stride=stride, padding=padding, dilation=dilation)
    result = F.conv2d(x, folded, None, stride, padding, dilation, groups) + cells
    torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


def test_a_3x3_kernel_has_nine_biases_per_channel() -> None:
    taps = torch.tensor([[[1.0, 2, 4], [8, 16, 32], [64, 128, 256]]])
    cells = bias_map(taps, (7, 9), stride=(1, 1), padding=(1, 1), dilation=(1, 1))[0, 0]
    rows = {"top": [1, 2], "middle": [0, 1, 2], "bottom": [0, 1]}
    expected = {sum(float(taps[0, i, j]) for i, j in itertools.product(rows[r], rows[c])) for r in rows for c in rows}
    assert len(expected) == 9
    assert set(cells.flatten().tolist()) == expected
    assert float(cells[0, 0]) == 16 + 32 + 128 + 256
    assert (cells[1:-1, 1:-1] == 511).all()
