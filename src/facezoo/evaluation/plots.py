"""Plots: ROC, score histogram, training curves. matplotlib (``pip install "facezoo[plot]"``) is imported on first use.

Every function returns a ``matplotlib.figure.Figure`` that belongs to no global state: no backend is chosen, no window opens,
nothing has to be closed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from facezoo.evaluation.metrics import roc_curve
from facezoo.evaluation.scores import ArrayLike, check_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from facezoo.evaluation.det import DetCurve
    from facezoo.evaluation.quality import DiscardCurve
    from facezoo.evaluation.robustness import RobustnessTable

_MAX_POINTS = 4000

# (title, unit of the y axis, columns) of the panels of the training curves, as far as the log has them.
_PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("loss", "", ("train_loss", "dev_loss")),
    ("accuracy", "fraction", ("train_accuracy", "dev_accuracy", "pair_accuracy", "combined")),
    ("EER", "fraction", ("eer",)),
    ("learning rate", "", ("lr",)),
)


_LONGEST = 44  # characters of a name in a legend; a path in full would leave no room for the curves


def _legend(name: str) -> str:
    """The end of a name, which tells paths apart."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


class PlotUnavailableError(ImportError):
    """matplotlib is not installed. The message says how to install it."""


def plot_roc(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, title: str = "ROC") -> Figure:
    """ROC curves on a logarithmic FAR axis.

    Args:
        curves: name -> (scores ``(N,)``, labels ``(N,)``), see ``verification_metrics``.
        title: title of the plot.

    The axis begins at the smallest FAR that the data resolve, 1/impostors: to the left of it there is nothing to see. The circle is
    the EER point.
    """
    if not curves:
        raise ValueError("no curves to plot")
    figure = _new_figure(5.6, 4.6)
    axes = figure.subplots()
    floor = 1.0
    for name, (scores, labels) in curves.items():
        roc = roc_curve(scores, labels)
        impostors = int(np.sum(np.asarray(check_scores(scores, labels)[1]) == 0))
        floor = min(floor, 1 / impostors)
        kept = _thin(roc.far, roc.tar)
        far, tar = roc.far[kept], roc.tar[kept]
        (line,) = axes.plot(np.maximum(far, 1e-12), tar, linewidth=1.5, label=_legend(name), gid="roc")
        crossing = int(np.searchsorted(roc.far + roc.tar, 1.0))
        before, after = roc.far[crossing - 1] + roc.tar[crossing - 1], roc.far[crossing] + roc.tar[crossing]
        eer = roc.far[crossing - 1] + (1 - before) / (after - before) * (roc.far[crossing] - roc.far[crossing - 1])
        if eer > 0:
            axes.plot([eer], [1 - eer], "o", color=line.get_color(), markerfacecolor="white", markersize=6)
    floor = min(floor, 0.1)
    axes.set_xscale("log")
    axes.set_xlim(floor, 1)
    axes.set_ylim(0, 1.005)
    grid = np.geomspace(floor, 1, 100)
    axes.plot(grid, grid, ":", color="0.6", linewidth=1, label="chance")
    axes.set_xlabel("FAR (fraction of impostor pairs accepted)")
    axes.set_ylabel("TAR (fraction of genuine pairs accepted)")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(loc="lower right", fontsize="small")
    return figure


def plot_det_bands(curves: Mapping[str, DetCurve], *, title: str = "DET") -> Figure:
    """False reject rate by false accept rate, both logarithmic, with the intervals as bands.

    Args:
        curves: name -> curve, see :func:`facezoo.evaluation.det.det_with_intervals`.
        title: title of the plot.
    """
    if not curves:
        raise ValueError("no curves to plot")
    figure = _new_figure(5.6, 4.6)
    axes = figure.subplots()
    floor = min(float(curve.far.min()) for curve in curves.values())
    least = min(float(curve.frr[curve.frr > 0].min(initial=0.1)) for curve in curves.values()) / 2
    for name, curve in curves.items():
        (line,) = axes.plot(curve.far, np.maximum(curve.frr, least), linewidth=1.5, label=_legend(name), gid="det")
        low, high = np.maximum(curve.low, least), np.maximum(curve.high, least)
        axes.fill_between(curve.far, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.plot([floor, 1], [floor, 1], ":", color="0.6", linewidth=1, label="equal rates")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(floor, 1)
    axes.set_ylim(least, 1)
    axes.set_xlabel("FAR (fraction of impostor pairs accepted)")
    axes.set_ylabel("FRR (fraction of genuine pairs rejected)")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(loc="lower left", fontsize="small")
    return figure


def plot_robustness(tables: Mapping[str, RobustnessTable], *, title: str = "EER of degraded images") -> Figure:
    """Equal error rates by degradation and strength, a panel for each degradation, with intervals.

    Args:
        tables: name of the network -> what :func:`facezoo.evaluation.robustness.measure_robustness` gave.
        title: title of the plot.
    """
    from facezoo.evaluation.robustness import DEGRADATIONS  # imports PIL

    if not tables:
        raise ValueError("no tables to plot")
    names = list(dict.fromkeys(name for table in tables.values() for name in table.figures))
    columns = min(4, len(names))
    lines = math.ceil(len(names) / columns)
    figure = _new_figure(2.7 * columns + 0.4, 2.5 * lines + 0.7)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, names, strict=False):
        _, strengths, unit = DEGRADATIONS[name]
        for row, (network, table) in enumerate(tables.items()):
            if name not in table.figures:
                continue
            found = [table.clean, *table.figures[name]]
            rates = np.array([(one.eer, *one.eer_interval) for one in found]) * 100
            whiskers = np.nan_to_num(np.abs(rates[:, 1:] - rates[:, :1]).T)
            places = np.arange(len(found)) + 0.08 * (row - (len(tables) - 1) / 2)
            axes.errorbar(
                places,
                rates[:, 0],
                whiskers,
                marker="o",
                markersize=3,
                capsize=2,
                linewidth=1.2,
                label=_legend(network),
            )
        axes.set_title(name, fontsize="medium")
        axes.set_xticks(range(len(strengths) + 1), ["clean", *(f"{strength:g}" for strength in strengths)])
        axes.set_xlabel(unit, fontsize="small")
        axes.grid(True, alpha=0.25)
    for axes in list(grid.flat)[len(names) :]:
        axes.remove()
    for axes in grid[:, 0]:
        axes.set_ylabel("EER (%)")
        axes.set_ylim(bottom=0)
    if len(tables) > 1:
        grid[0, 0].legend(fontsize="small")
    figure.suptitle(title)
    return figure


