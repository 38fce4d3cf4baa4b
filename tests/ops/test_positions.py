"""Values of a grid on another grid."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

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


def cubic(values: np.ndarray, size: int) -> np.ndarray:
    """Bicubic along the first axis, term by term: cells have their centers at i + 1/2, and what lies outside repeats the border."""
    a, old = -0.75, len(values)
    result = np.zeros((size, *values.shape[1:]))
    for place in range(size):
        at = (place + 0.5) * old / size - 0.5
        for cell in range(math.floor(at) - 1, math.floor(at) + 3):
            d = abs(at - cell)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            result[place] += (near if d <= 1 else far) * values[min(max(cell, 0), old - 1)]
    return result


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 7)), ((6, 5), (4, 9)), ((2, 6), (6, 2)), ((7, 7), (8, 6))])
def test_against_the_formula(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = torch.randn(old[0] * old[1], 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = cubic(values.view(*old, 3).numpy(), new[0])
    expected = cubic(rows.swapaxes(0, 1), new[1]).swapaxes(0, 1).reshape(-1, 3)
    got = resize_grid(values, old, new, antialias=False)
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [((4, 4), (7, 7)), ((12, 12), (5, 6)), ((14, 14), (7, 10))])
def test_antialiased_against_pillow(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = torch.randn(old[0] * old[1], 2, generator=torch.Generator().manual_seed(0))
    got = resize_grid(values, old, new)
    for channel in range(2):
        image = Image.fromarray(values[:, channel].view(old).numpy())
        expected = np.asarray(image.resize(new[::-1], Image.Resampling.BICUBIC))
        np.testing.assert_allclose(got[:, channel].view(new).numpy(), expected, rtol=0, atol=1e-5)
    plain = resize_grid(values, old, new, antialias=False)
    assert (plain - got).abs().max() > 1e-2
