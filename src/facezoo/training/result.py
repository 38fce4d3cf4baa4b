"""What a run prints: at its start, after an epoch, and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from facezoo.training.callbacks import Row
from facezoo.training.checkpoint import TrainState
from facezoo.training.config import TrainConfig
from facezoo.training.datasets import RunData
from facezoo.training.distributed import Distributed
from facezoo.training.loading import TrainingBatches
from facezoo.training.sharding import count_parameters
from facezoo.training.validation import known_value


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    Attributes:
        folder: the run folder.
        last: checkpoint to resume from.
        best: best checkpoint; None before the first evaluation.
        epochs: epochs completed.
        updates: updates done.
        finished: whether all epochs are done (``stop_after`` ends earlier).
        best_metric: metric that chooses the best checkpoint.
        best_value: its value at the best checkpoint, fraction of 1: for ``eer`` the EER itself, of which the lowest is the best;
            None before the first evaluation, and for ``last``.
        best_epoch: the epoch of the best checkpoint, from 1; 0 before the first evaluation.
        history: the rows of epochs.csv.
    """

    folder: Path
    last: Path
    best: Path | None
    epochs: int
    updates: int
    finished: bool
    best_metric: str
    best_value: float | None
    best_epoch: int
    history: tuple[dict[str, float], ...]

    @classmethod
    def of(cls, config: TrainConfig, state: TrainState, history: tuple[dict[str, float], ...]) -> TrainResult:
        """The result of a run with these settings and this progress."""
        folder = Path(config.output.folder)
        return cls(
            folder=folder,
            last=folder / ("last.json" if config.output.checkpoint_format == "sharded" else "last.safetensors"),
            best=folder / "best.safetensors" if state.best is not None else None,
            epochs=state.epoch,
            updates=state.updates,
            finished=state.epoch >= config.optimization.epochs,
            best_metric=state.metric,
            best_value=None if state.best is None else known_value(state.metric, state.best),
            best_epoch=state.best_epoch,
            history=history,
        )


def describe_start(
    config: TrainConfig,
    data: RunData,
    objective: nn.Module,
    batches: TrainingBatches,
    dist: Distributed,
    state: TrainState,
) -> str:
    """Describe network, data and settings in a few lines."""
    own, wanted = config.optimization, config.output.best_metric
    counts = {name: count_parameters(part) for name, part in objective.named_children()}
    parameters = " + ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    lines = [
        data.description,
        f"{config.model.name} + {config.model.margin}: {sum(counts.values()):,} parameters ({parameters})",
        f"{own.epochs} epochs of {batches.updates_per_epoch} updates of {own.batch_size} images on "
        f"{dist.world_size} x {dist.device}, amp {config.machine.amp}; best by {state.metric}; run folder {config.output.folder}",
    ]
    if state.metric != wanted:
        lines.append(f"this data cannot give {wanted}: best by {state.metric} instead")
    if state.updates:
        lines.append(f"going on at epoch {state.epoch + 1}, update {state.updates}")
    return "\n".join(lines)


def step_row(state: TrainState, lr: float, speed: float, *, clipped: bool) -> dict[str, Any]:
    """A row of steps.csv: the mean loss since the previous row, ``speed`` in images per second."""
    row: dict[str, Any] = {
        "update": state.updates,
        "epoch": state.epoch + 1,
        "loss": sum(state.losses) / len(state.losses),
        "lr": lr,
        "images_per_second": round(speed, 1),
    }
    return row | ({"grad_norm": state.grad_norm} if clipped else {})


def epoch_row(state: TrainState, lr: float, images: int) -> dict[str, Any]:
    """The training columns of a row of epochs.csv; ``images`` is the number of images in an epoch."""
    return {
        "epoch": state.epoch + 1,
        "updates": state.updates,
        "train_loss": state.loss_sum / max(state.loss_count, 1),
        "train_accuracy": state.correct / state.seen if state.seen else "",
        "lr": lr,
        "images_per_second": round(images / max(state.seconds, 1e-9), 1),
        "train_seconds": round(state.seconds, 2),
    }


def progress_bar(config: TrainConfig, state: TrainState, *, total: int, show: bool) -> Any:
    """The progress bar of one epoch with ``total`` updates, shown only on a terminal."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        initial=state.position // config.optimization.batch_size,
        desc=f"epoch {state.epoch + 1}/{config.optimization.epochs}",
        unit="update",
        disable=None if config.output.progress and show else True,  # None: no bar in a file or pipe
        leave=False,
    )


def describe_epoch(row: Row, epochs: int) -> str:
    """A row of epochs.csv as one line."""
    parts = [f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}"]
    if row["train_accuracy"] != "":
        parts.append(f"train accuracy {row['train_accuracy']:.2%}")
    parts += [
        f"{label} {row[name]:.2%}" for name, label in (("dev_accuracy", "dev accuracy"), ("eer", "EER")) if name in row
    ]
    parts.append(f"{row['images_per_second']:.0f} img/s")
    return ", ".join(parts) + (" (best)" if row.get("best") else "")
