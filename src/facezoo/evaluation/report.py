"""The report of a run: ``report.md``, a self-contained ``report.html`` and ``metrics.json``; plots where matplotlib is there."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo.checks import is_whole
from facezoo.evaluation.classification import ClassificationAccuracy
from facezoo.evaluation.det import det_with_intervals
from facezoo.evaluation.metrics import VerificationMetrics
from facezoo.evaluation.page import Block, Heading, Plot, Table, Text, page
from facezoo.evaluation.pairs import PairEvaluation
from facezoo.evaluation.plots import (
    PlotUnavailableError,
    figure_png,
    plot_det_bands,
    plot_roc,
    plot_score_histogram,
    plot_training_curves,
    require_matplotlib,
)
from facezoo.evaluation.scores import format_figure, jsonable
from facezoo.files import write_atomic
from facezoo.weights.errors import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Report:
    """Where a report lies.

    Attributes:
        markdown: ``report.md``; it shows the plots by relative path.
        html: ``report.html``; one file, plots embedded.
        metrics: ``metrics.json``; NaN is ``null``.
        plots: the PNG files under ``plots/``.
        plots_missing: why there are none; empty if there are.
    """

    markdown: Path
    html: Path
    metrics: Path
    plots: tuple[Path, ...]
    plots_missing: str = ""


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str = "facezoo report",
    facts: Mapping[str, object] | None = None,
    verification: Mapping[str, PairEvaluation | VerificationMetrics] | None = None,
    classification: Mapping[str, ClassificationAccuracy] | None = None,
    training_log: str | os.PathLike[str] | None = None,
    notes: str = "",
) -> Report:
    """Write the report of one model into ``folder`` (created if need be; files of an older report are replaced).

    Args:
        folder: where the files go.
        title: heading of the report.
        facts: name -> value, printed as a table and kept in ``metrics.json``: model, parameters, data, seed, versions, ...
        verification: name of the pair list -> its evaluation. A ``PairEvaluation`` with labels gets an ROC curve and a histogram.
        classification: name of the split -> its closed-set accuracy.
        training_log: the trainer's CSV log; its curves are plotted.
        notes: text printed under the title.

    Returns:
        The paths. Without matplotlib the report has no plots and says so.

    Raises:
        FileNotFoundError: ``training_log`` does not exist.
        ValueError: ``training_log`` is not such a log.
    """
    root = Path(folder)
    verification, classification, facts = verification or {}, classification or {}, facts or {}
    log = read_training_log(training_log) if training_log is not None else None

    plots_missing = _why_no_plots()
    figures: dict[str, Callable[[], Figure | None]] = {}
    blocks: list[Block] = [Heading(1, title), *(Text(text) for text in (notes, plots_missing) if text)]
    if facts:
        blocks.append(Table(("", ""), tuple((name, _plain(value)) for name, value in facts.items())))
    if classification:
        blocks += [Heading(2, "Closed-set classification"), _classification_table(classification)]
    if verification:
        blocks += _verification_section(verification, figures)
    if log is not None:
        blocks += [Heading(2, "Training"), _log_table(log), Plot("training", "Training curves.")]
        figures["training"] = lambda: plot_training_curves(log)
    images, dark = ({}, {}) if plots_missing else _drawn(figures)
    content = {
        "title": title,
        "facts": {name: _fact(value) for name, value in facts.items()},
        "classification": {name: entry.to_dict() for name, entry in classification.items()},
        "verification": {name: entry.to_dict() for name, entry in verification.items()},
        "training_log": os.fspath(training_log) if training_log is not None else None,
    }
    plots = tuple(root / "plots" / f"{key}.png" for key in images)
    report = Report(root / "report.md", root / "report.html", root / "metrics.json", plots, plots_missing)
    _write(report, title, blocks, (images, dark), content)
    return report


def _why_no_plots() -> str:
    try:
        require_matplotlib()
    except PlotUnavailableError as error:
        return f"Plots are left out: {error}"
    return ""


def _drawn(figures: Mapping[str, Callable[[], Figure | None]]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The PNG files of those figures that have something to show, for light and for dark pages."""
    drawn = {key: figure for key, draw in figures.items() if (figure := draw()) is not None}
    light = {key: figure_png(figure) for key, figure in drawn.items()}
    return light, {key: figure_png(figure, dark=True) for key, figure in drawn.items()}


