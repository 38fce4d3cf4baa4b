"""Streamed figures equal those of all scores in memory; binned ones are at most one bin away."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from facezoo.cli import main
from facezoo.evaluation import all_pairs as module
from facezoo.evaluation import verification_metrics
from facezoo.evaluation.all_pairs import all_pairs, count_pairs
from facezoo.evaluation.streaming import ScoreHistogram, streamed_figures
from ranks import free_port, start_ranks

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
    people = torch.arange(30)[torch.randperm(30, generator=torch.Generator().manual_seed(1))] // 3
    row, column = torch.triu_indices(30, 30, 1)
    expected = sorted(
        zip((embeddings @ embeddings.T)[row, column].tolist(), (people[row] == people[column]).tolist(), strict=True)
    )
    tiles = list(all_pairs(embeddings, people, tile=tile))
    found = []
    for scores, same in tiles:
        genuine = torch.zeros(scores.numel(), dtype=torch.bool)
        genuine[same] = True
        assert int(genuine.sum()) == len(same)
        found += zip(scores.flatten().tolist(), genuine.tolist(), strict=True)
    found.sort()
    assert len(found) == 435
    assert [g for _, g in found].count(True) == 30
    np.testing.assert_allclose([s for s, _ in found], [s for s, _ in expected], atol=1e-6)
    for kind in (True, False):
        np.testing.assert_allclose([s for s, g in found if g is kind], [s for s, g in expected if g is kind], atol=1e-6)
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
    for part in range(2):
        own = count_pairs(embeddings, people, tile=tile, part=part, parts=2)
        expected_part = ScoreHistogram()
        for scores, same in shares[part]:
            expected_part.add(scores, same)
        assert np.array_equal(own.genuine, expected_part.genuine)
        assert np.array_equal(own.impostor, expected_part.impostor)


def some_people(count: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    people = torch.arange(count)[torch.randperm(count, generator=generator)] // 4
    rows = torch.randn(count, 6, generator=generator) + 2 * torch.randn(count, 6, generator=generator)[people]
    return torch.nn.functional.normalize(rows, dim=1), people


@pytest.mark.parametrize("tile", [7, 40, 64])
def test_figures_of_all_pairs_are_those_in_memory(tile: int) -> None:
    unit, people = some_people()
    unit[5] = unit[4]  # a cosine of one, the upper edge of the last bin
    row, column = torch.triu_indices(40, 40, 1)
    # The scores of the same tiles: a product of other shapes rounds otherwise.
    scores = torch.cat([s.flatten() for s, _ in all_pairs(unit, people, tile=tile)])
    genuine = torch.zeros(len(scores), dtype=torch.bool)
    place = 0
    for tile_scores, same in all_pairs(unit, people, tile=tile):
        genuine[place + same] = True
        place += tile_scores.numel()
    assert int(genuine.sum()) == int((people[row] == people[column]).sum())
    expected = verification_metrics(scores, genuine, fars=(0.1, 0.01), bootstrap=0)
    second = lambda: all_pairs(unit, people, tile=tile, reuse=True)  # noqa: E731
    found = streamed_figures(second, fars=(0.1, 0.01), histogram=count_pairs(unit, people, tile=tile))
    assert (found.eer, found.tar_at_far) == (expected.eer, expected.tar_at_far)
    assert found.num_impostor == expected.num_impostor


def test_a_count_goes_on_where_it_ended(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, people = some_people()
    whole = count_pairs(unit, people, tile=8)
    monkeypatch.setattr(module, "_SAVE_EVERY", 0.0)
    file, add = tmp_path / "counts.npz", ScoreHistogram.add
    calls: list[int] = []

    def interrupted(*arguments: object, **options: object) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        add(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ScoreHistogram, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        count_pairs(unit, people, tile=8, resume=file)
    found = count_pairs(unit, people, tile=8, resume=file, progress=True)
    assert len(calls) == 6 + 10  # 15 tiles, five of them counted before
    assert np.array_equal(found.genuine, whole.genuine)
    assert np.array_equal(found.impostor, whole.impostor)
    again = count_pairs(unit, people, tile=8, resume=file)
    assert len(calls) == 16
    assert np.array_equal(again.impostor, whole.impostor)
    with pytest.raises(ValueError, match=r"counts.npz belongs to other embeddings, people or tiles"):
        count_pairs(unit, people.flip(0), tile=8, resume=file)
    file.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"counts.npz holds no counts of pairs"):
        count_pairs(unit, people, tile=8, resume=file)


def test_embeddings_of_all_pairs_have_unit_length() -> None:
    unit, people = some_people()
    for wrong in (2.0, math.nan, math.inf):
        rows = unit.clone()
        rows[3] *= wrong
        with pytest.raises(ValueError, match="that of row 3 is"):
            count_pairs(rows, people)
    rough = unit * 1.005  # of lower precision, say: scores up to 1.01 are counted in the last bin
    same = torch.cat([rough[:1], rough])
    assert count_pairs(same, torch.arange(41)).impostor[-1] == 1
    assert count_pairs(rough, people).genuine.sum() == 60
    tracked = unit.clone().requires_grad_()
    assert count_pairs(tracked, people).genuine.sum() == 60


def _share_of_a_rank(rank: int, count: int, port: int, folder: str) -> None:
    embeddings, people = more_people()
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    counts = ScoreHistogram(bins=8)  # so few that scores of both kinds are looked at again
    for scores, same in all_pairs(embeddings, people, tile=16, part=rank, parts=count):
        counts.add(scores, same)
    found = streamed_figures(
        lambda: all_pairs(embeddings, people, tile=16, part=rank, parts=count, reuse=True),
        fars=FARS,
        histogram=counts,
        over_ranks=True,
    )
    torch.save(found.to_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def more_people() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    people = torch.arange(90) // 3
    rows = torch.randn(30, 8, generator=generator)[people] + torch.randn(90, 8, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1), people


@pytest.mark.ci
def test_two_ranks_give_the_figures_of_one(tmp_path) -> None:
    embeddings, people = more_people()
    whole = streamed_figures(
        lambda: all_pairs(embeddings, people, tile=16), fars=FARS, histogram=count_pairs(embeddings, people, tile=16)
    )
    start_ranks(_share_of_a_rank, (2, free_port(), str(tmp_path)), 2)
    for rank in range(2):
        got, expected = torch.load(tmp_path / f"{rank}.pt"), whole.to_dict()
        for name in ("eer", "tar_at_far", "threshold_at_far", "num_genuine", "num_impostor"):
            assert got[name] == expected[name]
    assert whole.num_genuine + whole.num_impostor == 90 * 89 // 2
    alone = streamed_figures(lambda: all_pairs(embeddings, people, tile=16), fars=FARS, over_ranks=True)
    assert alone == whole


@pytest.mark.parametrize("layout", ["{person}/{photo}.jpg", "all/{person}_{photo:04d}.jpg", "{person}_{photo}.jpg"])
def test_the_command_compares_all_images_of_a_file(layout: str, tmp_path, capsys) -> None:
    embeddings, people = more_people()
    names = [layout.format(person=f"Ann_{who}", photo=row) for row, who in enumerate(people.tolist())]
    file = tmp_path / "e.npz"
    np.savez(file, embeddings=embeddings.numpy() * 5, names=np.array(names))
    counts = tmp_path / "counts.npz"
    command = ["evaluate", str(file), "--all-pairs", "--device", "cpu", "--resume", str(counts)]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first, second = torch.triu_indices(90, 90, 1)
    scores = (embeddings @ embeddings.T)[first, second]
    expected = verification_metrics(scores, people[first] == people[second], fars=[0.1, 0.01], bootstrap=0)
    assert (found["images"], found["people"]) == (90, 30)
    assert found["people_by"] == ("folder" if layout.startswith("{person}/") else "file name")
    assert found["eer"] == pytest.approx(expected.eer, abs=1e-3)  # another product's rounding may swap neighbors
    assert found["tar_at_far"]["0.1"] == pytest.approx(expected.tar_at_far[0.1], abs=0.03)
    assert found["tar_at_far"]["1e-06"] is None
    assert counts.is_file()
    assert main(command) == 0  # goes on where it ended: nothing is left to count
    text = capsys.readouterr().out
    assert "90 images of 30 people" in text
    assert f"EER             {found['eer'] * 100:.0f} %" in text  # 90 genuine pairs resolve no more
    assert "no intervals" in text
    assert main(["evaluate", str(file), "--resume", str(counts)]) == 2
    assert "--all-pairs goes with a file of embeddings" in capsys.readouterr().err
    np.savez(file, embeddings=embeddings.numpy(), names=np.array([f"{row}.jpg" for row in range(90)]))
    assert main(["evaluate", str(file), "--all-pairs"]) == 2
    assert "do not say who is on the images" in capsys.readouterr().err
