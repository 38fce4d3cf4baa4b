"""Measurements that would be of something else are refused, or said, and figures of very many pairs are exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import facezoo
import tiny_faces
from facezoo.cli import main
from facezoo.data import DataError
from facezoo.evaluation.all_pairs import count_pairs
from facezoo.evaluation.counts import Counts, auc_of, eer_of
from facezoo.evaluation.gallery import Gallery, GalleryError
from facezoo.evaluation.identification import search_gallery
from facezoo.evaluation.inputs import read_scores, rows_of
from facezoo.evaluation.pairs import pair_scores
from facezoo.weights import save_pretrained


def test_a_missing_embedding_is_not_that_of_another_person() -> None:
    table = torch.eye(2)
    paths = [Path("/data/people/Ann/1.jpg"), Path("/data/people/Ann/2.jpg")]
    with pytest.raises(
        DataError, match=r"Ann/2\.jpg: no embedding has that name, only a file of the same name in another"
    ):
        rows_of(paths, table, ["people/Ann/1.jpg", "people/Bob/2.jpg"])
    for names in (
        ["people/Ann/1.jpg", "people/Ann/2.jpg"],
        ["/moved/Ann/1.jpg", "/moved/Ann/2.jpg"],
        ["1.jpg", "2.jpg"],
    ):
        assert torch.equal(rows_of(paths, table, names), table)


def test_cosines_are_of_unit_length() -> None:
    embeddings = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    left, right = torch.tensor([0, 2]), torch.tensor([1, 3])
    with pytest.raises(ValueError, match=r"must have unit length; that of row 0 is \d.*: normalize them first"):
        pair_scores(embeddings, left, right)
    unit = torch.nn.functional.normalize(embeddings)
    unit[4] = 0
    unit[5] = torch.nan
    assert pair_scores(unit, left, right).abs().max() < 1
    for row, shown in ((4, "0"), (5, "nan")):  # of all pairs every row counts
        with pytest.raises(ValueError, match=f"that of row 0 is {shown}: normalize them first"):
            count_pairs(unit[row:], list("ab")[: 6 - row])


@pytest.mark.parametrize("scale", [1, 2_450_000, 50_000_000_000])
def test_very_many_pairs(scale: int) -> None:
    """Products of two counts that 64 bits do not hold."""
    tp = np.array([0, 2, 4, 7, 9, 10, 10, 10, 10]) * 2_450_000
    fp = np.array([0, 0, 0, 1, 2, 4, 7, 9, 10]) * scale
    counts = Counts(value=np.arange(8, 0, -1) / 8, tp=tp, fp=fp)
    assert eer_of(counts) == pytest.approx(1 / 6, abs=1e-12)
    assert auc_of(counts) == pytest.approx(0.925, abs=1e-12)


def test_lines_of_a_file_of_scores_are_named(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    for text, message in (
        ("score,label\n0.1,0\n\n\n0.9,1\nx,1\n", "line 6: score 'x' is not a number"),
        ("score,label\n0.1,0\nnan,1\n", "line 3: the score is nan"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_scores(file)


def test_an_empty_gallery_says_so() -> None:
    with pytest.raises(GalleryError, match="the gallery is empty: add people first"):
        Gallery.empty(4).threshold(0.1)
    alone = Gallery.empty(4).add({"Ann": torch.eye(4)})
    with pytest.raises(GalleryError, match=r"has 4 photos of 1 people, .* of at least two people are needed"):
        alone.threshold(0.01)
    with pytest.raises(ValueError, match="there are no probes"):
        search_gallery(torch.zeros(0, 4), [], torch.eye(4), list("abcd"))
    with pytest.raises(ValueError, match="the gallery has no templates"):
        search_gallery(torch.eye(4), list("abcd"), torch.zeros(0, 4), [])


@pytest.mark.parametrize(("num_classes", "message"), [(0, "has no class head"), (12, "classes that are not the")])
def test_a_submission_needs_the_folders_classes(num_classes: int, message: str, tmp_path: Path, capsys) -> None:
    faces = tiny_faces.write_faces(tmp_path / "faces")
    head = facezoo.create_margin("linear", embedding_dim=8, num_classes=num_classes) if num_classes else None
    classes = [f"stranger{number:02d}" for number in range(num_classes)]
    model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8)
    save_pretrained(model, tmp_path / "net", card=False, head=head, classes=classes)
    out = tmp_path / "labels.csv"
    command = ["submit", f"local-dir:{tmp_path / 'net'}", str(faces), "--term", "F22", "--task", "classification"]
    assert main([*command, "--out", str(out), "--device", "cpu"]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()
