"""Search of galleries against direct enumeration."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from facezoo.evaluation import search
from facezoo.evaluation.gallery import Gallery, GalleryError, rows_by_person
from facezoo.evaluation.identification import (
    Searches,
    identification_metrics,
    search_gallery,
    threshold_at_fpir,
)
from facezoo.evaluation.search import nearest, search_recall


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("block", [1 << 24, 70, 7])
def test_blocks_give_the_nearest_in_order(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_BLOCK_SCORES", block)
    probes, templates = unit(9, 4), unit(37, 4, seed=1)
    templates[20] = templates[3]  # equal scores come in the order of the templates
    scores, rows = nearest(probes, templates, k)
    full = (probes @ templates.T).numpy()
    for probe in range(9):
        order = sorted(range(37), key=lambda row, probe=probe: (-round(float(full[probe, row]), 6), row))[: min(k, 37)]
        assert rows[probe].tolist() == order
        np.testing.assert_allclose(scores[probe].numpy(), full[probe, order], rtol=0, atol=1e-6)


def test_a_block_full_of_better_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_BLOCK_SCORES", 100)
    angles = torch.linspace(1.5, 0, 300)
    scores, rows = nearest(torch.tensor([[1.0, 0.0]]), torch.stack([angles.cos(), angles.sin()], dim=1), 3)
    assert rows.tolist() == [[299, 298, 297]]
    assert scores[0].tolist() == pytest.approx(angles[[299, 298, 297]].cos().tolist())


def test_equal_scores_at_the_border_are_taken_in_order() -> None:
    templates = torch.tensor([[1.0, 0.0]]).repeat(6, 1)
    assert nearest(torch.tensor([[1.0, 0.0]]), templates, 3)[1].tolist() == [[0, 1, 2]]


def test_search_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="k is at least 1"):
        nearest(unit(2, 3), unit(2, 3), 0)
    with pytest.raises(ValueError, match="engine is 'exact' or 'faiss'"):
        nearest(unit(2, 3), unit(2, 3), 1, engine="near")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(P, D\) and \(G, D\)"):
        nearest(unit(2, 3), unit(2, 4))


def test_faiss_finds_nearly_all() -> None:
    pytest.importorskip("faiss")
    assert search_recall(unit(50, 16), unit(2000, 16, seed=2), 5) > 0.9


def direct(scores: np.ndarray, probe: list[str], gallery: list[str], fpir: float) -> tuple[list[int], float]:
    """Ranks of mated probes and TPIR at a FPIR, by counting."""
    ranks, own, strangers = [], [], []
    for row, name in enumerate(probe):
        mine = [scores[row, col] for col, other in enumerate(gallery) if other == name]
        others = [scores[row, col] for col, other in enumerate(gallery) if other != name]
        if mine:
            ranks.append(1 + sum(score >= max(mine) for score in others))
            own.append(max(mine))
        else:
            strangers.append(max(others))
    best = 0.0
    for threshold in np.unique([*own, *strangers, 9.0]):
        if sum(score >= threshold for score in strangers) / len(strangers) <= fpir:
            best = max(best, sum(r == 1 and s >= threshold for r, s in zip(ranks, own, strict=True)) / len(own))
    return ranks, best


@pytest.mark.parametrize("seed", range(6))
def test_figures_equal_direct_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    people = [f"p{index}" for index in range(8)]
    gallery = [*people[:5], *people[:2]]  # two of them with two templates
    probe = [people[index] for index in rng.integers(0, 8, 40)]
    centers = unit(8, 6, seed=seed)
    templates = torch.nn.functional.normalize(centers[[0, 1, 2, 3, 4, 0, 1]] + 0.3 * unit(7, 6, seed=seed + 10), dim=1)
    rows = centers[[int(name[1]) for name in probe]] + 0.7 * unit(40, 6, seed=seed + 20)
    probes = torch.nn.functional.normalize(rows, dim=1)
    searches = search_gallery(probes, probe, templates, gallery)
    fpirs = [0.1, 0.3]
    metrics = identification_metrics(searches, ranks=(1, 2, 5), fpirs=fpirs, bootstrap=50)
    scores = (probes @ templates.T).numpy().astype(np.float64)
    for fpir in fpirs:
        ranks, tpir = direct(scores, probe, gallery, fpir)
        assert searches.mated_ranks.tolist() == ranks
        if fpir * metrics.num_nonmated >= 1:
            assert metrics.tpir_at_fpir[fpir] == pytest.approx(tpir)
            limit = metrics.threshold_at_fpir[fpir]
            rates = searches.at_threshold(limit, bootstrap=20)
            assert rates.fpir <= fpir
            assert rates.tpir == pytest.approx(tpir)
            low, high = metrics.tpir_at_fpir_interval[fpir]
            assert low <= tpir <= high
    for k in (1, 2, 5):
        assert metrics.rank[k] == pytest.approx(np.mean([rank <= k for rank in ranks]))
    assert metrics.num_mated + metrics.num_nonmated == 40


def test_the_threshold_lies_just_above_the_first_too_many() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.3, 0.2])
    assert threshold_at_fpir(scores, 0.4) == pytest.approx(0.3, abs=1e-6)
    assert threshold_at_fpir(scores, 0.4) > 0.3
    assert threshold_at_fpir(scores, 0.2) > 0.5  # the two at 0.5 come together
    assert math.isnan(threshold_at_fpir(scores, 0.19))
    assert threshold_at_fpir(scores, 1.0) == -math.inf
    assert math.isnan(threshold_at_fpir(np.zeros(0), 0.5))


def test_what_strangers_do_not_resolve_is_not_given() -> None:
    people = np.array(["a", "b"])
    searches = Searches(np.array([1, 2]), np.array([0.9, 0.2]), np.array([0.4] * 5), people, np.array(["s"] * 5), 3)
    metrics = identification_metrics(searches, fpirs=[0.1, 0.5], bootstrap=20)
    assert math.isnan(metrics.tpir_at_fpir[0.1])
    assert "needs 10 non-mated probes" in str(metrics)
    assert metrics.to_dict()["tpir_at_fpir"]["0.1"] is None
    with pytest.raises(ValueError, match="there are no probes"):
        identification_metrics(Searches(*[np.zeros(0)] * 5, gallery_size=1))
    with pytest.raises(ValueError, match="ranks are at least 1"):
        identification_metrics(searches, ranks=(0,))


def small_gallery() -> tuple[Gallery, torch.Tensor, list[str]]:
    centers = unit(6, 8, seed=3)
    rows = centers.repeat_interleave(5, dim=0) + 0.25 * unit(30, 8, seed=4)
    rows = torch.nn.functional.normalize(rows, dim=1)
    names = [f"p{index // 5}" for index in range(30)]
    return Gallery.empty(8, source="net", flip="sum").add(rows_by_person(rows, names)), rows, names


def test_people_come_and_go() -> None:
    gallery, rows, _ = small_gallery()
    assert gallery.names == tuple(f"p{index}" for index in range(6))
    assert gallery.counts.tolist() == [5] * 6
    torch.testing.assert_close(gallery.means[2], rows[10:15].mean(dim=0))
    without = gallery.remove("p2")
    assert without.names == ("p0", "p1", "p3", "p4", "p5")
    assert sorted(set(without.owners.tolist())) == [0, 1, 2, 3, 4]
    assert len(without.probes) == 25
    torch.testing.assert_close(without.probes[without.owners == 2], rows[15:20])
    again = without.add({"p2": rows[10:12]}).add({"p2": rows[12:15]})
    assert again.counts.tolist() == [5] * 6
    torch.testing.assert_close(again.means[5], gallery.means[2])
    with pytest.raises(GalleryError, match="'nobody' is not in the gallery of 6 people"):
        gallery.remove("nobody")
    with pytest.raises(GalleryError, match=r"x: embeddings are \(n, 8\)"):
        gallery.add({"x": torch.zeros(2, 7)})


def test_own_searches_leave_the_person_and_the_photo_out() -> None:
    gallery, rows, _ = small_gallery()
    strangers, mated = gallery.own_searches()
    for photo in range(30):
        person = photo // 5
        others = [float(rows[photo] @ gallery.templates[other]) for other in range(6) if other != person]
        assert strangers[photo] == pytest.approx(max(others), abs=1e-5)
        rest = [index for index in range(person * 5, person * 5 + 5) if index != photo]
        template = torch.nn.functional.normalize(rows[rest].mean(dim=0), dim=0)
        assert mated[photo] == pytest.approx(float(rows[photo] @ template), abs=1e-5)


def test_no_error_seen_has_the_binomial_bound() -> None:
    people = np.array([f"p{number}" for number in range(20)])
    searches = Searches(np.ones(20, dtype=np.int64), np.full(20, 0.9), np.full(20, 0.1), people, people, 5)
    found = identification_metrics(searches, ranks=[1], fpirs=[0.1], bootstrap=20)
    assert found.rank_interval[1] == (pytest.approx(0.025 ** (1 / 20)), 1.0)
    rates = searches.at_threshold(0.5, bootstrap=20)
    assert rates.fpir_interval == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_a_mated_probe_at_the_threshold_is_named() -> None:
    strangers = np.float32([0.5, 0.4])
    limit = threshold_at_fpir(strangers.astype(np.float64), 0.1, np.array([9, 9]))
    assert limit == np.nextafter(np.float32(0.5), np.float32(1))
    searches = Searches(
        np.ones(1, dtype=np.int64), np.array([limit]), np.repeat(0.5, 10), np.array(["a"]), np.array(["b"] * 10), 1
    )
    assert identification_metrics(searches, fpirs=[0.1], bootstrap=0).tpir_at_fpir[0.1] == 1.0


def test_a_person_of_one_photo_has_no_search_of_its_own() -> None:
    gallery, rows, _ = small_gallery()
    more = gallery.add({"single": -rows[:1]})
    assert [len(scores) for scores in gallery.own_searches()] == [30, 30]
    assert [len(scores) for scores in more.own_searches()] == [31, 30]


def test_too_few_searches_of_known_people_give_no_probability() -> None:
    rows = torch.nn.functional.normalize(torch.randn(14, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    gallery = Gallery.empty(8).add({f"p{row}": rows[row : row + 1] for row in range(14)})
    answer = gallery.identify(rows[:1], threshold=0.5)[0]
    assert answer.name == "p0"
    assert answer.candidates[0].probability is None


@pytest.mark.parametrize("fpir", [0.0, 1.0, -0.1, float("nan")])
def test_a_rate_of_strangers_is_a_fraction(fpir: float) -> None:
    with pytest.raises(GalleryError, match="an FPIR is a fraction in"):
        small_gallery()[0].threshold(fpir)


def test_identify_names_the_nearest_or_nobody() -> None:
    gallery, rows, _ = small_gallery()
    limit = gallery.threshold(0.1)
    strangers, _ = gallery.own_searches()
    assert np.mean(strangers >= limit) <= 0.1
    stranger = torch.nn.functional.normalize(-gallery.templates.sum(dim=0, keepdim=True), dim=1)
    first, second = gallery.identify(torch.cat([rows[7:8], stranger]), top=2, fpir=0.1)
    assert first.name == "p1"
    assert first.candidates[0].name == "p1"
    assert len(first.candidates) == 2
    assert first.candidates[0].probability > 0.9 > 0.5 > second.candidates[0].probability
    assert second.name is None
    likely, unlikely = (
        gallery.identify(rows[7:8], prior=p, fpir=0.1)[0].candidates[0].probability for p in (0.9, 0.01)
    )
    assert likely > unlikely
    exactly = first.candidates[0].cosine
    assert gallery.identify(rows[7:8], threshold=exactly)[0].name == "p1"
    assert (
        gallery.identify(rows[7:8], threshold=float(np.nextafter(np.float32(exactly), np.float32(2))))[0].name is None
    )
    with pytest.raises(GalleryError, match=r"FPIR 0.01 is not resolvable: .* 30 photos of 6 people, 100 photos"):
        gallery.identify(rows[:1])
    with pytest.raises(GalleryError, match="the gallery is empty"):
        Gallery.empty(8).identify(rows[:1])


def test_galleries_are_kept_and_damaged_ones_refused(tmp_path) -> None:
    gallery, rows, _ = small_gallery()
    path = tmp_path / "g.safetensors"
    gallery.save(path)
    again = Gallery.load(path)
    assert (again.names, again.source, again.flip) == (gallery.names, "net", "sum")
    assert torch.equal(again.templates, gallery.templates)
    assert again.identify(rows[3:4], fpir=0.1) == gallery.identify(rows[3:4], fpir=0.1)
    for damage in (
        b"",
        b"x" * 50,
        path.read_bytes()[:-7],
        path.read_bytes().replace(b"facezoo-gallery", b"facezoo-gallerx"),
    ):
        (tmp_path / "broken").write_bytes(damage)
        with pytest.raises(GalleryError, match="broken is not a valid gallery"):
            Gallery.load(tmp_path / "broken")
    with pytest.raises(FileNotFoundError, match="facezoo gallery build makes one"):
        Gallery.load(tmp_path / "none")
    for change in ({"owners": gallery.owners + 3}, {"names": gallery.names[:-1]}, {"means": gallery.means * math.nan}):
        values = {**gallery.__dict__, **change}
        with pytest.raises(GalleryError):
            Gallery(**values)


def test_a_person_without_photos_is_no_gallery() -> None:
    gallery, _, _ = small_gallery()
    for count in (0, -1):
        with pytest.raises(GalleryError, match="a person of the gallery has no photo"):
            dataclasses.replace(gallery, counts=torch.tensor([5, 5, count, 5, 5, 5]))


def test_only_some_photos_are_kept_of_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    from facezoo.evaluation import gallery as module

    monkeypatch.setattr(module, "_MOST_PROBES", 12)
    gallery, _, _ = small_gallery()
    assert len(gallery.probes) == 12
    assert gallery.counts.tolist() == [5] * 6
    assert set(gallery.owners.tolist()) == set(range(6))


def test_ties_count_against_a_mated_probe_and_a_threshold_is_reached_by_its_equal() -> None:
    axis, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    searches = search_gallery(torch.cat([axis, other]), ["ann", "stranger"], torch.cat([axis, axis]), ["ann", "bo"])
    assert searches.mated_ranks.tolist() == [2]  # Bo's template scores as high as her own
    reached = searches.at_threshold(0.0, bootstrap=0)
    assert (reached.fpir, reached.tpir) == (1.0, 0.0)
    assert searches.at_threshold(1e-6, bootstrap=0).fpir == 0.0
