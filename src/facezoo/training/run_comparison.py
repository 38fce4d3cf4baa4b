"""Comparison of runs: curves, figures with intervals over seeds, and paired tests on the same pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from facezoo.evaluation import evaluate_pairs, read_training_log
from facezoo.evaluation.clusters import people_of
from facezoo.evaluation.comparison import Comparison, compare_scores
from facezoo.evaluation.embedding import Flip
from facezoo.evaluation.page import Block, Heading, Sheet, Table, Text
from facezoo.evaluation.plots import plot_series
from facezoo.files import write_atomic
from facezoo.training import parts
from facezoo.training.config import TrainConfig
from facezoo.training.run_report import series

COLUMNS = {
    "eer": "EER",
    "dev_accuracy": "dev accuracy",
    "combined": "combined score",
    "train_loss": "train loss",
    "dev_loss": "dev loss",
}
_PLAIN = ("train_loss", "dev_loss")

# Student's t for 95 % by degrees of freedom, from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class RunGroup:
    """Runs with the same settings: one run, or several with different seeds.

    Attributes:
        name: name of the folder.
        runs: the run folders.
        epochs: the epoch of each run's best checkpoint; the last epoch if none is marked.
        figures: figures of these epochs by column of ``epochs.csv``, one per run that has it.
    """

    name: str
    runs: tuple[Path, ...]
    epochs: tuple[int, ...]
    figures: dict[str, tuple[float, ...]]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's t); the width is NaN for a single value."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.nan
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return mean, _student(count - 1) * deviation / math.sqrt(count)


def _student(freedom: int) -> float:
    """Student's t for 95 %: from the table, then by its expansion about the normal distribution, to three decimals."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def read_group(folder: str | Path) -> RunGroup:
    """A run folder, or a folder with runs of several seeds in ``seed*/``.

    Raises:
        FileNotFoundError: the folder is neither.
    """
    root = Path(folder)
    runs = tuple(sorted(path.parent for path in root.glob("seed*/epochs.csv")))
    if (root / "epochs.csv").exists():
        runs = (root,)
    if not runs:
        raise FileNotFoundError(f"{root} is not a run and holds none of several seeds (no epochs.csv)")
    rows = [_best_row(read_training_log(run / "epochs.csv")) for run in runs]
    figures = {name: tuple(row[name] for row in rows if name in row) for name in COLUMNS}
    epochs = tuple(int(row["epoch"]) for row in rows if row)
    return RunGroup(root.resolve().name, runs, epochs, {name: values for name, values in figures.items() if values})