def _write(
    report: Report,
    title: str,
    blocks: list[Block],
    images: tuple[Mapping[str, bytes], Mapping[str, bytes]],
    content: Mapping[str, object],
) -> None:
    light, dark = images
    blocks = [block for block in blocks if not isinstance(block, Plot) or block.key in light]
    for path, image in zip(report.plots, light.values(), strict=True):
        write_atomic(path, image)
    write_atomic(report.metrics, json.dumps(jsonable(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_atomic(report.markdown, "\n\n".join(block.markdown() for block in blocks) + "\n")
    write_atomic(report.html, page(title, blocks, light, dark))


def read_training_log(path: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The columns of a trainer's CSV log; cells without a number are NaN.

    A row of the same epoch and step as an earlier one replaces it (a resumed run writes them again). An unfinished last line (the
    run was killed while writing) is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no text, no header, or a row of another length that is not the last.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no training log at {file}")
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            lines = [line for line in csv.reader(stream) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a training log: it is not CSV in UTF-8 ({shorten(error)})") from None
    if not lines or _number(lines[0][0]) is not None:
        raise ValueError(
            f"{file} is not a training log: the first line must name the columns (epoch, step, train_loss, ...)"
        )
    header = lines[0]
    rows: dict[tuple[float, ...], list[float]] = {}
    keys = [header.index(name) for name in ("epoch", "step") if name in header]
    for number, line in enumerate(lines[1:], start=2):
        if line == header:
            continue
        if len(line) != len(header):
            if number == len(lines):
                break
            raise ValueError(f"{file}, row {number}: {len(line)} fields, but the header names {len(header)}")
        cells = [_number(cell) for cell in line]
        values = [math.nan if cell is None else cell for cell in cells]
        key = tuple(values[index] for index in keys) if keys else (float(number),)
        rows.pop(key, None)
        rows[key] = values
    return {name: [row[index] for row in rows.values()] for index, name in enumerate(header)}


# ------------------------------------------------------------------------------------------- what the sections say


def _verification_section(
    verification: Mapping[str, PairEvaluation | VerificationMetrics], figures: dict[str, Callable[[], Figure | None]]
) -> list[Block]:
    """What the report says of lists of pairs; their plots are added to ``figures``."""
    blocks: list[Block] = [Heading(2, "Verification")]
    curves = {
        name: (entry.scores, entry.labels)
        for name, entry in verification.items()
        if isinstance(entry, PairEvaluation) and entry.labels is not None
    }
    if curves:
        figures["roc"] = lambda: plot_roc(curves)
        caption = "ROC; the circle is the EER point, the axis ends where the impostor pairs resolve no more."
        blocks.append(Plot("roc", caption))
        figures["det"] = lambda: plot_det_bands({name: det_with_intervals(*pair) for name, pair in curves.items()})
        blocks.append(Plot("det", "DET; the band is the 95 % interval at each false accept rate, over pairs."))
    for index, (name, entry) in enumerate(verification.items()):
        blocks += [Heading(3, name), *_verification_blocks(entry)]
        if name in curves:
            figures[f"scores_{index}"] = _histogram(name, entry)
            blocks.append(Plot(f"scores_{index}", f"Scores of {name}."))
    text = (
        "Pairs are accepted when score >= threshold. Intervals treat pairs as independent. The best accuracy is the best over all "
        "thresholds on the same pairs; the k-fold accuracy takes its threshold from the other folds."
    )
    return [*blocks, Text(text)]


def _verification_blocks(entry: PairEvaluation | VerificationMetrics) -> list[Block]:
    metrics = entry if isinstance(entry, VerificationMetrics) else entry.metrics
    if metrics is None:
        return [Text("Scored pairs without labels; no figures.")]
    rows = list(metrics.rows())
    if isinstance(entry, PairEvaluation) and entry.kfold is not None:
        rows.append((f"{len(entry.kfold.per_fold)}-fold accuracy", str(entry.kfold), ""))
    head = f"{metrics.num_genuine:,} genuine and {metrics.num_impostor:,} impostor pairs."
    if isinstance(entry, PairEvaluation):
        head += f" Flip augmentation: {entry.flip}."
    interval = f"{metrics.confidence * 100:g} % interval" if metrics.bootstrap else "interval"
    return [Text(head), Table(("figure", "value", interval), tuple(rows))]


def _classification_table(classification: Mapping[str, ClassificationAccuracy]) -> Table:
    rows = []
    for name, entry in classification.items():
        value, interval = format_figure(
            entry.accuracy, entry.accuracy_interval, step=1 / entry.num_images, percent=True
        )
        top5, _ = format_figure(entry.top5, entry.accuracy_interval, step=1 / entry.num_images, percent=True)
        rows.append((name, value, interval, top5, f"{entry.num_images:,}", f"{entry.num_classes:,}"))
    return Table(("split", "accuracy", "interval", "top 5", "images", "classes"), tuple(rows))


def _histogram(name: str, entry: PairEvaluation | VerificationMetrics) -> Callable[[], Figure | None]:
    def draw() -> Figure | None:
        if not isinstance(entry, PairEvaluation) or entry.labels is None:
            return None
        threshold = entry.metrics.threshold if entry.metrics else None
        return plot_score_histogram(entry.scores, entry.labels, threshold=threshold, title=name)

    return draw


def _log_table(log: Mapping[str, list[float]]) -> Table:
    names = tuple(log)
    rows = list(zip(*log.values(), strict=True))
    shown = rows if len(rows) <= 12 else [*rows[:2], *rows[-10:]]
    cells = [tuple("" if math.isnan(value) else f"{value:.5g}" for value in row) for row in shown]
    if len(rows) > 12:
        cells.insert(2, tuple("…" for _ in names))
    return Table(names, tuple(cells))


def _plain(value: object) -> str:
    if is_whole(value):
        return f"{value:,}"
    return str(value)


def _fact(value: object) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str, list, tuple, dict)) else str(value)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