def plot_discard(curves: Mapping[str, DiscardCurve], *, title: str = "Genuine pairs rejected") -> Figure:
    """Error-versus-discard curves, with their intervals as bands.

    Args:
        curves: name -> what :func:`facezoo.evaluation.quality.error_versus_discard` gave.
        title: title of the plot.
    """
    if not curves:
        raise ValueError("no curves to plot")
    figure = _new_figure(5.6, 4.2)
    axes = figure.subplots()
    for name, curve in curves.items():
        places = curve.discarded * 100
        (line,) = axes.plot(places, curve.frr * 100, marker="o", markersize=3, linewidth=1.3, label=_legend(name))
        axes.fill_between(places, curve.low * 100, curve.high * 100, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xlabel("pairs of lowest quality thrown away (%)")
    axes.set_ylabel(f"FRR (%) at FAR {next(iter(curves.values())).far:g} of all pairs")
    axes.set_ylim(bottom=0)
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize="small")
    figure.suptitle(title)
    return figure


def plot_score_histogram(
    scores: ArrayLike, labels: ArrayLike, *, threshold: float | None = None, bins: int = 60, title: str = "scores"
) -> Figure:
    """Histograms of genuine and impostor scores, each scaled to area 1.

    Args:
        scores: ``(N,)`` similarities.
        labels: ``(N,)`` bool or 0/1.
        threshold: drawn as a line, if given.
        bins: number of bins, shared by both classes.
        title: title of the plot.
    """
    values, genuine, _ = check_scores(scores, labels)
    figure = _new_figure(5.6, 3.6)
    axes = figure.subplots()
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    for name, members, color in (("impostor", ~genuine, "tab:red"), ("genuine", genuine, "tab:blue")):
        axes.hist(
            values[members],
            bins=edges.tolist(),
            density=True,
            alpha=0.55,
            color=color,
            label=f"{name} ({int(members.sum()):,})",
        )
    if threshold is not None:
        axes.axvline(threshold, color="0.2", linestyle="--", linewidth=1, label=f"threshold {threshold:.3f}")
    axes.set_xlabel("score (cosine)")
    axes.set_ylabel("density")
    axes.set_title(title)
    axes.legend(fontsize="small")
    return figure


def plot_bars(values: ArrayLike, *, xlabel: str, ylabel: str, bins: int = 11) -> Figure:
    """A histogram of fractions of 1."""
    figure = _new_figure(5.6, 3.0)
    axes = figure.subplots()
    axes.hist(np.asarray(values, dtype=float), bins=np.linspace(0, 1, bins).tolist(), color="tab:blue", alpha=0.8)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(True, axis="y", alpha=0.25)
    return figure