def _best_row(log: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The epoch of the best checkpoint and its figures; those of the last epoch if none is marked as best."""
    if not log["epoch"]:
        return {}
    marked = [row for row, best in enumerate(log.get("best", ())) if best == 1]
    row = marked[-1] if marked else -1
    return {name: log[name][row] for name in ("epoch", *COLUMNS) if name in log and math.isfinite(log[name][row])}


def figures_table(groups: Sequence[RunGroup]) -> Table:
    """Figures of the best epoch, that of ``best.safetensors``: mean and interval over seeds, or a single value."""
    names = [name for name in COLUMNS if any(name in group.figures for group in groups)]
    rows = []
    for group in groups:
        cells = [_figure(name, group.figures[name]) if name in group.figures else "" for name in names]
        rows.append((group.name, str(len(group.runs)), ", ".join(map(str, group.epochs)), *cells))
    return Table(("run", "seeds", "best epoch", *(COLUMNS[name] for name in names)), tuple(rows))


def compare_runs(
    folders: Sequence[str | Path],
    *,
    out: str | Path,
    data: str | Path | None = None,
    device: str = "auto",
    bootstrap: int = 1000,
) -> tuple[str, Path]:
    """Compare runs: their curves, the figures of their best epochs, and their best networks on the same validation pairs.

    Args:
        folders: two or more run folders, or folders of several seeds; the others are compared with the first.
        out: the HTML file.
        data: path of the data; None for the path in the run's settings.
        device: device of the evaluation.
        bootstrap: number of resamples of the paired tests.

    Returns:
        The content of the page as text, and its path.

    Raises:
        FileNotFoundError: a folder is not a run.
        ValueError: fewer than two folders.
    """
    if len(folders) < 2:
        raise ValueError("a comparison needs two runs or more")
    groups = [read_group(folder) for folder in folders]
    table = figures_table(groups)
    sheet = Sheet([Heading(1, " against ".join(group.name for group in groups)), Heading(2, "Best epoch"), table])
    sheet.blocks.append(
        Text("All figures of a run are of the epoch of its best checkpoint, chosen by its best_metric.")
    )
    if any(len(group.runs) > 1 for group in groups):
        sheet.blocks.append(Text("Mean and 95 % interval of the mean over seeds (Student's t)."))
    sheet.blocks.append(Heading(2, "Curves"))
    for title, curves in _panels(groups).items():
        sheet.plot(title, plot_series({title: curves}, xlabel="epoch"), "")
    sheet.blocks.append(Heading(2, "Best networks on the same pairs"))
    scores = [_scores(group.runs[0], data, device) for group in groups]
    tests, tested = _against_the_first(groups, scores, bootstrap)
    sheet.blocks += tested
    path = Path(out)
    write_atomic(path, sheet.html("facezoo: comparison"))
    return "\n\n".join([table.markdown(), *tests]), path


def _against_the_first(
    groups: Sequence[RunGroup], scores: Sequence[tuple[Any, Any]], bootstrap: int
) -> tuple[list[str], list[Block]]:
    """The paired test of every other group with the first, as text and as blocks of the page."""
    blocks: list[Block] = []
    tests: list[str] = []
    for group, (pairs, own) in zip(groups[1:], scores[1:], strict=True):
        first_pairs, first = scores[0]
        missing = next((found for found in (pairs, first_pairs) if isinstance(found, str)), "")
        if missing:
            text = f"{group.name}: {missing}, so no test."
        elif not _same_pairs(pairs, first_pairs):
            text = f"{group.name}: other validation pairs than {groups[0].name}, so no test."
        else:
            result = compare_scores(first, own, pairs.labels, people=people_of(pairs), bootstrap=bootstrap)
            text = f"{groups[0].name} against {group.name}\n{result}"
            blocks += [Heading(3, f"{groups[0].name} and {group.name}"), *_tested(result)]
            tests.append(text)
            continue
        blocks.append(Text(text))
        tests.append(text)
    return tests, blocks


def _same_pairs(one: Any, other: Any) -> bool:
    """Whether two lists of pairs are the same: images by name, pairs, and labels."""
    names = [[path.name for path in pairs.paths] for pairs in (one, other)]
    return names[0] == names[1] and all(
        torch.equal(getattr(one, field), getattr(other, field)) for field in ("left", "right", "labels")
    )


def _tested(result: Comparison) -> list[Block]:
    rows = []
    for name, entry in result.figures.items():
        low, high = entry.people_interval or entry.interval
        interval = f"{entry.difference:+.4f} ({low:+.4f} to {high:+.4f})"
        rows.append((name, f"{entry.first:.4f}", f"{entry.second:.4f}", interval, "yes" if entry.sure else "no"))
    header = ("figure", "first", "second", "difference (95 %)", "told apart")
    text = (
        f"{result.num_pairs:,} pairs, resampled together; McNemar p = {result.mcnemar_p:.3g} "
        f"({result.only_first_right} decided correctly by the first alone, {result.only_second_right} by the second alone). "
        "With several seeds the first run is tested."
    )
    return [Table(header, tuple(rows)), Text(text)]


def _panels(groups: Sequence[RunGroup]) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for group in groups:
        for run in group.runs:
            log = read_training_log(run / "epochs.csv")
            label = group.name if len(group.runs) == 1 else f"{group.name}/{run.name}"
            for name, title in COLUMNS.items():
                if (found := series(log, name))[0]:
                    panels.setdefault(title, {})[label] = found
    return panels


def _scores(run: Path, data: str | Path | None, device: str) -> tuple[Any, Any]:
    """Validation pairs and the scores of the run's best network; or why there are none, and None."""
    from facezoo.deploy.networks import load_trained
    from facezoo.devices import resolve_device

    config = TrainConfig.load(run / "config.json")
    config = config if data is None else config.replace(data=str(data))
    network = load_trained(run, resolve_device(device))
    try:
        pairs = parts.build_data(config, network.preprocessing).val_pairs
    except (OSError, ValueError) as error:
        return f"{str(error)[:300]} (--data names the folder)", None
    if pairs is None or pairs.labels is None:
        return "no labeled validation pairs", None
    flip, size = cast(Flip, config.output.eval_flip), config.output.eval_batch_size
    return pairs, evaluate_pairs(network.model, pairs, flip=flip, batch_size=size, bootstrap=0).scores


def _figure(name: str, values: Sequence[float]) -> str:
    mean, half = mean_interval(values)
    plain = name in _PLAIN
    text = f"{mean:.4f}" if plain else f"{mean:.2%}"
    if math.isnan(half):
        return text
    return f"{text} ± {half:.4f}" if plain else f"{text} ± {half:.2%}"
