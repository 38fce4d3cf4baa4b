"""Logs of a run: two CSV files that survive a kill, and TensorBoard on request."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facezoo.files import atomic_path

Row = Mapping[str, float | int | str]

STEP_COLUMNS = ("update", "epoch", "loss", "lr", "grad_norm", "images_per_second")
EPOCH_COLUMNS = (
    "epoch", "updates", "train_loss", "train_accuracy", "dev_accuracy", "eer", "auc", "pair_accuracy", "lr",
    "images_per_second", "train_seconds", "eval_seconds", "best",
)  # fmt: skip


class CsvLog:
    """A CSV file that grows row by row; each row is on disk when :meth:`write` returns.

    Args:
        path: the file; created with its header if missing.
        columns: its columns. The first one is the key that :meth:`truncate` compares.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]) -> None:
        self.path, self.columns = path, columns
        if not path.exists() or path.stat().st_size == 0:
            self._rewrite([])

    def write(self, row: Row) -> None:
        """Append one row; missing columns stay empty. Raises ValueError for a column that the file does not have."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def read(self) -> list[dict[str, str]]:
        """All complete rows."""
        with self.path.open(newline="", encoding="utf-8") as file:
            # A killed process may leave half a row at the end.
            return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]

    def truncate(self, last: int) -> None:
        """Drop the rows whose key lies beyond ``last``: a resumed run writes them again."""
        self._rewrite([row for row in self.read() if int(row[self.columns[0]]) <= last])

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)


class RunLogs:
    """``steps.csv``, ``epochs.csv`` and, on request, TensorBoard events of one run folder.

    Args:
        folder: the run folder.
        tensorboard: write events too.

    Raises:
        RuntimeError: ``tensorboard`` without the package.
    """

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        self.steps = CsvLog(folder / "steps.csv", STEP_COLUMNS)
        self.epochs = CsvLog(folder / "epochs.csv", EPOCH_COLUMNS)
        self._writer: Any = _tensorboard_writer(folder) if tensorboard else None

    def step(self, row: Row) -> None:
        """Log one window of updates."""
        self.steps.write(row)
        self._events("step", row, int(row["update"]))

    def epoch(self, row: Row) -> None:
        """Log one epoch."""
        self.epochs.write(row)
        self._events("epoch", row, int(row["epoch"]))

    def truncate(self, *, updates: int, epochs: int) -> None:
        """Drop what lies beyond the point from which the run goes on."""
        self.steps.truncate(updates)
        self.epochs.truncate(epochs)

    def close(self) -> None:
        """Flush TensorBoard."""
        if self._writer is not None:
            self._writer.close()

    def _events(self, prefix: str, row: Row, position: int) -> None:
        if self._writer is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{prefix}/{name}", value, position)


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise RuntimeError(
            "TensorBoard logs need the package `tensorboard`: pip install 'facezoo[tensorboard]'"
        ) from None
    return SummaryWriter(str(folder / "tensorboard"))
