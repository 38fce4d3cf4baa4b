"""Values and slopes by hand, where a wrong sign, end or constant would otherwise go unnoticed."""

from __future__ import annotations

import math

import pytest
import torch

from facezoo.losses import create_loss
from facezoo.losses._batch import log1p_exp
from facezoo.losses._pairwise import pairwise_distances
from facezoo.ops.margin import (
    additive_cosine_margin,
    combined_margin,
    folded_angular_margin,
    multiplicative_angular_margin,
)
from facezoo.ops.normalization import global_response_norm
from facezoo.ops.pooling import generalized_mean_pool

COSINE = torch.tensor([0.9, 0.3, 0.0, -0.2], dtype=torch.float64)


def test_margins_make_the_target_smaller() -> None:
    torch.testing.assert_close(additive_cosine_margin(COSINE, 0.35), COSINE - 0.35, rtol=0, atol=0)
    expected = torch.cos(torch.acos(COSINE) + 0.2) - 0.1
    torch.testing.assert_close(combined_margin(COSINE, 1.0, 0.2, 0.1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("margin", [2, 3, 4])
def test_the_slope_at_the_far_end(margin: int) -> None:
    """At θ = π the last piece goes on: a slope of the wrong sign would push embeddings away from their center."""
    cosine = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    value = multiplicative_angular_margin(cosine, margin)
    value.backward()
    assert value.item() == 1 - 2 * margin
    assert cosine.grad is not None
    assert cosine.grad.item() == pytest.approx(margin**2)
    near = torch.tensor([math.cos(math.pi - 1e-3)], dtype=torch.float64, requires_grad=True)
    folded_angular_margin(near, float(margin)).backward()
    assert near.grad is not None
    assert near.grad.item() > 0


def test_zeros_and_negative_values() -> None:
    zeros = torch.zeros(1, 2, 2, 3)
    assert global_response_norm(zeros, torch.ones(3), torch.zeros(3)).tolist() == zeros.tolist()
    low = generalized_mean_pool(torch.full((1, 1, 2, 2), -5.0), 3.0)
    assert low.item() == pytest.approx(1e-6, rel=1e-3)


def test_the_first_label_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"label 3 at position 0 lies outside \[0, 3\)"):
        create_loss("center", num_classes=3, embedding_dim=2)(torch.randn(1, 2), torch.tensor([3]))


def test_digits_that_are_easily_lost() -> None:
    x = torch.tensor([25.0, 45.0], dtype=torch.float64)
    assert (log1p_exp(x) - x).tolist() == pytest.approx([math.exp(-25), 0.0], rel=1e-3, abs=1e-14)
    points = torch.ones(2, 64)
    points[1, 0] += 1e-3
    distance = pairwise_distances(points, points, normalize=False)[0, 1].item()
    assert distance == pytest.approx((points[1, 0] - 1).item(), rel=1e-5)


def test_a_reference_without_negatives_in_the_batch_counts_with_those_of_its_anchor() -> None:
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    references = torch.tensor([[0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)
    loss = create_loss("lifted_structure", margin=1.0)(x, torch.tensor([0, 0]), references, torch.tensor([0, 1]))
    terms = []
    for i in (0, 1):
        to_negative = math.exp(1.0 - float(torch.dist(x[i], references[1])))
        both = sum(math.exp(1.0 - float(torch.dist(x[j], references[1]))) for j in (0, 1))
        terms.append(max(0.0, math.log(both) + float(torch.dist(x[0], x[1]))) ** 2)
        terms.append(max(0.0, math.log(to_negative) + float(torch.dist(x[i], references[0]))) ** 2)
    assert loss.item() == pytest.approx(0.5 * sum(terms) / 4, rel=1e-9)
