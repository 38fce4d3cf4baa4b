"""The report of a run: ``report.md``, a self-contained ``report.html`` and ``metrics.json``; plots where matplotlib is there."""

from __future__ import annotations

import base64
import csv
import html
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from facezoo.checks import is_whole
from facezoo.evaluation.classification import ClassificationAccuracy
from facezoo.evaluation.det import det_with_intervals
from facezoo.evaluation.metrics import VerificationMetrics
from facezoo.evaluation.pairs import PairEvaluation
from facezoo.evaluation.plots import (
    PlotUnavailableError,
    figure_png,
    plot_det,
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

    plots_missing = ""
    try:
        require_matplotlib()
    except PlotUnavailableError as error:
        plots_missing = f"Plots are left out: {error}"

    blocks: list[_Block] = [_Heading(1, title)]
    if notes:
        blocks.append(_Text(notes))
    if plots_missing:
        blocks.append(_Text(plots_missing))
    if facts:
        blocks.append(_Table(("", ""), tuple((name, _plain(value)) for name, value in facts.items())))
    if classification:
        blocks += [_Heading(2, "Closed-set classification"), _classification_table(classification)]
    figures: dict[str, Callable[[], Figure | None]] = {}
    if verification:
        blocks.append(_Heading(2, "Verification"))
        curves = {
            name: (entry.scores, entry.labels)
            for name, entry in verification.items()
            if isinstance(entry, PairEvaluation) and entry.labels is not None
        }
        if curves:
            figures["roc"] = lambda: plot_roc(curves)
            figures["det"] = lambda: plot_det({name: det_with_intervals(*pair) for name, pair in curves.items()})
            blocks.append(
                _Plot(
                    "roc", "ROC; the circle is the EER point, the axis ends where the impostor pairs resolve no more."
                )
            )
            blocks.append(_Plot("det", "DET; the band is the 95 % interval at each false accept rate, over pairs."))
        for index, (name, entry) in enumerate(verification.items()):
            blocks.append(_Heading(3, name))
            blocks += _verification_blocks(entry)
            if name in curves:
                key = f"scores_{index}"
                figures[key] = _histogram(name, entry)
                blocks.append(_Plot(key, f"Scores of {name}."))
        blocks.append(
            _Text(
                "Pairs are accepted when score >= threshold. Intervals treat pairs as independent. The best accuracy is the best "
                "over all thresholds on the same pairs; the k-fold accuracy takes its threshold from the other folds."
            )
        )
    if log is not None:
        blocks.append(_Heading(2, "Training"))
        blocks.append(_log_table(log))
        figures["training"] = lambda: plot_training_curves(log)
        blocks.append(_Plot("training", "Training curves."))

    images: dict[str, bytes] = {}
    if not plots_missing:
        for key, draw in figures.items():
            figure = draw()
            if figure is not None:
                images[key] = figure_png(figure)
    blocks = [block for block in blocks if not isinstance(block, _Plot) or block.key in images]

    plots = tuple(root / "plots" / f"{key}.png" for key in images)
    for path, image in zip(plots, images.values(), strict=True):
        write_atomic(path, image)
    content = {
        "title": title,
        "facts": {name: _fact(value) for name, value in facts.items()},
        "classification": {name: entry.to_dict() for name, entry in classification.items()},
        "verification": {name: entry.to_dict() for name, entry in verification.items()},
        "training_log": os.fspath(training_log) if training_log is not None else None,
    }
    report = Report(root / "report.md", root / "report.html", root / "metrics.json", plots, plots_missing)
    write_atomic(report.metrics, json.dumps(jsonable(content), indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    write_atomic(report.markdown, "\n\n".join(block.markdown() for block in blocks) + "\n")
    write_atomic(report.html, _page(title, "\n".join(block.html(images) for block in blocks)))
    return report


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
        raise ValueError(f"{file} is no training log: it is not CSV in UTF-8 ({shorten(error)})") from None
    if not lines or _number(lines[0][0]) is not None:
        raise ValueError(
            f"{file} is no training log: the first line must name the columns (epoch, step, train_loss, ...)"
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


def _verification_blocks(entry: PairEvaluation | VerificationMetrics) -> list[_Block]:
    metrics = entry if isinstance(entry, VerificationMetrics) else entry.metrics
    if metrics is None:
        return [_Text("Scored pairs without labels; no figures.")]
    rows = list(metrics.rows())
    if isinstance(entry, PairEvaluation) and entry.kfold is not None:
        rows.append((f"{len(entry.kfold.per_fold)}-fold accuracy", str(entry.kfold), ""))
    head = f"{metrics.num_genuine:,} genuine and {metrics.num_impostor:,} impostor pairs."
    if isinstance(entry, PairEvaluation):
        head += f" Flip augmentation: {entry.flip}."
    interval = f"{metrics.confidence * 100:g} % interval" if metrics.bootstrap else "interval"
    return [_Text(head), _Table(("figure", "value", interval), tuple(rows))]


def _classification_table(classification: Mapping[str, ClassificationAccuracy]) -> _Table:
    rows = []
    for name, entry in classification.items():
        value, interval = format_figure(
            entry.accuracy, entry.accuracy_interval, step=1 / entry.num_images, percent=True
        )
        top5, _ = format_figure(entry.top5, entry.accuracy_interval, step=1 / entry.num_images, percent=True)
        rows.append((name, value, interval, top5, f"{entry.num_images:,}", f"{entry.num_classes:,}"))
    return _Table(("split", "accuracy", "interval", "top 5", "images", "classes"), tuple(rows))


def _histogram(name: str, entry: PairEvaluation | VerificationMetrics) -> Callable[[], Figure | None]:
    def draw() -> Figure | None:
        if not isinstance(entry, PairEvaluation) or entry.labels is None:
            return None
        threshold = entry.metrics.threshold if entry.metrics else None
        return plot_score_histogram(entry.scores, entry.labels, threshold=threshold, title=name)

    return draw


def _log_table(log: Mapping[str, list[float]]) -> _Table:
    names = tuple(log)
    rows = list(zip(*log.values(), strict=True))
    shown = rows if len(rows) <= 12 else [*rows[:2], *rows[-10:]]
    cells = [tuple("" if math.isnan(value) else f"{value:.5g}" for value in row) for row in shown]
    if len(rows) > 12:
        cells.insert(2, tuple("…" for _ in names))
    return _Table(names, tuple(cells))


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


# ---------------------------------------------------------------------------- one description, two ways to print it


@dataclass(frozen=True)
class _Heading:
    level: int
    text: str

    def markdown(self) -> str:
        return f"{'#' * self.level} {self.text}"

    def html(self, images: Mapping[str, bytes]) -> str:
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class _Text:
    text: str

    def markdown(self) -> str:
        return self.text

    def html(self, images: Mapping[str, bytes]) -> str:
        return f"<p>{html.escape(self.text)}</p>"


@dataclass(frozen=True)
class _Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)

    def html(self, images: Mapping[str, bytes]) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        head = f"<thead><tr>{head}</tr></thead>\n" if any(self.header) else ""
        return f"<table>\n{head}<tbody>\n{body}\n</tbody></table>"


@dataclass(frozen=True)
class _Plot:
    key: str
    caption: str

    def markdown(self) -> str:
        return f"![{self.caption}](plots/{self.key}.png)"

    def html(self, images: Mapping[str, bytes]) -> str:
        data = base64.b64encode(images[self.key]).decode("ascii")
        caption = html.escape(self.caption)
        return f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'


_Block: TypeAlias = "_Heading | _Text | _Table | _Plot"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _page(title: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #8886; padding: .3rem .7rem; text-align: left; white-space: nowrap; }}
figure {{ margin: 1rem 0; }}
img {{ max-width: 100%; height: auto; background: white; }}
figcaption {{ font-size: .9rem; opacity: .8; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
