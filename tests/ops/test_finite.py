from __future__ import annotations

import math

import pytest
import torch

from facezoo.ops import NonFiniteError, check_finite


def test_finite_tensors_pass():
    check_finite(torch.randn(3, 4), "x")
    check_finite(torch.tensor(1.0), "x")
    check_finite(torch.randn(2, 3, 4, 5), "x")
    check_finite(torch.full((2,), torch.finfo(torch.float16).max, dtype=torch.float16), "x")


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "NaN"), (math.inf, "infinity"), (-math.inf, "infinity")])
@pytest.mark.parametrize("shape", [(5,), (5, 4), (5, 2, 3)])
def test_the_first_bad_row_is_named(value, kind, shape):
    x = torch.zeros(shape)
    x[2].view(-1)[-1] = value
    x[4].view(-1)[0] = math.nan
    with pytest.raises(
        NonFiniteError, match=rf"^{kind} in the weights, row 2 \(2 of 5 rows are not finite\); slow down$"
    ):
        check_finite(x, "the weights", hint="slow down")


def test_numbers_have_no_rows():
    with pytest.raises(NonFiniteError, match=r"^NaN in t$"):
        check_finite(torch.tensor(math.nan), "t")


def test_a_compiled_graph_does_not_look():
    run = torch.compile(lambda x: (check_finite(x, "x"), x + 1)[1], backend="eager", fullgraph=True)
    assert torch.isnan(run(torch.tensor([math.nan]))).all()
