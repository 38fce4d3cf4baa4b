from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from facezoo.data import ResumableSampler, SeededDataset, make_loader
from facezoo.data.sampling import mix_seeds


class Noise(Dataset[Any]):
    """Item i: i, and a draw from each of the generators that transforms use."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> torch.Tensor:
        draws = [float(torch.rand(())), random.random(), float(np.random.rand())]  # noqa: NPY002
        return torch.tensor([index, *draws], dtype=torch.float64)


@given(
    length=st.integers(1, 60),
    world_size=st.integers(1, 7),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    epoch=st.integers(0, 5),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_ranks_share_out_the_images_and_resume_anywhere(
    length: int, world_size: int, drop_last: bool, shuffle: bool, epoch: int, data: st.DataObject
) -> None:
    if drop_last and length < world_size:
        with pytest.raises(ValueError, match="drop_last leaves nothing"):
            ResumableSampler(length, world_size=world_size, drop_last=True)
        return
    samplers = [
        ResumableSampler(length, shuffle=shuffle, rank=rank, world_size=world_size, drop_last=drop_last)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    whole = [list(sampler) for sampler in samplers]
    per_rank = length // world_size if drop_last else -(-length // world_size)
    assert [len(part) for part in whole] == [len(sampler) for sampler in samplers] == [per_rank] * world_size
    together = [index for part in whole for index in part]
    counts = np.bincount(together, minlength=length)
    if drop_last:
        assert counts.max() == 1
    else:
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= 1
    start = data.draw(st.integers(0, per_rank))
    for sampler, part in zip(samplers, whole, strict=True):
        sampler.start = start
        assert list(sampler) == part[start:]
        assert len(sampler) == per_rank - start


def test_epochs_and_seeds_give_different_orders() -> None:
    orders = set()
    for seed in range(4):
        sampler = ResumableSampler(50, seed=seed)
        for epoch in range(4):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
    assert len(orders) == 16  # with seed + epoch there would be 7
    assert list(ResumableSampler(5, shuffle=False)) == [0, 1, 2, 3, 4]


def test_the_order_is_pinned() -> None:
    # A run that is resumed by a later version goes on in the same order.
    sampler = ResumableSampler(10, seed=3)
    sampler.set_epoch(2)
    assert list(sampler) == PINNED_ORDER
    assert mix_seeds(0) == PINNED_SEED


PINNED_ORDER = [8, 3, 4, 6, 2, 1, 5, 7, 9, 0]
PINNED_SEED = 3793791033


def test_state_goes_to_another_number_of_ranks() -> None:
    old = [ResumableSampler(100, seed=1, rank=rank, world_size=4) for rank in range(4)]
    for sampler in old:
        sampler.set_epoch(7)
        sampler.start = 6
    states = [json.loads(json.dumps(sampler.state_dict())) for sampler in old]
    assert states == [states[0]] * 4
    rest = {index for sampler in old for index in sampler}
    new = [ResumableSampler(100, seed=1, rank=rank, world_size=2) for rank in range(2)]
    for sampler in new:
        sampler.load_state_dict(states[0])
        sampler.set_epoch(7)  # the trainer sets it again: no step back to the beginning
        assert sampler.start == 12
    assert {index for sampler in new for index in sampler} == rest
    new[0].set_epoch(8)
    assert new[0].start == 0


@pytest.mark.parametrize("changed", [{"length": 99}, {"seed": 2}, {"shuffle": False}])
def test_state_of_another_run_is_refused(changed: dict[str, Any]) -> None:
    state = ResumableSampler(100, seed=1).state_dict()
    other = ResumableSampler(**{"length": 100, "seed": 1, **changed})
    with pytest.raises(ValueError, match=f"saved sampler has {next(iter(changed))}="):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"length": 5, "rank": 1}, {"length": 5, "rank": -1}, {"length": 5, "world_size": 0}]
)
def test_sampler_checks_its_arguments(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ResumableSampler(**options)  # type: ignore[arg-type]


def items(loader: DataLoader[Any]) -> list[list[float]]:
    rows: list[list[float]] = torch.cat(list(loader)).tolist()
    return rows


def test_items_depend_on_seed_epoch_and_index_only() -> None:
    data = SeededDataset(Noise(), seed=4)
    first = [data[i].tolist() for i in range(24)]
    assert [data[i].tolist() for i in reversed(range(24))] == first[::-1]
    assert len({row[1] for row in first}) == len({row[2] for row in first}) == len({row[3] for row in first}) == 24
    data.set_epoch(1)
    assert data.epoch == 1
    later = [data[i].tolist() for i in range(24)]
    assert not {row[1] for row in later} & {row[1] for row in first}
    assert not {row[2] for row in later} & {row[2] for row in first}
    assert not {row[3] for row in later} & {row[3] for row in first}
    assert SeededDataset(Noise(), seed=5)[0].tolist() != first[0]


def test_seeding_leaves_the_generators_of_this_process_alone() -> None:
    def draws() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())  # noqa: NPY002

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = draws()
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    _ = SeededDataset(Noise(), seed=0)[3]
    assert draws() == expected


def test_workers_see_the_same_items_and_the_epoch_reaches_persistent_ones() -> None:
    data = SeededDataset(Noise(), seed=0)
    sampler = ResumableSampler(24, seed=0)
    alone = make_loader(data, 5, sampler=sampler)
    workers = make_loader(data, 5, sampler=sampler, num_workers=2, persistent_workers=True)
    seen = []
    for epoch in range(2):
        data.set_epoch(epoch)
        sampler.set_epoch(epoch)
        expected = items(alone)
        assert items(workers) == expected
        seen.append(expected)
    assert sorted(seen[0]) != sorted(seen[1])
    # Resume in the middle of the epoch, with other workers: the rest is the same.
    sampler.start = 10
    assert items(workers) == seen[1][10:]
    assert items(make_loader(data, 5, sampler=sampler)) == seen[1][10:]


def test_make_loader() -> None:
    loader = make_loader(Noise(), 5)
    assert [int(row[0]) for row in items(loader)] == list(range(24))
    assert len(loader) == 5
    assert len(make_loader(Noise(), 5, drop_last=True)) == 4
    with pytest.raises(ValueError, match="drop_last leaves no batch: 24 images"):
        make_loader(Noise(), 25, drop_last=True)
    with pytest.raises(ValueError, match="drop_last leaves no batch: 8 images"):
        make_loader(Noise(), 9, drop_last=True, sampler=ResumableSampler(24, world_size=3))
    with pytest.raises(ValueError, match="batch_size >= 1"):
        make_loader(Noise(), 0)


def test_a_resume_at_the_end_of_an_epoch_is_an_empty_loader() -> None:
    sampler = ResumableSampler(24)
    sampler.start = 24
    assert list(make_loader(Noise(), 5, sampler=sampler, drop_last=True)) == []


def test_mix_seeds_spreads() -> None:
    seeds = [mix_seeds(seed, epoch, index) for seed in range(4) for epoch in range(4) for index in range(256)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    bits = np.unpackbits(np.array(seeds, dtype=">u4").view(np.uint8).reshape(-1, 4), axis=1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.04
    assert mix_seeds(1, 2) != mix_seeds(2, 1)
    assert mix_seeds(-1) != mix_seeds(1)


class OneImage(Dataset[Any]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        raise RuntimeError("broken")


def test_generators_are_put_back_after_an_error() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        SeededDataset(OneImage(), 0)[0]
    assert torch.equal(torch.get_rng_state(), before)
