"""What must hold of every figure, whatever the scores: in memory, streamed, and of all pairs tile by tile."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from facezoo.evaluation import det_with_intervals, roc_curve, verification_metrics
from facezoo.evaluation.all_pairs import all_pairs, count_pairs
from facezoo.evaluation.identification import identification_metrics, search_gallery
from facezoo.evaluation.streaming import ScoreHistogram, streamed_figures

FARS, PRIORS = (1.0, 0.5, 0.29, 0.1, 0.01), (0.01, 0.5, 0.9)

kinds = st.sampled_from(["tied", "constant", "float16", "bfloat16", "neighbors", "any", "huge"])


@st.composite
def scored_pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Adversarial scores and labels, two pairs to sixty, both kinds among them."""
    labels = draw(st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda values: len(set(values)) == 2))
    count, kind = len(labels), draw(kinds)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = rng.normal(0.3 * np.array(labels), 0.4)
    values = {
        "tied": lambda: torch.from_numpy(rng.integers(0, 4, count) / 4.0),
        "constant": lambda: torch.full((count,), 0.3),
        "float16": lambda: torch.from_numpy(noise).half(),
        "bfloat16": lambda: torch.from_numpy(noise).bfloat16(),
        "neighbors": lambda: torch.from_numpy(0.25 + rng.integers(0, 5, count) * 2.0**-54),
        "any": lambda: torch.from_numpy(noise),
        "huge": lambda: torch.from_numpy(noise * 10.0 ** rng.integers(-30, 30, count)),
    }[kind]()
    return values, torch.tensor(labels)


def figures(scores: torch.Tensor, labels: torch.Tensor, priors: tuple[float, ...] = PRIORS) -> dict[str, object]:
    found = verification_metrics(scores, labels, fars=FARS, priors=priors, bootstrap=0)
    tars = [None if math.isnan(tar) else tar for tar in found.tar_at_far.values()]
    costs = [pytest.approx(cost, abs=1e-12) for cost in found.min_dcf.values()]
    return {"eer": found.eer, "auc": found.auc, "accuracy": found.accuracy, "tar": tars, "min_dcf": costs}


@settings(max_examples=120, deadline=None)
@given(scored_pairs(), st.randoms(use_true_random=False))
def test_only_the_order_of_the_scores_counts(pairs, random) -> None:
    scores, labels = pairs
    expected = figures(scores, labels)
    _, rank = np.unique(scores.double().numpy(), return_inverse=True)
    for increasing in (lambda r: r, lambda r: 0.5 * r - 7, lambda r: np.exp(0.3 * r), lambda r: np.arctan(r / 9.0)):
        assert figures(torch.from_numpy(np.asarray(increasing(rank), dtype=np.float64)), labels) == expected
    order = list(range(len(labels)))
    random.shuffle(order)
    assert figures(scores[order], labels[order]) == expected


@settings(max_examples=120, deadline=None)
@given(scored_pairs(), st.integers(2, 4))
def test_flipped_labels_and_repeated_pairs(pairs, times) -> None:
    scores, labels = pairs
    expected = figures(scores, labels)
    flipped = figures(-scores, ~labels, priors=tuple(1 - prior for prior in PRIORS))
    for name in ("eer", "auc", "accuracy", "min_dcf"):
        assert flipped[name] == expected[name], name
    wrong_way = verification_metrics(scores, ~labels, bootstrap=0)
    assert wrong_way.auc == pytest.approx(1 - expected["auc"], abs=1e-12)
    repeated = figures(scores.repeat(times), labels.repeat(times))
    for name in ("eer", "auc", "accuracy", "min_dcf"):
        assert repeated[name] == expected[name], name
    for before, after in zip(expected["tar"], repeated["tar"], strict=True):
        assert before is None or after == before  # more pairs may resolve what was not resolvable


@settings(max_examples=120, deadline=None)
@given(scored_pairs())
def test_the_curve_is_that_of_scikit_learn(pairs) -> None:
    scores, labels = pairs
    values = scores.double().numpy()
    curve = roc_curve(scores, labels)
    far, tar, thresholds = sklearn_roc(labels.numpy(), values, drop_intermediate=False)
    assert np.array_equal(curve.far, far)
    assert np.array_equal(curve.tar, tar)
    assert np.array_equal(curve.thresholds[1:], thresholds[1:])
    found = verification_metrics(scores, labels, fars=FARS, priors=PRIORS, bootstrap=0)
    assert found.auc == pytest.approx(roc_auc_score(labels.numpy(), values), abs=1e-12)
    for prior in PRIORS:
        costs = [prior * (1 - y) + (1 - prior) * x for x, y in zip(far, tar, strict=True)]
        assert found.min_dcf[prior] == pytest.approx(min(costs) / min(prior, 1 - prior), abs=1e-12)


@settings(max_examples=120, deadline=None)
@given(scored_pairs(), st.integers(1, 20), st.sampled_from([2, 16, 1 << 16]))
def test_streamed_figures_are_those_in_memory(pairs, batch, bins) -> None:
    scores, labels = pairs
    expected = verification_metrics(scores, labels, fars=FARS, bootstrap=0)
    histogram = ScoreHistogram(bins=bins)
    batches = [*zip(scores.split(batch), labels.split(batch), strict=True)]
    for part in batches:
        histogram.add(*part)
    found = streamed_figures(lambda: batches, fars=FARS, histogram=histogram)
    assert found.eer == expected.eer
    assert abs(found.auc - expected.auc) <= found.auc_error + 1e-12
    for far, tar in expected.tar_at_far.items():
        assert found.tar_at_far[far] == tar or (math.isnan(tar) and math.isnan(found.tar_at_far[far]))
        if not math.isnan(tar):
            accepted = scores.double() >= found.threshold_at_far[far]
            assert int((accepted & labels).sum()) / int(labels.sum()) == tar
            assert int((accepted & ~labels).sum()) / int((~labels).sum()) <= far


