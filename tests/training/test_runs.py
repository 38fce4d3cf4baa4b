"""Pages about runs: what they show is what was measured, and they stand alone."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from facezoo.cli import main
from facezoo.evaluation import evaluate_pairs
from facezoo.training import Trainer, load_trained
from facezoo.training.run_comparison import compare_runs, figures_table, mean_interval, read_group
from facezoo.training.run_report import write_run_report


@pytest.fixture
def run(config, tmp_path):
    own = config(out=str(tmp_path / "mine"), augment="light", augment_late_options={"crop_padding": 2})
    return Trainer(own).fit().folder


def stands_alone(page: str) -> None:
    assert re.findall(r'(?:src|href|srcset)="(?!data:image/)', page) == []
    assert "<script" not in page
    assert page.count("<table") == page.count("</table")


def test_every_epoch_has_its_validation_loss_and_score(config):
    row = Trainer(config(margin="linear", margin_options={})).fit().history[-1]
    assert row["combined"] == pytest.approx(0.5 * row["dev_accuracy"] + 0.5 * (1 - row["eer"]))
    assert 0 < row["dev_loss"] < 2 * math.log(5) + 5


def test_the_page_of_a_run(run, config, capsys):
    assert main(["report", str(run), "--quiet"]) == 0
    assert "report.html: open it in a browser" in capsys.readouterr().out
    page = (run / "report.html").read_text()
    stands_alone(page)
    for heading in ("Training", "First batch", "Verification", "Thresholds", "Hardest pairs", "Identities", "Settings"):
        assert f">{heading}" in page, heading
    assert "Augmentation: light. Later also crop_padding 2." in page
    assert page.count('prefers-color-scheme: dark)" srcset') == page.count("<picture>") >= 6
    data = Trainer(config(out=str(run.parent / "other"))).data
    metrics = evaluate_pairs(load_trained(run).model, data.val_pairs, fars=(1e-1,)).metrics
    if math.isfinite(metrics.tar_at_far[1e-1]):
        assert repr(metrics.threshold_at_far[1e-1]) in page  # with all its digits
    else:
        assert "needs 10 impostor pairs" in page


def test_a_run_whose_data_has_gone_still_has_a_page(run, tmp_path):
    path = write_run_report(run, data=tmp_path / "nowhere", out=tmp_path / "page.html")
    page = path.read_text()
    stands_alone(page)
    assert "nothing more to show" in page
    assert "Figures after each epoch" in page


def test_what_is_no_run_is_said(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "is not a run and holds none of several seeds" in capsys.readouterr().err


def test_mean_and_interval_against_known_values():
    mean, half = mean_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.303 / math.sqrt(3), rel=1e-9)  # deviation 1, two degrees of freedom
    assert math.isnan(mean_interval([1.0])[1])
    stats = pytest.importorskip("scipy.stats")
    for count in range(2, 60):
        _, half = mean_interval([(-1.0) ** index for index in range(count)])
        deviation = math.sqrt(count / (count - 1) * (1 - (count % 2) / count**2))
        assert half == pytest.approx(stats.t.ppf(0.975, count - 1) * deviation / math.sqrt(count), rel=6e-4)


def test_two_runs_side_by_side(run, config, tmp_path):
    other = Trainer(config(out=str(tmp_path / "slow"), lr=1e-4)).fit().folder
    text, path = compare_runs([run, other], out=tmp_path / "page.html", bootstrap=20)
    stands_alone(path.read_text())
    assert "mine against slow" in text
    assert "McNemar" in text
    assert f"{read_group(other).figures['eer'][0]:.2%}" in text
    same, _ = compare_runs([run, run], out=tmp_path / "same.html", bootstrap=20)
    assert "McNemar p = 1" in same
    with pytest.raises(ValueError, match="two runs or more"):
        compare_runs([run], out=Path("x.html"))


def test_the_table_has_the_figures_of_the_best_epoch_and_says_which(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    for folder, marks in ((run, (1, 1, 0)), (other, ("", "", ""))):
        folder.mkdir()
        rows = [f"{epoch},{eer},{mark}" for epoch, eer, mark in zip((1, 2, 3), (0.5, 0.125, 0.25), marks, strict=True)]
        (folder / "epochs.csv").write_text("\n".join(["epoch,eer,best", *rows]) + "\n")
    groups = [read_group(run), read_group(other)]
    assert [(group.epochs, group.figures) for group in groups] == [
        ((2,), {"eer": (0.125,)}),
        ((3,), {"eer": (0.25,)}),  # none is marked: the last
    ]
    table = figures_table(groups).markdown()
    assert "| run | seeds | best epoch | EER |" in table
    assert "| run | 1 | 2 | 12.50% |" in table


@pytest.mark.ci
def test_scores_of_other_pairs_are_not_tested_as_the_same(run, config, tmp_path):
    """Other labels, more pairs of the same images, and data that has gone."""
    faces = tmp_path / "faces"
    shutil.copytree(config().data.path, faces)
    other = Trainer(config(out=str(tmp_path / "other"), data=str(faces))).fit().folder
    pairs = (faces / "val_pairs.txt").read_text().splitlines()
    same, _ = compare_runs([run, other], out=tmp_path / "same.html", bootstrap=20)
    assert "McNemar" in same
    flipped = [line[:-1] + str(1 - int(line[-1])) for line in pairs[:2]] + pairs[2:]
    first, second, _ = pairs[0].split()
    third = next(word for line in pairs for word in line.split()[:2] if word not in (first, second))
    for changed in (flipped, [*pairs, f"{first} {third} 0"]):
        (faces / "val_pairs.txt").write_text("\n".join(changed) + "\n")
        text, _ = compare_runs([run, other], out=tmp_path / "c.html", bootstrap=20)
        assert "other: other validation pairs than mine, so no test." in text
    shutil.move(faces, tmp_path / "gone")
    text, _ = compare_runs([run, other], out=tmp_path / "c.html", bootstrap=20)
    assert "does not exist (--data names the folder), so no test." in text


def test_a_page_of_few_people_of_whom_some_have_no_development_images(config, tmp_path):
    faces = tmp_path / "faces"
    shutil.copytree(config().data.path, faces)
    for name in ("val_pairs.txt", "test_pairs.txt"):
        (faces / name).unlink(missing_ok=True)
    shutil.rmtree(sorted((faces / "cls_data" / "dev").iterdir())[1])
    folder = Trainer(config(out=str(tmp_path / "few"), data=str(faces), best_metric="eer")).fit().folder
    page = write_run_report(folder).read_text()
    stands_alone(page)
    assert "best by accuracy" in page
