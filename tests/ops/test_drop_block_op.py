"""facezoo.ops.drop_block and its module."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facezoo.layers import DropBlock2d
from facezoo.ops import drop_block


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    block=st.integers(1, 8),
    drop_prob=st.floats(0.01, 0.9),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_zeros_form_whole_blocks_inside_the_map_and_the_mean_is_kept(
    height: int, width: int, block: int, drop_prob: float, seed: int
) -> None:
    torch.manual_seed(seed)
    out = drop_block(torch.ones(2, 3, height, width), drop_prob, block)
    assert out.shape == (2, 3, height, width)
    dropped = out == 0
    if not bool(dropped.all()):
        assert float(out.mean()) == pytest.approx(1.0, rel=1e-4)
    block_h, block_w = min(block, height), min(block, width)
    for plane in dropped.flatten(0, 1):
        # every dropped cell lies in some fully dropped block_h × block_w window
        covered = torch.zeros_like(plane)
        for row in range(height - block_h + 1):
            for col in range(width - block_w + 1):
                window = plane[row : row + block_h, col : col + block_w]
                if bool(window.all()):
                    covered[row : row + block_h, col : col + block_w] = True
        assert torch.equal(covered, plane)


@pytest.mark.parametrize("size", [4, 5, 7, 14])
@pytest.mark.parametrize("block", [2, 3, 4, 7])
def test_realised_fraction_is_near_and_not_above_the_asked_one(size: int, block: int) -> None:
    torch.manual_seed(0)
    dropped = (drop_block(torch.ones(64, 64, size, size), 0.1, block) == 0).float().mean()
    assert 0.06 <= float(dropped) <= 0.105  # overlaps lower it, nothing raises it


def test_map_smaller_than_the_block_drops_whole_channels() -> None:
    torch.manual_seed(0)
    out = drop_block(torch.ones(32, 32, 4, 4), 0.25, 7)
    per_channel = (out == 0).flatten(2).float().mean(-1)
    assert set(per_channel.flatten().tolist()) == {0.0, 1.0}
    assert float(per_channel.mean()) == pytest.approx(0.25, abs=0.05)


def test_a_tensor_as_probability_gives_the_same_as_a_number() -> None:
    x = torch.randn(2, 4, 7, 7)
    torch.manual_seed(3)
    number = drop_block(x, 0.2, 3)
    torch.manual_seed(3)
    tensor = drop_block(x, torch.tensor(0.2), 3)
    torch.testing.assert_close(number, tensor)


def test_gradient_is_the_mask() -> None:
    x = torch.randn(2, 4, 7, 7, requires_grad=True)
    out = drop_block(x, 0.3, 3)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad == 0, out == 0)


def test_module_follows_its_schedule_and_is_the_identity_in_evaluation() -> None:
    layer = DropBlock2d(0.5, 3)
    x = torch.ones(8, 8, 9, 9)
    layer.set_progress(0.0)
    assert torch.equal(layer(x), x)
    layer.set_progress(1.0)
    assert bool((layer(x) == 0).any())
    assert layer.eval()(x) is x
    assert not layer.state_dict(), "the schedule is the trainer's, not the checkpoint's"
    with pytest.raises(ValueError, match="progress"):
        layer.set_progress(1.5)


def test_module_of_the_meta_device_has_its_probability_once_it_has_memory() -> None:
    with torch.device("meta"):
        layer = DropBlock2d(0.5, 3)
        layer.set_progress(0.5)
    junk = [torch.full((), float("nan")) for _ in range(100)]
    del junk
    assert layer.to_empty(device="cpu").current.item() == 0.25
    assert layer.to(torch.bfloat16).current.item() == 0.25


def test_half_precision_keeps_its_dtype() -> None:
    assert drop_block(torch.ones(2, 2, 7, 7, dtype=torch.bfloat16), 0.2, 3).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "drop_prob", "block", "message"),
    [((2, 3, 4), 0.1, 3, "N, C, H, W"), ((1, 1, 4, 4), 1.0, 3, "probability"), ((1, 1, 4, 4), 0.1, 0, "block_size")],
)
def test_bad_arguments_are_errors(shape: tuple[int, ...], drop_prob: float, block: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        drop_block(torch.ones(shape), drop_prob, block)
