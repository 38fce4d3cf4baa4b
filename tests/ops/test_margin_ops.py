"""The margin formulas against the papers, in float64, and their behavior at the ends of [-1, 1]."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facezoo.ops.margin import (
    additive_angular_margin,
    additive_cosine_margin,
    angular_margin_per_sample,
    annealed_margin,
    clipped_angular_margin,
    combined_margin,
    detach_margin,
    folded_angular_margin,
    guarded_sine,
    monotone_limit,
    multiplicative_angular_margin,
    sphereface_annealing,
    unit_vectors,
)

ANGLES = torch.linspace(0.01, math.pi - 0.01, 301, dtype=torch.float64)

MARGINS = {
    "cosine": lambda c: additive_cosine_margin(c, 0.35),
    "angular_monotone": lambda c: additive_angular_margin(c, 0.5),
    "angular_easy": lambda c: additive_angular_margin(c, 0.5, easy="easy"),
    "angular_none": lambda c: additive_angular_margin(c, 0.5, easy="none"),
    "combined": lambda c: combined_margin(c, 1.0, 0.3, 0.2),
    "combined_factor": lambda c: combined_margin(c, 1.2, 0.3, 0.2),
    "combined_factor_none": lambda c: combined_margin(c, 0.9, 0.4, 0.15, easy="none"),
    "sphereface": lambda c: multiplicative_angular_margin(c, 4),
    "folded": lambda c: folded_angular_margin(c, 1.7),
    "clipped": lambda c: clipped_angular_margin(c, 1.4),
    "shifted": lambda c: clipped_angular_margin(c, shift=-0.35),
    "per_sample": lambda c: angular_margin_per_sample(c, torch.full_like(c, 0.5)),
}


def test_unit_vectors_agree_with_normalize_and_leave_zero_rows_alone():
    x = torch.randn(5, 7, dtype=torch.float64)
    x[2] = 0.0
    x.requires_grad_()
    unit, norm = unit_vectors(x)
    torch.testing.assert_close(unit, torch.nn.functional.normalize(x, dim=1))
    torch.testing.assert_close(norm, x.norm(dim=1, keepdim=True))
    ((unit * torch.randn_like(unit)).sum() + norm.sum()).backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[2] == 0.0).all()
    assert (x.grad[0] != 0.0).all()


def test_gradient_of_unit_vectors():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_vectors, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sine_is_exact_and_its_gradient_finite_at_the_ends(dtype):
    cosine = torch.tensor([-1.0, 1.0, 0.0, 0.6, 1.0 + 1e-7, -1.0 - 1e-7], dtype=dtype, requires_grad=True)
    sine = guarded_sine(cosine)
    assert sine.tolist() == pytest.approx([0.0, 0.0, 1.0, 0.8, 0.0, 0.0], abs=1e-7)
    sine.sum().backward()
    assert cosine.grad.tolist() == pytest.approx([0.0, 0.0, 0.0, -0.75, 0.0, 0.0], rel=1e-6)


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_at_the_ends(name, dtype):
    ends = [1.0, -1.0, 1.0 - 1e-7, -1.0 + 1e-7, 1.0 + 2e-7, -1.0 - 2e-7]
    cosine = torch.tensor(ends, dtype=dtype, requires_grad=True)
    margined = MARGINS[name](cosine)
    margined.sum().backward()
    assert torch.isfinite(margined).all()
    assert torch.isfinite(cosine.grad).all()


def test_angular_margin_at_the_ends_has_the_exact_value():
    ends = torch.tensor([1.0, -1.0])
    expected = [math.cos(0.5), -1.0 - 0.5 * math.sin(0.5)]
    assert additive_angular_margin(ends, 0.5).tolist() == pytest.approx(expected, rel=1e-6)
    assert combined_margin(ends, 1.2, 0.3, 0.1, easy="none").tolist() == pytest.approx(
        [math.cos(0.3) - 0.1, math.cos(1.2 * math.pi + 0.3) - 0.1], rel=1e-6
    )


@pytest.mark.parametrize("name", MARGINS)
def test_gradients(name):
    # The angles lie on both sides of every branch; the branch points themselves are not among them.
    angles = ANGLES[10:-10]
    cosine = torch.cos(angles[(angles - math.pi / 2).abs() > 1e-4]).requires_grad_()
    assert torch.autograd.gradcheck(MARGINS[name], cosine)


def test_arcface_formula_and_its_three_choices():
    margin = 0.5
    got = {
        easy: additive_angular_margin(torch.cos(ANGLES), margin, easy=easy).tolist()
        for easy in ("monotone", "easy", "none")
    }
    sides = set()
    for i, theta in enumerate(ANGLES.tolist()):
        c, inside = math.cos(theta), math.cos(theta) > math.cos(math.pi - margin)
        sides.add(inside)
        assert got["none"][i] == pytest.approx(math.cos(theta + margin), abs=1e-12)
        assert got["easy"][i] == pytest.approx(math.cos(theta + margin) if c > 0 else c, abs=1e-12)
        expected = math.cos(theta + margin) if inside else c - margin * math.sin(math.pi - margin)
        assert got["monotone"][i] == pytest.approx(expected, abs=1e-12)
    assert sides == {True, False}


@given(
    m1=st.floats(0.8, 1.4), m2=st.floats(0.0, 0.7), m3=st.floats(0.0, 0.4), easy=st.sampled_from(["monotone", "none"])
)
@settings(max_examples=50, deadline=None)
def test_combined_formula(m1, m2, m3, easy):
    assume(math.pi - monotone_limit(m1, m2) < 2.33)
    got = combined_margin(torch.cos(ANGLES), m1, m2, m3, easy=easy).tolist()
    limit = (math.pi - m2) / m1
    for theta, value in zip(ANGLES.tolist(), got, strict=True):
        if easy == "none" or theta < limit - 1e-9:
            assert value == pytest.approx(math.cos(m1 * theta + m2) - m3, abs=1e-9)
        elif theta > limit + 1e-9:
            turned = math.pi - limit
            assert value == pytest.approx(math.cos(theta) - turned * math.sin(limit) - m3, abs=1e-9)


def test_combined_uses_all_three_margins():
    """insightface's class leaves out m1 and m2 as soon as m3 is above 0."""
    cosine = torch.cos(ANGLES)
    values = [combined_margin(cosine, *m) for m in ((1.0, 0.3, 0.2), (1.0, 0.0, 0.2), (1.0, 0.3, 0.0), (1.1, 0.3, 0.2))]
    for other in values[1:]:
        assert (values[0] - other).abs().max() > 0.05


