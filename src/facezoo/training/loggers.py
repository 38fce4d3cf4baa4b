"""Loggers of a run: callbacks by name. CSV files are always written; TensorBoard and Weights & Biases on request.

To add one::

    @register_logger("mine")
    class Mine(Callback): ...          # made without arguments when a run begins
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facezoo.checks import reads_as_number
from facezoo.files import atomic_path
from facezoo.registry import Registry
from facezoo.training.callbacks import Callback, Row, RunStart
from facezoo.training.config import TrainConfig
from facezoo.training.run_folder import save_settings

STEP_COLUMNS = ("update", "epoch", "loss", "lr", "grad_norm", "images_per_second")
EPOCH_COLUMNS = (
    "epoch", "updates", "train_loss", "train_accuracy", "dev_loss", "dev_accuracy", "eer", "auc", "pair_accuracy", "combined",
    "lr", "images_per_second", "train_seconds", "eval_seconds", "best",
)  # fmt: skip

LOGGERS: Registry[Callable[[], Callback]] = Registry("logger", listed_by="facezoo.training.list_loggers()")


def register_logger(name: str) -> Callable[[Callable[[], Callback]], Callable[[], Callback]]:
    """Decorator that registers a callback class, or a function that returns a callback, as a logger."""
    return LOGGERS.register(name)


def list_loggers() -> list[str]:
    """Names of all loggers, including those of plugins."""
    return LOGGERS.list()


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
        """Append one row; missing columns stay empty. Raises ValueError for an unknown column."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.columns).writerow(row)

    def read(self) -> list[dict[str, str]]:
        """All complete rows. Raises ValueError if the file is not CSV text."""
        try:
            with self.path.open(newline="", encoding="utf-8", errors="replace") as file:
                # A killed process may leave half a row at the end.
                return [row for row in csv.DictReader(file) if None not in row.values() and None not in row]
        except csv.Error as error:
            raise ValueError(f"{self.path} is not CSV text ({error}); repair it, or remove the file") from None

    def truncate(self, last: int) -> None:
        """Remove the rows with a key above ``last``: a resumed run writes them again.

        Raises:
            ValueError: a key is not a whole number, or another cell is not a number; the message names file and row.
        """
        kept = []
        for number, row in enumerate(self.read(), start=2):
            key = row.get(self.columns[0], "")
            if not (key.isascii() and key.isdecimal() and len(key) < 16):
                raise self._error(number, self.columns[0], "a whole number", key)
            if int(key) <= last:
                kept.append({name: row.get(name, "") for name in self.columns})
                for name, cell in kept[-1].items():
                    if cell != "" and not reads_as_number(cell):
                        raise self._error(number, name, "a number", cell)
        self._rewrite(kept)

    def _error(self, row: int, column: str, wanted: str, cell: str) -> ValueError:
        return ValueError(
            f"{self.path}, row {row}: the column {column!r} must be {wanted}; got {cell[:200]!r}. "
            "Repair the row, or remove the file"
        )

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)


@register_logger("csv")
class CsvFiles(Callback):
    """``steps.csv`` and ``epochs.csv`` in the run folder. A resumed run removes the rows after the point where it resumes.

    It also writes ``config.json`` anew: what was accepted when the run went on (more epochs, data in another place) holds from then
    on.
    """

    def on_start(self, run: RunStart) -> None:
        """Open the files."""
        save_settings(run.folder, TrainConfig.from_dict(run.settings))
        self.steps = CsvLog(run.folder / "steps.csv", STEP_COLUMNS)
        self.epochs = CsvLog(run.folder / "epochs.csv", EPOCH_COLUMNS)
        self.steps.truncate(run.updates)
        self.epochs.truncate(run.epochs)

    def history(self) -> tuple[dict[str, float], ...]:
        """The rows of ``epochs.csv``, empty columns left out; none before the run began, or on another rank."""
        rows = self.epochs.read() if hasattr(self, "epochs") else []
        return tuple({name: float(value) for name, value in row.items() if value != ""} for row in rows)

    def on_update(self, row: Row) -> None:
        """Append to ``steps.csv``."""
        self.steps.write(row)

    def on_epoch(self, row: Row) -> None:
        """Append to ``epochs.csv``."""
        self.epochs.write(row)


@register_logger("tensorboard")
class TensorBoard(Callback):
    """TensorBoard events in ``tensorboard/`` of the run folder; needs the package ``tensorboard``."""

    def on_start(self, run: RunStart) -> None:
        """Open the writer. Raises RuntimeError without the package."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RuntimeError(
                "TensorBoard logs need the package `tensorboard`: pip install 'facezoo[tensorboard]'"
            ) from None
        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.updates + 1)

    def on_update(self, row: Row) -> None:
        """Scalars ``step/…`` at the update."""
        self._scalars("step", row, int(row["update"]))

    def on_epoch(self, row: Row) -> None:
        """Scalars ``epoch/…`` at the update that ended the epoch."""
        self._scalars("epoch", row, int(row["updates"]))

    def on_end(self) -> None:
        """Flush."""
        if hasattr(self, "_writer"):
            self._writer.close()

    def _scalars(self, prefix: str, row: Row, position: int) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"{prefix}/{name}", value, position)


@register_logger("wandb")
class WeightsAndBiases(Callback):
    """Weights & Biases; needs the package ``wandb``. Project and key come from its own environment variables.

    The row of an epoch has a key ``EER`` beside ``eer``. A resumed run keeps its id, which is derived from the folder name.
    """

    def on_start(self, run: RunStart) -> None:
        """Begin the run. Raises RuntimeError without the package."""
        try:
            import wandb
        except ImportError:
            raise RuntimeError("Weights & Biases logs need the package `wandb`: pip install 'facezoo[wandb]'") from None
        identity = _run_id(run)
        self._run: Any = wandb.init(
            dir=str(run.folder), name=run.folder.name, id=identity, resume="allow", config=dict(run.settings)
        )

    def on_update(self, row: Row) -> None:
        """Values ``step/…``."""
        self._run.log({f"step/{name}": value for name, value in row.items()}, step=int(row["update"]))

    def on_epoch(self, row: Row) -> None:
        """Values by their names in ``epochs.csv``, and ``EER``."""
        values = {name: value for name, value in row.items() if value != ""}
        if "eer" in row:
            values["EER"] = row["eer"]
        self._run.log(values, step=int(row["updates"]))

    def on_end(self) -> None:
        """Finish the run."""
        if hasattr(self, "_run"):
            self._run.finish()


def _run_id(run: RunStart) -> str:
    """The id of the run, stored in the run folder so that a resumed run has the same id."""
    import secrets

    from facezoo.files import write_atomic

    path = run.folder / "wandb_id.txt"
    if run.updates == 0 or not path.exists():
        write_atomic(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8").strip()
