"""Measurements that would be of something else are refused, or said, and figures of very many pairs are exact."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch

import facezoo
import tiny_faces
from facezoo.cli import main
from facezoo.cli.effects import EFFECTS, refuse_options_without_effect
from facezoo.cli.evaluate import add_evaluate
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


@pytest.fixture
def evaluate_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The options of ``facezoo evaluate``, in a folder with a file of embeddings, e.npz."""
    monkeypatch.chdir(tmp_path)
    np.savez("e.npz", embeddings=np.eye(2, dtype=np.float32), names=np.array(["a.png", "b.png"]))
    parser = argparse.ArgumentParser()
    add_evaluate(parser)
    return parser


@pytest.mark.parametrize(
    ("command", "option", "asked"),
    [
        ("e.npz --pairs p.txt --report r", "--report", "a file of embeddings"),
        ("e.npz --pairs p.txt --flip sum", "--flip", "a file of embeddings"),
        ("e.npz --pairs p.txt --out s.csv --batch-size 4", "--batch-size", "--out and a file of embeddings"),
        ("e.npz --pairs p.txt --plot p.png", "--plot", "a file of embeddings"),
        ("e.npz --pairs p.txt --device cpu", "--device cpu", "a file of embeddings"),
        ("e.npz --all-pairs --pairs p.txt", "--pairs", "--all-pairs and a file of embeddings"),
        ("e.npz --all-pairs --num-workers 2", "--num-workers", "--all-pairs and a file of embeddings"),
        ("net.onnx --pairs p.txt --device cuda", "--device", "an exported network"),
        ("net.onnx --pairs p.txt --model iresnet50", "--model", "an exported network"),
        ("net faces --pairs p.txt", "DATA", "--pairs"),
        ("net faces --pairs p.txt --quality", "DATA", "--quality"),
        ("net --pairs p.txt --split test", "--split", "--pairs"),
        ("net --pairs p.txt --protocol accuracy", "--protocol accuracy", "--pairs"),
        ("net --pairs p.txt --plot p.png", "--plot", "--pairs"),
        ("net --pairs p.txt --robustness --quality", "--quality", "--robustness"),
        ("net --pairs p.txt --robustness --out s.csv", "--out", "--robustness"),
        ("net --pairs p.txt --quality --report r", "--report", "--quality"),
        ("net --pairs p.txt --against other --report r", "--report", "--against"),
        ("net faces --image-root faces", "--image-root", "a data folder"),
        ("net faces --protocol lfw", "--protocol lfw", "a data folder"),
        ("net faces --protocol pairs --split test", "--split", "the pairs of a data folder"),
        ("net faces --protocol accuracy --flip sum", "--flip", "the accuracy on a data folder"),
        ("net faces --suite s", "DATA", "--suite"),
        ("net --suite s --pairs p.txt", "--pairs", "--suite"),
        ("net --scores s.csv", "NETWORK", "--scores"),
        ("--scores s.csv --embedding-dim 8", "--embedding-dim", "--scores"),
        ("--scores s.csv --device cpu", "--device cpu", "--scores"),
    ],
)
def test_options_without_effect_are_named(
    command: str, option: str, asked: str, evaluate_options: argparse.ArgumentParser, capsys
) -> None:
    assert main(["evaluate", *command.split()]) == 2
    assert f"error: {option} has no effect with {asked}: leave it out; it goes with " in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        "net faces --flip sum --report r --split test --batch-size 4 --num-workers 2 --device cuda",
        "net faces --protocol accuracy --report r --model iresnet50 --crop 0,8,112,104",
        "net faces --protocol pairs --flip sum",
        "net --pairs p.txt --image-root i --protocol lfw --flip concat --report r --pretrained x",
        "net --pairs p.txt --quality --against other --plot p.png --flip sum --protocol pairs",
        "net --pairs p.txt --robustness --against other --plot p.png --batch-size 2",
        "net --pairs p.txt --against other --out s.csv --image-root i",
        "e.npz --pairs p.txt --against net --flip sum --device cuda --num-workers 2",
        "e.npz --pairs p.txt --against e.npz",
        "e.npz --all-pairs --resume c.npz --device cuda",
        "net.onnx --pairs p.txt --flip sum --batch-size 4 --device cpu",
        "net --suite s --flip sum --device cuda",
        "--scores s.csv",
    ],
)
def test_options_with_an_effect_are_taken(command: str, evaluate_options: argparse.ArgumentParser) -> None:
    refuse_options_without_effect(evaluate_options.parse_args(command.split()), evaluate_options)


def test_of_every_option_it_is_known_what_it_goes_with(evaluate_options: argparse.ArgumentParser) -> None:
    names = {(action.option_strings or [action.dest.upper()])[-1] for action in evaluate_options._actions}
    assert names - {"--help"} == {name.partition(" ")[0] for name in EFFECTS}
    protocols = next(action.choices for action in evaluate_options._actions if action.dest == "protocol")
    assert {f"--protocol {name}" for name in protocols or ()} - {"--protocol auto"} <= EFFECTS.keys()
