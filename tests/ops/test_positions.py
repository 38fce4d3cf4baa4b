"""Values of a grid on another grid."""

from __future__ import annotations

import pytest
import torch

from facezoo.ops import resize_grid


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 7)), ((12, 12), (5, 6)), ((2, 6), (6, 2)), ((3, 1), (1, 3))])
def test_a_constant_stays_and_rows_stay_rows(old: tuple[int, int], new: tuple[int, int]) -> None:
    row = torch.arange(old[0], dtype=torch.float64).repeat_interleave(old[1])
    values = torch.stack((torch.full_like(row, 3.0), row), dim=1)
    got = resize_grid(values, old, new)
    assert got.shape == (new[0] * new[1], 2)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got[:, 0], torch.full_like(got[:, 0], 3.0))
    rows = got[:, 1].view(new)
    torch.testing.assert_close(rows, rows[:, :1].expand(new))  # what does not depend on the column does not afterwards
    assert bool((rows[1:] > rows[:-1]).all())


def test_equal_grids_change_nothing_and_halves_are_not_rounded() -> None:
    values = torch.randn(6, 3).half()
    assert resize_grid(values, (2, 3), (2, 3)) is values
    got = resize_grid(values, (2, 3), (4, 3))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, resize_grid(values.float(), (2, 3), (4, 3)), rtol=0, atol=0)


@pytest.mark.parametrize("values", [torch.zeros(5, 3), torch.zeros(6), torch.zeros(1, 6, 3)])
def test_values_of_another_grid(values: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"grid of 2×3 cells needs values \(6, C\)"):
        resize_grid(values, (2, 3), (3, 3))