def plot_points(groups: Mapping[str, np.ndarray]) -> Figure:
    """Points in the plane, ``(N, 2)`` for each name."""
    figure = _new_figure(6.4, 4.6)
    axes = figure.subplots()
    for name, points in groups.items():
        axes.plot(points[:, 0], points[:, 1], ".", markersize=7, alpha=0.8, label=_legend(name))
    axes.set_aspect("equal", adjustable="datalim")
    axes.grid(True, alpha=0.25)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def plot_series(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], *, xlabel: str) -> Figure:
    """Lines by name in a panel each: panel -> name -> (x, y)."""
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = _new_figure(4.2 * columns, 3.1 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (heading, curves) in zip(grid.flat, panels.items(), strict=False):
        for name, (x, y) in curves.items():
            axes.plot(x, y, marker="." if len(x) < 60 else None, linewidth=1.3, label=_legend(name))
        axes.set_title(heading)
        axes.set_xlabel(xlabel)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(True, alpha=0.25)
        axes.legend(fontsize="small")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    return figure


def plot_trials(settings: Mapping[str, Sequence[Any]], figures: Sequence[tuple[float, float]], ylabel: str) -> Figure:
    """A figure with its interval against each setting that varies.

    Args:
        settings: name -> value of every trial; what is not a number is put side by side.
        figures: (figure, half of its interval or NaN) of every trial.
        ylabel: what the figure is.
    """
    columns = min(2, len(settings))
    lines = math.ceil(len(settings) / columns)
    figure = _new_figure(4.4 * columns, 3.1 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    y = np.array([value for value, _ in figures])
    half = np.array([0.0 if math.isnan(width) else width for _, width in figures])
    for axes, (name, values) in zip(grid.flat, settings.items(), strict=False):
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
            axes.errorbar([float(value) for value in values], y, half, fmt="o", capsize=3)
            if min(values) > 0 and max(values) / min(values) >= 10:
                axes.set_xscale("log")
        else:
            words = sorted({str(value) for value in values})
            axes.errorbar([words.index(str(value)) for value in values], y, half, fmt="o", capsize=3)
            axes.set_xticks(range(len(words)), words)
        axes.set_xlabel(name)
        axes.set_ylabel(ylabel)
        axes.grid(True, alpha=0.25)
    for axes in list(grid.flat)[len(settings) :]:
        axes.set_visible(False)
    return figure


def plot_training_curves(log: Mapping[str, Sequence[float]], *, title: str = "training") -> Figure | None:
    """Loss, accuracy, EER and learning rate over the epochs.

    Args:
        log: columns of the training log, as ``read_training_log`` gives them; cells may be NaN. The x axis is ``epoch``, else
            ``step``, else the row.
        title: title of the plot.

    Returns:
        The figure, or ``None`` if the log has none of the columns that are plotted.
    """
    panels = []
    for heading, unit, names in _PANELS:
        present = tuple(name for name in names if name in log and any(math.isfinite(value) for value in log[name]))
        if present:
            panels.append((heading, unit, present))
    if not panels:
        return None
    axis = next((name for name in ("epoch", "step") if name in log), None)
    rows = len(next(iter(log.values())))
    x = np.asarray(log[axis] if axis else range(rows), dtype=float)
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = _new_figure(4.2 * columns, 2.9 * lines)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (heading, unit, present) in zip(grid.flat, panels, strict=False):
        for name in present:
            y = np.asarray(log[name], dtype=float)
            shown = np.isfinite(x) & np.isfinite(y)
            axes.plot(x[shown], y[shown], marker="." if shown.sum() < 60 else None, linewidth=1.3, label=_legend(name))
        axes.set_title(heading)
        axes.set_xlabel(axis or "row")
        axes.set_ylabel(unit)
        axes.grid(True, alpha=0.25)
        axes.legend(fontsize="small")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.suptitle(title)
    return figure


def figure_png(figure: Figure, *, dpi: int = 110, dark: bool = False) -> bytes:
    """The figure as a PNG file in memory; ``dark`` paints paper, frames and texts for a dark page, and leaves them so."""
    if dark:
        _darken(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


_PAPER, _INK = "#16181b", "#e7e9ec"  # of facezoo.evaluation.page, in the dark


def _darken(figure: Figure) -> None:
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    figure.set_facecolor(_PAPER)
    for axes in figure.axes:
        axes.set_facecolor(_PAPER)
        axes.tick_params(which="both", colors=_INK)
        legend = axes.get_legend()
        if legend is not None:
            legend.get_frame().set(facecolor=_PAPER, edgecolor="0.4")
        for line in axes.get_lines():
            if line.get_color() in ("0.2", "black", "k"):
                line.set_color(_INK)
            if line.get_markerfacecolor() == "white":
                line.set_markerfacecolor(_PAPER)
    for artist in figure.findobj(lambda artist: isinstance(artist, (Spine, Text))):
        artist.set(edgecolor=_INK) if isinstance(artist, Spine) else artist.set(color=_INK)


def require_matplotlib() -> Any:
    """matplotlib's ``Figure`` class.

    Raises:
        PlotUnavailableError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotUnavailableError('plots need matplotlib: pip install "facezoo[plot]"') from error
    return Figure


def _new_figure(width: float, height: float) -> Figure:
    figure: Figure = require_matplotlib()(figsize=(width, height), layout="constrained")
    return figure


def _thin(far: np.ndarray, tar: np.ndarray) -> np.ndarray:
    """Indices of at most some thousands of points, dense where the log axis is: millions of pairs need no millions of vertices."""
    if len(far) <= _MAX_POINTS:
        return np.arange(len(far))
    first = max(far[np.searchsorted(far, 0, side="right")], 1e-12)
    by_far = np.searchsorted(far, np.geomspace(first, 1, _MAX_POINTS // 2))
    by_tar = np.searchsorted(tar, np.linspace(0, 1, _MAX_POINTS // 2))
    kept: np.ndarray = np.unique(np.concatenate([[0], by_far, by_tar, [len(far) - 1]]).clip(0, len(far) - 1))
    return kept