@given(m1=st.floats(0.8, 1.6), m2=st.floats(0.0, math.pi / 2))
@settings(max_examples=50, deadline=None)
def test_monotone_means_monotone(m1, m2):
    # Below 1, m1 shrinks angles; the range of m1, m2 is the one that the catalog accepts.
    assume(math.pi - monotone_limit(m1, m2) < 2.33)
    values = combined_margin(torch.cos(ANGLES), m1, m2, 0.0)
    assert (values.diff() < 1e-12).all()


def test_without_monotone_fix_the_target_rises_again():
    assert (additive_angular_margin(torch.cos(ANGLES), 0.5, easy="none").diff() > 0).any()


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 5])
def test_sphereface_formula(margin):
    got = multiplicative_angular_margin(torch.cos(ANGLES), margin)
    expected = []
    for theta in ANGLES.tolist():
        k = math.floor(margin * theta / math.pi)
        expected.append((-1) ** k * math.cos(margin * theta) - 2 * k)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-10)
    assert (got.diff() < 0).all()


def test_sphereface_at_the_ends():
    ends = torch.tensor([1.0, -1.0, -1.0 - 1e-7])
    assert multiplicative_angular_margin(ends, 4).tolist() == pytest.approx([1.0, -7.0, -7.0], abs=1e-4)


def test_annealing():
    for iteration, expected in ((1, 1000 / 1.12), (100, 1000 / 13), (10_000, 5.0)):
        assert float(sphereface_annealing(torch.tensor(iteration))) == pytest.approx(expected)
    c, phi = torch.tensor([0.3]), torch.tensor([-0.5])
    assert float(annealed_margin(c, phi, 5.0)) == pytest.approx((5 * 0.3 - 0.5) / 6)


@pytest.mark.parametrize("name", MARGINS)
def test_detached_margin_has_the_value_of_the_margin_and_the_gradient_of_the_cosine(name):
    cosine = torch.cos(ANGLES).requires_grad_()
    margined = MARGINS[name](cosine)
    detached = detach_margin(cosine, margined)
    torch.testing.assert_close(detached, margined)
    detached.sum().backward()
    assert (cosine.grad == 1.0).all()


@pytest.mark.parametrize("easy", ["monotone", "easy", "none"])
def test_a_margin_per_sample_is_the_common_one_where_all_are_equal(easy):
    cosine = torch.cos(ANGLES)
    got = angular_margin_per_sample(cosine, torch.full_like(cosine, 0.5), easy=easy)
    torch.testing.assert_close(got, additive_angular_margin(cosine, 0.5, easy=easy))


def test_gradient_in_the_margin_of_a_sample():
    angles = ANGLES[5:-5:7]
    margin = torch.linspace(0.1, 0.8, len(angles), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: angular_margin_per_sample(torch.cos(angles), m), margin)


@pytest.mark.parametrize("margin", [1, 2, 3, 4])
def test_folded_margin_is_spherefaces_for_whole_factors(margin):
    cosine = torch.cos(ANGLES)
    torch.testing.assert_close(folded_angular_margin(cosine, margin), multiplicative_angular_margin(cosine, margin))
    ends = torch.tensor([1.0, -1.0])
    torch.testing.assert_close(folded_angular_margin(ends, margin), multiplicative_angular_margin(ends, margin))


def test_clipped_angles():
    got = clipped_angular_margin(torch.cos(ANGLES), 1.5, 0.2)
    expected = [math.cos(min(1.5 * theta + 0.2, math.pi)) for theta in ANGLES.tolist()]
    assert got.tolist() == pytest.approx(expected, abs=1e-12)
    got = clipped_angular_margin(torch.cos(ANGLES), shift=torch.full_like(ANGLES, -0.4))
    assert got.tolist() == pytest.approx([math.cos(max(theta - 0.4, 0.0)) for theta in ANGLES.tolist()], abs=1e-12)
