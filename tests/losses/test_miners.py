"""What the miners choose, against loops over the batch, and how the random one draws."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import of_paper
from facezoo.losses import miners
from facezoo.losses.miners import ALL_MINERS, TRIPLET_MINERS, Candidates, mine_pairs, mine_triplets


def candidates(n=10, classes=3, seed=0, dim=4, extra=0):
    """Labels of all references, and the candidates of the first n as anchors."""
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(n + extra, dim, generator=generator, dtype=torch.float64))
    y = torch.randint(classes, (n + extra,), generator=generator)
    same = y[:n, None] == y
    positive = same & ~torch.eye(n, n + extra, dtype=torch.bool)
    return y.tolist(), Candidates(torch.cdist(x[:n], x), positive, ~same, dim)


batches = st.fixed_dictionaries(
    {"n": st.integers(1, 9), "classes": st.integers(1, 5), "seed": st.integers(0, 2**31), "extra": st.integers(0, 5)}
)


def test_every_miner_is_tested():
    assert set(TRIPLET_MINERS) == {"all", "batch_hard", "batch_easy_hard", "semi_hard", "distance_weighted"}
    assert set(ALL_MINERS) == {*TRIPLET_MINERS, "multi_similarity"}


@given(shape=batches, mining=st.sampled_from(["all", "batch_hard", "batch_easy_hard", "semi_hard"]))
@settings(max_examples=60, deadline=None)
def test_triplets_are_those_of_the_paper(shape, mining):
    y, given_ = candidates(**shape)
    chosen = mine_triplets(mining, given_)
    expected = of_paper.triplets(mining, given_.distances.tolist(), y, shape["n"])
    assert sorted(zip(*(index.tolist() for index in chosen), strict=True)) == sorted(expected)


@given(shape=batches, mining=st.sampled_from(["all", "multi_similarity", "batch_hard", "semi_hard"]))
@settings(max_examples=60, deadline=None)
def test_pairs_are_those_of_the_paper(shape, mining):
    y, given_ = candidates(**shape)
    chosen = mine_pairs(mining, given_)
    expected = of_paper.pairs(mining, given_.distances.tolist(), y, shape["n"])
    for mask, pairs in zip(chosen, expected, strict=True):
        assert {tuple(pair) for pair in mask.nonzero().tolist()} == pairs


@given(shape=batches, dim=st.sampled_from([2, 3, 16, 512]))
@settings(max_examples=40, deadline=None)
def test_weights_of_the_negatives_are_those_of_the_paper(shape, dim):
    y, given_ = candidates(**shape, dim=dim)
    weights = miners.negative_weights(given_)
    for a in range(shape["n"]):
        expected = of_paper.negative_weights(given_.distances[a : a + 1].tolist() * (a + 1), y, a, dim)
        assert weights[a].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_negatives_are_drawn_by_their_weights():
    torch.manual_seed(0)
    y, given_ = candidates(n=7, classes=2, seed=5)
    weights = miners.negative_weights(given_)
    drawn = torch.zeros_like(weights)
    for _ in range(1500):
        chosen = mine_triplets("distance_weighted", given_)
        assert given_.positive[chosen.anchor, chosen.positive].all()
        assert given_.negative[chosen.anchor, chosen.negative].all()
        drawn.index_put_((chosen.anchor, chosen.negative), torch.ones(len(chosen.anchor)).double(), accumulate=True)
    # Each anchor with p positives draws p times in a round; none of its frequencies is off by more than 5 standard deviations.
    rounds = 1500 * given_.positive.sum(1, keepdim=True)
    deviation = (drawn / rounds - weights).abs() / (weights * (1 - weights) / rounds).sqrt().clamp_min(1e-9)
    assert deviation.max() < 5
    assert len(set(y)) == 2


def test_distances_are_evened_out():
    """Random points in 64 dimensions all lie at about √2 of each other; the drawn negatives do not (1706.07567, figure 4)."""
    torch.manual_seed(0)
    near = F.normalize(torch.ones(1, 64) + torch.linspace(0.2, 1.5, 60)[:, None] * torch.randn(60, 64))
    x = F.normalize(torch.cat([torch.ones(2, 64), near, torch.randn(2000, 64)]))
    y = torch.cat([torch.zeros(2), torch.ones(2060)])
    same = y[:2, None] == y
    given_ = Candidates(torch.cdist(x[:2], x), same & ~torch.eye(2, 2062, dtype=torch.bool), ~same, 64)
    weights = miners.negative_weights(given_)[0]
    share = [
        weights[(given_.distances[0] > low) & (given_.distances[0] <= low + 0.3)].sum() for low in (0.2, 0.5, 0.8, 1.1)
    ]
    uniform = (given_.distances[0, 2:] > 1.1).double().mean()
    assert uniform > 0.95
    assert share[3] < 0.05  # nearly all of the negatives, and next to none of the draws


def test_opposite_and_identical_points_get_finite_weights():
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    y = torch.tensor([0, 0, 1, 2])
    same = y[:, None] == y
    given_ = Candidates(torch.cdist(x, x), same & ~torch.eye(4, dtype=torch.bool), ~same, 512)
    for reach in (1.4, 3.0):
        weights = miners.negative_weights(given_, reach=reach)
        assert torch.isfinite(weights).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(4))
    # For anchor 2 nobody is within reach: it draws from all of its negatives.
    torch.testing.assert_close(miners.negative_weights(given_)[2], torch.tensor([1 / 3, 1 / 3, 0.0, 1 / 3]))


def test_pairs_from_triplets_without_any():
    _, given_ = candidates(n=3, classes=1)
    for mining in TRIPLET_MINERS:
        assert all(len(index) == 0 for index in mine_triplets(mining, given_))
    assert not mine_pairs("batch_hard", given_).positive.any()


def test_unknown_miner():
    _, given_ = candidates()
    with pytest.raises(ValueError, match="did you mean 'semi_hard'"):
        mine_triplets("semihard", given_)
    with pytest.raises(ValueError, match="unknown mining 'multi_similarity'"):
        mine_triplets("multi_similarity", given_)
    with pytest.raises(ValueError, match="multi_similarity"):
        mine_pairs("multisimilarity", given_)


def test_a_negative_at_the_reach_itself_is_not_drawn():
    distances = torch.tensor([[0.0, 0.5, 1.4, 1.0]])
    positive, negative = torch.tensor([[0, 1, 0, 0]]).bool(), torch.tensor([[0, 0, 1, 1]]).bool()
    weights = miners.negative_weights(Candidates(distances, positive, negative, 4), reach=distances[0, 2].item())
    assert weights.tolist() == [[0.0, 0.0, 0.0, 1.0]]


def test_a_negative_as_far_as_the_positive_is_not_semi_hard():
    """Farther means farther: of negatives at 1.0 and 2.0, with the positive at 1.0, the second."""
    distances = torch.tensor([[0.0, 1.0, 1.0, 2.0]])
    positive = torch.tensor([[False, True, False, False]])
    negative = torch.tensor([[False, False, True, True]])
    assert mine_triplets("semi_hard", Candidates(distances, positive, negative, 4)).negative.tolist() == [3]