@settings(max_examples=60, deadline=None)
@given(scored_pairs())
def test_infinite_scores_are_refused_in_memory_and_are_the_ends_of_a_stream(pairs) -> None:
    scores, labels = pairs[0].float().clamp(-1, 1), pairs[1]
    scores[0], scores[-1] = math.inf, -math.inf
    for figure in (verification_metrics, roc_curve, det_with_intervals):
        with pytest.raises(ValueError, match=r"2 of \d+ are NaN or infinite, the first at index 0"):
            figure(scores, labels)
    finite = scores.clamp(-3, 3)
    assert (
        streamed_figures(lambda: [(scores, labels)], fars=FARS).eer
        == verification_metrics(finite, labels, bootstrap=0).eer
    )


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_one_kind_of_pair_is_refused_in_every_form(label: bool, dtype: torch.dtype) -> None:
    scores, labels = torch.tensor([0.1, 0.2, 0.2], dtype=dtype), torch.full((3,), label)
    for figure in (verification_metrics, roc_curve, det_with_intervals):
        with pytest.raises(ValueError, match="labels hold one class only"):
            figure(scores, labels)
    with pytest.raises(ValueError, match="one kind has none"):
        streamed_figures(lambda: [(scores, labels)])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 15)), min_size=3, max_size=24), st.integers(1, 30))
def test_all_pairs_in_tiles_are_those_of_the_whole_product(rows, tile) -> None:
    people = torch.tensor([who for who, _ in rows])
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    genuine = people[first] == people[second]
    if genuine.all() or not genuine.any():
        return
    signs = torch.tensor([[1.0 if number >> bit & 1 else -1.0 for bit in range(4)] for _, number in rows])
    embeddings = signs / 2  # unit length; every product is exact, whatever the order of its sums
    scores = (embeddings @ embeddings.T)[first, second]
    expected = verification_metrics(scores, genuine, fars=FARS, bootstrap=0)
    counts = count_pairs(embeddings, people, tile=tile)
    found = streamed_figures(lambda: all_pairs(embeddings, people, tile=tile, reuse=True), fars=FARS, histogram=counts)
    assert (found.num_genuine, found.num_impostor) == (expected.num_genuine, expected.num_impostor)
    assert found.eer == expected.eer
    assert [*map(str, found.tar_at_far.values())] == [*map(str, expected.tar_at_far.values())]


@st.composite
def searches(draw: st.DrawFn) -> tuple[torch.Tensor, list[str], torch.Tensor, list[str]]:
    """Probes and templates with many ties: exact products, few different ones."""

    def some(count: int, people: str) -> tuple[torch.Tensor, list[str]]:
        numbers = draw(st.lists(st.integers(0, 15), min_size=count, max_size=count))
        names = draw(st.lists(st.sampled_from(people), min_size=count, max_size=count))
        rows = [[1.0 if number >> bit & 1 else -1.0 for bit in range(4)] for number in numbers]
        return torch.tensor(rows) / 2, names

    return (*some(draw(st.integers(1, 12)), "abcdef"), *some(draw(st.integers(1, 8)), "abcd"))


@settings(max_examples=120, deadline=None)
@given(searches(), st.randoms(use_true_random=False))
def test_ranks_equal_enumeration_and_do_not_depend_on_order_names_or_copies(case, random) -> None:
    probes, who, templates, owners = case
    fpirs = (0.5, 0.2)

    def found(probes, who, templates, owners):
        result = identification_metrics(
            search_gallery(probes, who, templates, owners), ranks=(1, 2, 3, 9), fpirs=fpirs, bootstrap=0
        )
        return result.rank, {fpir: str(tpir) for fpir, tpir in result.tpir_at_fpir.items()}

    expected = found(probes, who, templates, owners)
    scores = (probes @ templates.T).tolist()
    ranks, mated, strangers = [], [], []
    for row, name in zip(scores, who, strict=True):
        own = [score for score, owner in zip(row, owners, strict=True) if owner == name]
        if own:
            ranks.append(1 + sum(score >= max(own) for score, owner in zip(row, owners, strict=True) if owner != name))
            mated.append(max(own))
        else:
            strangers.append(max(row))
    for k, share in expected[0].items():
        assert share == sum(rank <= k for rank in ranks) / len(ranks)
    for fpir in fpirs:
        if len(strangers) * fpir < 1 or not ranks:
            assert expected[1][fpir] == "nan"
            continue
        limits = [
            limit for limit in [*mated, *strangers, 2.0] if sum(s >= limit for s in strangers) <= fpir * len(strangers)
        ]
        best = max(sum(r == 1 and s >= limit for r, s in zip(ranks, mated, strict=True)) for limit in limits)
        assert expected[1][fpir] == str(best / len(ranks))
    assert [*expected[0].values()] == sorted(expected[0].values())

    rows, columns = list(range(len(who))), list(range(len(owners)))
    random.shuffle(rows)
    random.shuffle(columns)
    shuffled = (probes[rows], [who[row] for row in rows], templates[columns], [owners[column] for column in columns])
    assert found(*shuffled) == expected
    assert found(probes, [f"x{name}" for name in who], templates, [f"x{name}" for name in owners]) == expected
    twice = found(probes.repeat(2, 1), [*who, *who], templates, owners)
    assert twice[0] == expected[0]
    more = found(probes, who, torch.cat([templates, torch.full((1, 4), 0.5)]), [*owners, "distractor"])
    assert all(more[0][k] <= share for k, share in expected[0].items())
