from __future__ import annotations

import base64
import json
import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from facezoo.evaluation import (
    ClassificationAccuracy,
    PairEvaluation,
    PlotUnavailableError,
    figure_png,
    kfold_accuracy,
    plot_roc,
    plot_score_histogram,
    plot_training_curves,
    read_training_log,
    roc_curve,
    verification_metrics,
    write_report,
)

LOG = """epoch,step,train_loss,train_accuracy,dev_accuracy,eer,lr,seconds
1,10,6.5,0.01,0.02,0.41,0.1,12.5
2,20,5.0,0.10,0.15,0.30,0.05,12.1
3,30,4.0,0.20,,,0.01,12.2
"""


@pytest.fixture
def evaluation():
    labels = torch.arange(120) % 2 == 0
    scores = 0.3 * labels + 0.2 * torch.randn(120, generator=torch.Generator().manual_seed(0))
    metrics = verification_metrics(scores, labels, bootstrap=50)
    return PairEvaluation(scores, labels, metrics, kfold_accuracy(scores, labels, torch.arange(120) // 20), "sum")


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(LOG)
    return path


@pytest.fixture
def no_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # import then raises ModuleNotFoundError


class _Balanced(HTMLParser):
    void = frozenset({"meta", "img", "br", "source"})

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _parse(text):
    parser = _Balanced()
    parser.feed(text)
    assert parser.open == []
    return parser


def _report(folder, evaluation, log):
    return write_report(
        folder,
        title="tiny <net> & co",
        facts={"model": "mobilefacenet", "parameters": 1_200_000, "note": "a|b"},
        verification={"View 1": evaluation, "only figures": evaluation.metrics},
        classification={"dev": ClassificationAccuracy(0.5, 0.8, (0.4, 0.6), 100, 744, 0.95)},
        training_log=log,
        notes="Trained for a test.",
    )


def test_report_with_plots(tmp_path, evaluation, log):
    folder = tmp_path / "deep" / "report"
    report = _report(folder, evaluation, log)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "report.md",
        "report.html",
        "metrics.json",
        "plots/det.png",
        "plots/roc.png",
        "plots/scores_0.png",
        "plots/training.png",
    }
    assert report.plots_missing == ""

    page = report.html.read_text(encoding="utf-8")
    sources = _parse(page).sources
    assert len(sources) == 4
    for source, path in zip(sources, report.plots, strict=True):  # self-contained: the very bytes of the files
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == path.read_bytes()
        assert path.read_bytes().startswith(b"\x89PNG")
    assert "<h1>tiny &lt;net&gt; &amp; co</h1>" in page

    text = report.markdown.read_text(encoding="utf-8")
    for name in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert (folder / name).is_file()
    assert "a\\|b" in text
    assert "1,200,000" in text
    for row in evaluation.metrics.rows():
        assert "| " + " | ".join(row) + " |" in text
    assert "6-fold accuracy" in text
    assert "Flip augmentation: sum" in text
    assert "Trained for a test." in text

    figures = json.loads(report.metrics.read_text(encoding="utf-8"))
    assert figures["verification"]["View 1"]["metrics"]["eer"] == evaluation.metrics.eer
    assert figures["verification"]["only figures"]["tar_at_far"]["0.001"] is None
    assert figures["classification"]["dev"]["accuracy"] == 0.5
    assert figures["facts"]["parameters"] == 1_200_000


def test_report_without_matplotlib_says_so(tmp_path, evaluation, log, no_matplotlib):
    report = _report(tmp_path / "r", evaluation, log)
    assert report.plots == ()
    assert "pip install" in report.plots_missing
    for path in (report.markdown, report.html):
        text = path.read_text(encoding="utf-8")
        assert "Plots are left out" in text
        assert "facezoo[plot]" in text
        assert "plots/" not in text
    _parse(report.html.read_text(encoding="utf-8"))
    assert json.loads(report.metrics.read_text())["verification"]["View 1"]["metrics"]["eer"] == evaluation.metrics.eer


def test_plots_without_matplotlib_say_what_to_install(evaluation, no_matplotlib):
    for call in (
        lambda: plot_roc({"a": (evaluation.scores, evaluation.labels)}),
        lambda: plot_score_histogram(evaluation.scores, evaluation.labels),
        lambda: plot_training_curves({"epoch": [1.0], "eer": [0.1]}),
    ):
        with pytest.raises(PlotUnavailableError, match=r'pip install "facezoo\[plot\]"'):
            call()


def test_importing_evaluation_loads_no_heavy_library():
    code = (
        "import sys, facezoo.evaluation; print([n for n in ('matplotlib', 'torchvision', 'PIL') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_minimal_report(tmp_path):
    report = write_report(tmp_path)
    assert report.markdown.read_text() == "# facezoo report\n"
    assert report.plots == ()
    unlabeled = PairEvaluation(torch.zeros(3), None, None, None)
    report = write_report(tmp_path, verification={"test": unlabeled})
    assert "without labels" in report.markdown.read_text()
    assert json.loads(report.metrics.read_text())["verification"]["test"]["metrics"] is None


# --------------------------------------------------------------------------------------------------------------- plots


def test_roc_plot_ends_where_the_data_do(evaluation):
    axes = plot_roc({"net": (evaluation.scores, evaluation.labels)}).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (1 / 60, 1)
    curve = next(line for line in axes.lines if line.get_gid() == "roc")
    roc = roc_curve(evaluation.scores, evaluation.labels)
    assert np.array_equal(curve.get_ydata(), roc.tar)
    assert np.array_equal(np.asarray(curve.get_xdata())[1:], np.maximum(roc.far, 1e-12)[1:])
    marker = next(line for line in axes.lines if line.get_marker() == "o")
    assert marker.get_xdata()[0] == pytest.approx(evaluation.metrics.eer)
    with pytest.raises(ValueError, match="no curves"):
        plot_roc({})


def test_roc_plot_of_many_pairs_stays_small_and_true():
    rng = np.random.default_rng(0)
    labels = np.arange(60_000) < 20_000
    scores = rng.normal(size=60_000) + 2 * labels
    axes = plot_roc({"net": (scores, labels)}).axes[0]
    curve = next(line for line in axes.lines if line.get_gid() == "roc")
    x, y = np.asarray(curve.get_xdata()), np.asarray(curve.get_ydata())
    assert len(x) < 6000
    roc = roc_curve(scores, labels)
    for far in (1e-4, 1e-3, 1e-2, 1e-1):
        assert np.interp(far, x, y) == pytest.approx(np.interp(far, roc.far, roc.tar), abs=0.002)


def test_histogram_has_both_classes_and_the_threshold(evaluation):
    axes = plot_score_histogram(evaluation.scores, evaluation.labels, threshold=0.25, bins=10).axes[0]
    assert len(axes.patches) == 20
    areas = [sum(p.get_height() * p.get_width() for p in axes.patches[i : i + 10]) for i in (0, 10)]
    assert areas == pytest.approx([1, 1])
    assert axes.lines[0].get_xdata()[0] == 0.25
    plot_score_histogram([0.5, 0.5], [0, 1])  # a single value still has an axis


def test_training_curves_plot_what_there_is(log):
    figure = plot_training_curves(read_training_log(log))
    shown = {axes.get_title(): axes for axes in figure.axes if axes.get_visible()}
    assert set(shown) == {"loss", "accuracy", "EER", "learning rate"}
    assert [line.get_label() for line in shown["accuracy"].lines] == ["train_accuracy", "dev_accuracy"]
    assert shown["EER"].lines[0].get_xdata().tolist() == [1, 2]  # the empty cell is no point
    assert figure_png(figure).startswith(b"\x89PNG")
    assert plot_training_curves({"epoch": [1.0], "seconds": [2.0], "eer": [math.nan]}) is None


# ----------------------------------------------------------------------------------------------------------------- log


def test_log_is_read_with_gaps(log):
    columns = read_training_log(log)
    assert list(columns) == LOG.splitlines()[0].split(",")
    assert columns["eer"][:2] == [0.41, 0.30]
    assert math.isnan(columns["eer"][2])


def test_log_of_a_killed_and_resumed_run(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(LOG + LOG.splitlines()[0] + "\n3,30,3.9,0.21,0.22,0.25,0.01,9\n4,40,3.5,0.3,0.3")
    columns = read_training_log(path)
    assert columns["epoch"] == [1, 2, 3]
    assert columns["train_loss"] == [6.5, 5.0, 3.9]
    assert columns["eer"] == [0.41, 0.30, 0.25]


def test_log_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.csv"):
        read_training_log(tmp_path / "none.csv")
    path = tmp_path / "log.csv"
    path.write_text("1,2,3\n")
    with pytest.raises(ValueError, match="first line must name the columns"):
        read_training_log(path)
    path.write_text("")
    with pytest.raises(ValueError, match="first line"):
        read_training_log(path)
    path.write_text("epoch,eer\n1,2,3\n2,0.1\n")
    with pytest.raises(ValueError, match="row 2: 3 fields, but the header names 2"):
        read_training_log(path)
