"""What a run says: at its start, after an epoch, at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facezoo.training.sharding import count_parameters

if TYPE_CHECKING:
    from facezoo.training.trainer import Trainer


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        folder: the run folder.
        last: checkpoint to continue from.
        best: checkpoint to use; None before the first evaluation.
        epochs: epochs completed.
        updates: updates done.
        finished: whether all epochs are done (``stop_after`` ends earlier).
        best_metric: what the best checkpoint is best by.
        best_value: its value, higher is better (1 - EER for ``eer``), fraction of 1; None before the first evaluation.
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


def describe_start(trainer: Trainer) -> str:
    """What is trained on what, in a few lines."""
    config, dist, state, data = trainer.config, trainer.dist, trainer.state, trainer.data
    counts = {name: count_parameters(part) for name, part in trainer.objective.named_children()}
    parameters = " + ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    lines = [
        data.describe() if hasattr(data, "describe") else f"{len(data.train)} training images",
        f"{config.model} + {config.margin}: {sum(counts.values()):,} parameters ({parameters})",
        f"{config.epochs} epochs of {trainer.batches.updates_per_epoch} updates of {config.batch_size} images on "
        f"{dist.world_size} x {trainer.device}, amp {config.amp}; best by {trainer.best_metric}; run folder {config.out}",
    ]
    if trainer.best_metric != config.best_metric:
        lines.append(f"this data cannot give {config.best_metric}: best by {trainer.best_metric} instead")
    if state.updates:
        lines.append(f"going on at epoch {state.epoch + 1}, update {state.updates}")
    return "\n".join(lines)


def describe_epoch(row: dict[str, Any], epochs: int) -> str:
    """A row of epochs.csv as one line."""
    parts = [f"epoch {row['epoch']}/{epochs}: loss {row['train_loss']:.4f}"]
    if row["train_accuracy"] != "":
        parts.append(f"train accuracy {row['train_accuracy']:.2%}")
    parts += [
        f"{label} {row[name]:.2%}" for name, label in (("dev_accuracy", "dev accuracy"), ("eer", "EER")) if name in row
    ]
    parts.append(f"{row['images_per_second']:.0f} img/s")
    return ", ".join(parts) + (" (best)" if row.get("best") else "")
