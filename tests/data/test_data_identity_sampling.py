"""Batches of P identities with K images: what is in them, over ranks, epochs and resumes."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facezoo.data import PKSampler, make_loader
from facezoo.data.identity_sampling import _most_batches


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    """Labels in any order, of identities with very different numbers of images, and numbers that fit them."""
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=12))
    labels = np.repeat(np.arange(len(counts)) * 3 - 5, counts)
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(labels)
    k = draw(st.integers(1, 6))
    short = draw(st.sampled_from(["repeat", "skip"]))
    usable = sum(count >= k for count in counts) if short == "skip" else len(counts)
    p = draw(st.integers(1, max(usable, 1)))
    return {"labels": labels, "identities": p, "images_per_identity": k, "short": short, "usable": usable}


def most_batches_by_trying(groups: list[int], p: int) -> int:
    """Always the p identities with the most groups left: the greedy rule is optimal."""
    groups, batches = sorted(groups, reverse=True), 0
    while len(groups) >= p and groups[p - 1] > 0:
        groups = sorted([group - 1 for group in groups[:p]] + groups[p:], reverse=True)
        batches += 1
    return batches


@given(case=cases(), seed=st.integers(0, 5), epoch=st.integers(0, 5))
@settings(max_examples=120, deadline=None)
def test_what_is_in_a_batch(case: dict[str, Any], seed: int, epoch: int) -> None:
    usable, labels = case.pop("usable"), case["labels"]
    p, k = case["identities"], case["images_per_identity"]
    if usable < p:
        with pytest.raises(ValueError, match=rf"needs {p} identities.*there are {usable} of"):
            PKSampler(**case)
        return
    sampler = PKSampler(**case, seed=seed)
    sampler.set_epoch(epoch)
    batches = sampler.epoch_batches()
    assert batches.shape == (sampler.batches, p, k)
    assert sampler.num_samples == len(sampler) == batches.size
    assert list(sampler) == batches.reshape(-1).tolist()
    of_image, counts = labels[batches], Counter(labels.tolist())
    assert (of_image == of_image[:, :, :1]).all(), "a group has one identity"
    assert all(len(set(batch)) == p for batch in of_image[:, :, 0].tolist()), "a batch has P different ones"
    for identity, count in counts.items():
        seen = Counter(batches[of_image == identity].tolist())
        if count >= k:
            assert set(seen.values()) <= {1}, "no image comes up twice"
        elif case["short"] == "skip":
            assert not seen
        elif seen:
            assert len(seen) == min(count, k)
            assert max(seen.values()) - min(seen.values()) <= 1
            assert sum(seen.values()) == k
    groups = [max(count // k, case["short"] == "repeat") for count in counts.values()]
    assert sampler.batches == most_batches_by_trying(groups, p)


@given(case=cases(), world_size=st.integers(1, 4), data=st.data())
@settings(max_examples=60, deadline=None)
def test_ranks_share_out_the_batches_and_resume_anywhere(
    case: dict[str, Any], world_size: int, data: st.DataObject
) -> None:
    usable, k = case.pop("usable"), case["images_per_identity"]
    case["identities"] = p = max(case["identities"] // world_size, 1) * world_size
    if usable < p:
        return
    alone = PKSampler(**case).epoch_batches()
    ranks = [PKSampler(**case, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [np.array(list(sampler)).reshape(len(alone), -1, k) for sampler in ranks]
    for batch, parts in zip(alone, zip(*shares, strict=True), strict=True):
        identities = [set(case["labels"][part[:, 0]].tolist()) for part in parts]
        assert sum(map(len, identities)) == len(set.union(*identities)) == p
        together = {tuple(group) for part in parts for group in part.tolist()}
        assert together == {tuple(group) for group in batch.tolist()}
    start = data.draw(st.integers(0, ranks[0].num_samples))
    for sampler, share in zip(ranks, shares, strict=True):
        sampler.start = start
        assert list(sampler) == share.reshape(-1).tolist()[start:]
        assert len(sampler) == sampler.num_samples - start


LABELS = np.arange(120) % 12


def test_epochs_and_seeds_give_different_orders_and_use_other_images() -> None:
    orders = set()
    for seed in range(3):
        sampler = PKSampler(LABELS, identities=4, images_per_identity=4, seed=seed)
        used = set()
        for epoch in range(6):
            sampler.set_epoch(epoch)
            orders.add(tuple(sampler))
            used |= set(sampler)
        assert len(sampler) == 96  # 2 of 10 images sit out
        assert used == set(range(120)), "others in each epoch"
    assert len(orders) == 18


def test_an_identity_is_spread_over_the_epoch_and_meets_different_ones() -> None:
    sampler = PKSampler(np.arange(4000) % 100, identities=10, images_per_identity=4)
    of_batch = (sampler.epoch_batches()[:, :, 0] % 100).tolist()
    assert len(of_batch) == 100
    first_half = Counter(identity for batch in of_batch[:50] for identity in batch)
    assert min(first_half.values()) >= 4
    assert max(first_half.values()) <= 6  # of 10
    met = {identity: set() for identity in range(100)}
    for batch in of_batch:
        for identity in batch:
            met[identity] |= set(batch) - {identity}
    assert np.mean([len(others) for others in met.values()]) > 50  # 60 by chance, 9 if the same ones always met


def test_the_order_is_pinned() -> None:
    # A run that is resumed by a later version goes on in the same order.
    sampler = PKSampler([0, 0, 0, 1, 1, 2, 2, 2, 2], identities=2, images_per_identity=2, seed=3)
    sampler.set_epoch(2)
    assert list(sampler) == PINNED_ORDER


PINNED_ORDER = [7, 6, 4, 3, 1, 2, 5, 8]


def test_state_goes_to_another_number_of_ranks() -> None:
    def ranks(world_size: int) -> list[PKSampler]:
        options = {"identities": 4, "images_per_identity": 3, "seed": 1, "world_size": world_size}
        return [PKSampler(LABELS, **options, rank=rank) for rank in range(world_size)]  # type: ignore[arg-type]

    old = ranks(4)
    for sampler in old:
        sampler.set_epoch(7)
        sampler.start = 6  # two batches
    states = [json.loads(json.dumps(sampler.state_dict())) for sampler in old]
    assert states == [states[0]] * 4
    rest = {index for sampler in old for index in sampler}
    new = ranks(2)
    for sampler in new:
        sampler.load_state_dict(states[0])
        sampler.set_epoch(7)
        assert sampler.start == 12
    assert {index for sampler in new for index in sampler} == rest
    new[0].set_epoch(8)
    assert new[0].start == 0


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"labels": LABELS[:-1]}, "length"),
        ({"labels": LABELS[::-1]}, "labels"),
        ({"seed": 2}, "seed"),
        ({"identities": 6}, "identities"),
        ({"images_per_identity": 2}, "images_per_identity"),
        ({"short": "skip"}, "short"),
    ],
)
def test_state_of_another_run_is_refused(changed: dict[str, Any], name: str) -> None:
    options = {"labels": LABELS, "identities": 4, "images_per_identity": 4, "seed": 1}
    state = PKSampler(**options).state_dict()  # type: ignore[arg-type]
    other = PKSampler(**{**options, **changed})
    with pytest.raises(ValueError, match=f"saved sampler has {name}="):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": []}, "at least 1"),
        ({"labels": np.zeros((3, 2))}, r"shape \(3, 2\)"),
        ({"identities": 0}, "got 0 and 4"),
        ({"images_per_identity": 0}, "got 4 and 0"),
        ({"identities": 13}, "batch of 13 identities x 4 images needs 13 identities; there are 12 of 12"),
        ({"images_per_identity": 11, "short": "skip"}, "needs 4 identities with at least 11 images; there are 0 of 12"),
        ({"short": "drop"}, "unknown short 'drop'"),
        ({"rank": 1}, "0 <= rank < world_size"),
        ({"world_size": 3}, r"identities \(4\) must be a multiple of world_size \(3\)"),
    ],
)
def test_numbers_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PKSampler(**{"labels": LABELS, "identities": 4, "images_per_identity": 4, **changed})


def test_a_loader_gets_whole_identities() -> None:
    data = torch.utils.data.TensorDataset(torch.from_numpy(LABELS))
    sampler = PKSampler(torch.from_numpy(LABELS), identities=6, images_per_identity=4)
    for (labels,) in make_loader(data, 12, sampler=sampler, drop_last=True):
        assert sorted(Counter(labels.tolist()).values()) == [4, 4, 4]


def test_most_batches_of_a_long_tail() -> None:
    assert _most_batches(np.array([100, 1, 1, 1, 1]), 2) == 4  # the large identity cannot be in a batch twice
    assert _most_batches(np.array([100, 1, 1, 1, 1]), 1) == 104
