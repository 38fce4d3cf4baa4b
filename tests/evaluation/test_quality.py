"""Scores of image quality, and whether throwing away what they call bad helps."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

import facezoo
import tiny_faces  # noqa: F401  registers the network
from facezoo.cli import main
from facezoo.evaluation import embed_images, figure_png, plot_discard
from facezoo.evaluation.quality import discard_table, error_versus_discard, image_quality
from facezoo.weights import save_pretrained


def test_scores_of_images_are_those_of_the_embeddings() -> None:
    images = torch.randn(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))

    def network(batch: torch.Tensor) -> torch.Tensor:
        return batch.flatten(1)[:, :20] * 3

    found = image_quality(network, images, batch_size=3)
    plain, mirrored = network(images).double(), network(images.flip(-1)).double()
    assert torch.allclose(found.norm.double(), plain.norm(dim=1))
    cosines = (plain * mirrored).sum(dim=1) / (plain.norm(dim=1) * mirrored.norm(dim=1))
    assert torch.allclose(found.flip_consistency.double(), cosines)
    left, right = torch.tensor([0, 1, 6]), torch.tensor([2, 2, 5])
    of_pairs = found.of_pairs(left, right)
    for name, values in (("feature norm", found.norm), ("flip consistency", found.flip_consistency)):
        assert of_pairs[name].tolist() == [
            min(float(values[a]), float(values[b])) for a, b in zip(left, right, strict=True)
        ]
    both = torch.nn.functional.normalize(torch.cat([plain, mirrored], dim=1), dim=1)
    assert torch.allclose(embed_images(network, images, flip="concat").double(), both)


def test_a_curve_of_eight_pairs_by_hand() -> None:
    scores = np.array([0.9, 0.1, 0.8, 0.7, 0.2, 0.3, 0.1, 0.0])
    labels = np.array([1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
    quality = np.array([5, 0, 4, 4, 3, 3, 3, 3.0])
    curve = error_versus_discard(scores, labels, quality, far=0.25, steps=4)
    assert curve.discarded.tolist() == pytest.approx([0, 0.3, 0.6, 0.9])
    assert curve.frr.tolist() == [0.25, 0.0, 0.0, 0.0]  # 0, 2, 5 and 7 pairs of the eight are gone
    assert curve.low[0] < 0.25 < curve.high[0]
    assert 0.2 < curve.threshold <= 0.3
    assert curve.area == pytest.approx(0.25 * 0.3 / 2 / 0.9)
    worst_last = error_versus_discard(scores, labels, -quality, far=0.25, steps=4)
    assert worst_last.frr.tolist() == [0.25, pytest.approx(1 / 2), 1.0, 1.0]
    assert worst_last.area > 0.25
    assert json.loads(json.dumps(curve.to_dict()))["area"] == curve.area
    table = discard_table({"one": curve, "other": worst_last})
    assert "30 %         0.00" in table
    assert table.splitlines()[-1].startswith("mean")


@pytest.mark.parametrize("seed", range(5))
def test_curves_equal_direct_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.random(300) < 0.3
    scores, quality = rng.normal(labels, 0.5).round(1), rng.integers(0, 6, 300)
    curve = error_versus_discard(scores, labels, quality, far=0.05)
    false = sorted(scores[~labels])[::-1]
    assert sum(score >= curve.threshold for score in false) <= 0.05 * len(false)
    for share, frr in zip(np.linspace(0, 0.9, 10), curve.frr, strict=True):
        left, missed, own = 300 - round(share * 300), Fraction(0), Fraction(0)
        for worth in range(5, -1, -1):  # the best first, the last of them in part
            pairs = [pair for pair in range(300) if quality[pair] == worth]
            part = Fraction(min(left, len(pairs)), len(pairs))
            left -= min(left, len(pairs))
            own += part * sum(bool(labels[pair]) for pair in pairs)
            missed += part * sum(bool(labels[pair]) and scores[pair] < curve.threshold for pair in pairs)
        assert frr == pytest.approx(float(missed / own), rel=1e-12)


def test_pairs_of_equal_quality_are_thrown_away_alike() -> None:
    rng = np.random.default_rng(0)
    labels, scores = rng.random(200) < 0.5, rng.normal(size=200)
    quality = rng.integers(0, 4, 200)
    curve = error_versus_discard(scores, labels, quality, far=0.1)
    for order in (np.arange(200)[::-1], np.argsort(scores), rng.permutation(200)):
        again = error_versus_discard(scores[order], labels[order], quality[order], far=0.1)
        for name in ("frr", "low", "high"):
            assert getattr(again, name).tolist() == getattr(curve, name).tolist()
    flat = error_versus_discard(scores, labels, np.ones(200), far=0.1)  # it knows nothing of the images
    assert flat.frr.tolist() == pytest.approx([flat.frr[0]] * 10)


def test_a_genuine_pair_at_the_threshold_is_accepted() -> None:
    above = float(np.nextafter(0.5, 1))  # no number lies between the two, so it is the threshold itself
    curve = error_versus_discard([above, 0.5, 0.9], [1, 0, 0], [1, 1, 1], far=0.5, steps=2)
    assert curve.threshold == above
    assert curve.frr[0] == 0.0


def test_no_genuine_pair_left_is_no_rate() -> None:
    curve = error_versus_discard([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0], [0, 0, 1, 1], far=0.5, steps=3)
    assert np.isnan(curve.frr[-1])
    assert curve.to_dict()["frr"][-1] is None
    assert math.isnan(curve.area)  # of one point
    assert "none left" in discard_table({"x": curve})


@pytest.mark.parametrize(
    ("quality", "options", "message"),
    [
        ([1, 2, 3], {}, "one finite number per pair"),
        ([1, 2, 3, math.nan], {}, "1 that are not finite"),
        ([1, 2, 3, 4], {"far": 0.01}, "FAR 0.01 is not resolvable from 2 impostor pairs; 100 are needed"),
        ([1, 2, 3, 4], {"far": 0.5, "steps": 1}, "at least 2"),
    ],
)
def test_errors_say_what_is_wrong(quality, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        error_versus_discard([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0], quality, **{"far": 0.5, **options})


def test_the_plot_has_a_line_and_a_band_for_each() -> None:
    pytest.importorskip("matplotlib")
    curve = error_versus_discard([0.9, 0.8, 0.1, 0.2], [1, 1, 0, 0], [1, 2, 3, 4], far=0.5)
    axes = plot_discard({"a": curve, "b": curve}).axes[0]
    assert [line.get_label() for line in axes.get_lines()] == ["a", "b"]
    assert len(axes.collections) == 2
    with pytest.raises(ValueError, match="no curves"):
        plot_discard({})
    names = [f"local-dir:{'/a_long_folder' * 12}/{net}: feature norm" for net in ("one", "other")]
    figure = plot_discard(dict.fromkeys(names, curve))
    assert figure_png(figure)  # warns where the legend leaves no room
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert [text[-18:] for text in shown] == ["/one: feature norm", "ther: feature norm"]
    assert {len(text) for text in shown} == {44}


def test_the_command_shows_which_score_finds_bad_images(tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    lines = []
    for person in range(10):
        pattern = rng.integers(20, 235, (4, 4, 3)).repeat(4, axis=0).repeat(4, axis=1)
        for photo in range(3):
            picture = (pattern + rng.normal(0, 4, (16, 16, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / f"p{person}_{photo}.png")
        lines += [f"p{person}_0.png p{person}_1.png 1", f"p{person}_0.png p{person}_2.png 1"]
        lines += [f"p{person}_{photo}.png p{(person + 1 + photo) % 10}_{photo}.png 0" for photo in range(2)]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    torch.manual_seed(0)
    save_pretrained(facezoo.create_model("tiny_face", img_size=16, embedding_dim=8), tmp_path / "net", card=False)
    net, pairs = f"local-dir:{tmp_path / 'net'}", tmp_path / "pairs.txt"
    assert main(["evaluate", net, "--pairs", str(pairs), "--quality", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["feature norm", "flip consistency", "by lot"]
    assert len({entry["frr"][0] for entry in found.values()}) == 1  # nothing thrown away: the same
    assert found["by lot"]["far"] == 0.1
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plot.png"
    torch.manual_seed(1)
    save_pretrained(facezoo.create_model("tiny_face", img_size=16, embedding_dim=8), tmp_path / "other", card=False)
    several = ["--against", f"local-dir:{tmp_path / 'other'}", "--plot", str(picture), "--flip", "sum"]
    assert main(["evaluate", net, "--pairs", str(pairs), "--quality", *several, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("thrown away  ") == 2
    assert picture.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "unlabeled.txt").write_text("p0_0.png p0_1.png\n")
    assert main(["evaluate", net, "--pairs", str(tmp_path / "unlabeled.txt"), "--quality"]) == 2
    assert "has no labels" in capsys.readouterr().err
