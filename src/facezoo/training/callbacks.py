"""Callbacks of the trainer. Subclass :class:`Callback`, and pass an instance: ``Trainer(config, callbacks=[Mine()])``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Row = Mapping[str, float | int | str]


@dataclass(frozen=True)
class RunStart:
    """The arguments of :meth:`Callback.on_start`.

    Attributes:
        folder: the run folder.
        settings: the settings, as in ``config.json``.
        updates: updates done before; 0 in a new run.
        epochs: epochs completed before.
    """

    folder: Path
    settings: Mapping[str, Mapping[str, object]]
    updates: int
    epochs: int


class Callback:
    """Called by the trainer on rank 0. Each method does nothing unless it is overridden.

    An exception in a callback ends the run. Rows have the columns of ``steps.csv`` and ``epochs.csv``.
    """

    def on_start(self, run: RunStart) -> None:
        """Before the first update."""

    def on_update(self, row: Row) -> None:
        """After every ``log_interval`` updates and at the end of an epoch: update, epoch, loss, lr, images_per_second, ..."""

    def on_epoch(self, row: Row) -> None:
        """After an epoch and its evaluation: epoch, updates, train_loss, train_accuracy, dev_accuracy, eer, ..."""

    def on_end(self) -> None:
        """At the end, also after an error."""
