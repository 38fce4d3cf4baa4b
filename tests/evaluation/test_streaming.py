"""Streamed figures equal those of all scores in memory; binned ones are at most one bin away."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from facezoo.evaluation import verification_metrics
from facezoo.evaluation.streaming import ScoreHistogram, all_pairs, streamed_figures

FARS = (0.5, 0.1, 0.01, 1e-3, 1e-7)


def draw(seed: int, size: int = 4000, digits: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    genuine = rng.random(size) < 0.3
    scores = np.clip(rng.normal(0.4 * genuine, 0.25), -1, 1).astype(np.float32)
    if digits is not None:
        scores = np.round(scores, digits)
    return torch.from_numpy(scores), torch.from_numpy(genuine)


@pytest.mark.parametrize("digits", [None, 3, 1, 0])
@pytest.mark.parametrize("bins", [2, 16, 512, 1 << 16])
@pytest.mark.parametrize("seed", range(3))
def test_exact_figures_are_those_in_memory(seed: int, bins: int, digits: int | None) -> None:
    scores, genuine = draw(seed, digits=digits)
    expected = verification_metrics(scores, genuine, fars=FARS, bootstrap=0)
    histogram = ScoreHistogram(bins=bins)
    for s, g in zip(scores.split(333), genuine.split(333), strict=True):
        histogram.add(s, g)
    found = streamed_figures(
        lambda: zip(scores.split(500), genuine.split(500), strict=True), fars=FARS, histogram=histogram
    )
    assert found.eer == expected.eer
    assert found.num_genuine == expected.num_genuine
    for far in FARS:
        if math.isnan(expected.tar_at_far[far]):
            assert math.isnan(found.tar_at_far[far])
            continue
        assert found.tar_at_far[far] == expected.tar_at_far[far]
        if math.isfinite(found.threshold_at_far[far]):
            assert (scores.double() == found.threshold_at_far[far]).any()  # a score, not the edge of a bin
            accepted = scores.double() >= found.threshold_at_far[far]
            assert (accepted & genuine).sum() / genuine.sum() == pytest.approx(expected.tar_at_far[far])
            assert (accepted & ~genuine).sum() / (~genuine).sum() <= far
    assert abs(found.auc - expected.auc) <= found.auc_error + 1e-12


def test_binned_figures_are_a_bin_away() -> None:
    scores, genuine = draw(1, 20_000)
    binned = streamed_figures(lambda: [(scores, genuine)], fars=(0.01,), exact=False)
    exact = streamed_figures(lambda: [(scores, genuine)], fars=(0.01,))
    assert not binned.exact
    assert binned.eer == pytest.approx(exact.eer, abs=2e-3)
    assert abs(binned.threshold_at_far[0.01] - exact.threshold_at_far[0.01]) <= 3 * binned.bin_width


def test_extremes_and_errors() -> None:
    histogram = ScoreHistogram(bins=4)
    histogram.add(torch.tensor([-5.0, 5.0, math.inf, -math.inf, 1.0, -1.0]), torch.tensor([True] * 3 + [False] * 3))
    assert histogram.genuine.tolist() == [1, 0, 0, 2]
    assert histogram.impostor.tolist() == [2, 0, 0, 1]
    with pytest.raises(ValueError, match="must not be NaN"):
        histogram.add(torch.tensor([math.nan]), torch.tensor([True]))
    with pytest.raises(ValueError, match="differ in shape"):
        histogram.add(torch.zeros(2), torch.ones(3).bool())
    with pytest.raises(ValueError, match="other bins"):
        histogram.merge(ScoreHistogram(bins=8))
    with pytest.raises(ValueError, match="one kind has none"):
        streamed_figures(lambda: [(torch.zeros(2), torch.ones(2).bool())])
    with pytest.raises(ValueError, match="bins is at least 2"):
        ScoreHistogram(bins=1)
    calls: list[int] = []

    def changing() -> list[tuple[torch.Tensor, torch.Tensor]]:
        calls.append(1)
        return [(torch.tensor([0.1, 0.2, 0.3, 0.1 * len(calls)]), torch.tensor([True, False, True, False]))]

    with pytest.raises(ValueError, match="second pass gave other scores"):
        streamed_figures(changing)


@pytest.mark.parametrize("tile", [4, 7, 100])
def test_every_pair_comes_once(tile: int) -> None:
    embeddings = torch.nn.functional.normalize(torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    people = torch.arange(30) // 3
    row, column = torch.triu_indices(30, 30, 1)
    expected = sorted(
        zip((embeddings @ embeddings.T)[row, column].tolist(), (people[row] == people[column]).tolist(), strict=True)
    )
    tiles = list(all_pairs(embeddings, people, tile=tile))
    found = sorted(
        (s, bool(g))
        for scores, same in tiles
        for s, g in zip(scores.flatten().tolist(), same.flatten().tolist(), strict=True)
    )
    assert len(found) == 435
    assert [g for _, g in found].count(True) == 30
    np.testing.assert_allclose([s for s, _ in found], [s for s, _ in expected], atol=1e-6)
    shares = [list(all_pairs(embeddings, people, tile=tile, part=part, parts=2)) for part in range(2)]
    assert sum(s.numel() for share in shares for s, _ in share) == 435
    resumed = list(all_pairs(embeddings, people, tile=tile, start=1))
    assert sum(s.numel() for s, _ in resumed) == 435 - tiles[0][0].numel()
    merged = ScoreHistogram()
    for share in shares:
        part = ScoreHistogram()
        for scores, same in share:
            part.add(scores, same)
        merged.merge(part)
    assert merged.genuine.sum() == 30
    assert merged.impostor.sum() == 405
