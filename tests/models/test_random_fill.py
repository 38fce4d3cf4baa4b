"""Numbers from all threads: right in distribution, decided by the seed alone, and no two pieces alike."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from facezoo.models.init import PIECE, Draw, fill_


def drawn(threads: int) -> list[torch.Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(3)
        tensors = [torch.empty(2, PIECE), torch.empty(7, 5, dtype=torch.float64), torch.empty(3), torch.empty(0, 4)]
        fill_([Draw(tensors[0], "normal", 0.1), *(Draw(t, "uniform", 2.0) for t in tensors[1:])])
    finally:
        torch.set_num_threads(before)
    return tensors


def test_the_number_of_threads_changes_nothing() -> None:
    for one, three in zip(drawn(1), drawn(3), strict=True):
        assert torch.equal(one, three)


def test_distributions() -> None:
    normal, uniform, *_ = drawn(2)
    assert stats.kstest(normal.flatten()[::7].numpy(), "norm", args=(0, 0.1)).pvalue > 1e-3
    torch.manual_seed(5)
    uniform = torch.empty(50_000)
    fill_([Draw(uniform, "uniform", 2.0)])
    assert stats.kstest(uniform.numpy(), "uniform", args=(-2, 4)).pvalue > 1e-3


def test_pieces_are_independent_and_calls_differ() -> None:
    first, second = drawn(2)[0]
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1]
    assert abs(float(correlation)) < 5 / math.sqrt(PIECE)
    a, b = torch.empty(100), torch.empty(100)
    fill_([Draw(a, "normal", 1.0)])
    fill_([Draw(b, "normal", 1.0)])
    assert not torch.equal(a, b)


@pytest.mark.parametrize("make", [lambda x: x.t(), lambda x: torch.nn.Parameter(x)])
def test_strided_tensors_and_parameters_are_filled(make) -> None:
    tensor = make(torch.full((40, 30), math.nan))
    fill_([Draw(tensor, "normal", 1.0)])
    assert bool(torch.isfinite(tensor).all())
    assert 0.9 < float(tensor.detach().std()) < 1.1


def test_meta_tensors_stay_meta_and_other_default_devices_do_not_matter() -> None:
    with torch.device("meta"):
        here = torch.full((3,), math.nan, device="cpu")
        fill_([Draw(torch.empty(3), "normal", 1.0), Draw(here, "normal", 1.0)])
    assert bool(torch.isfinite(here).all())
    with FakeTensorMode():
        fill_([Draw(torch.empty(3), "normal", 1.0)])
