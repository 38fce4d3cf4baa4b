"""Errors that stop a run, each with a one-line message."""

from __future__ import annotations

import signal
from pathlib import Path


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite. The last checkpoint was saved before that."""

    def __init__(self, loss: float, update: int, epoch: int, lr: float, last: Path | None, found: str = "") -> None:
        intact = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        super().__init__(
            f"the loss is {loss} at update {update} (epoch {epoch}, learning rate {lr:.3g}{'; ' * bool(found)}{found}); {intact}. "
            "Lower lr, lengthen warmup_epochs, set clip_grad_norm, or use amp='bf16' instead of 'fp16'"
        )
        self.update, self.lr = update, lr


class TrainingInterrupted(RuntimeError):
    """A run was stopped by a signal, after saving a checkpoint.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, number: int, last: Path, out: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; everything is in {last}. {how_to_resume(out)}")
        self.signal = number


class TrainingDataError(RuntimeError):
    """An image could not be read in the middle of a run. The checkpoint has everything before it."""


class RankLostError(RuntimeError):
    """Another process of the training has died or failed, so this one cannot go on."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what[:600].rstrip('. ')}. So this process ends too; the last checkpoint is whole: go on with --resume"
        )


def data_error(error: Exception, last: Path, out: str) -> Exception:
    """The error of a data worker in one line: the file, and how to resume.

    torch wraps it in the worker's traceback, whose last line is the error itself.
    """
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    message = lines[-1] if lines else repr(error)
    if is_lost_worker(error):
        message = (
            f"{message.rstrip('. ')}: a loading process was ended from outside, mostly for want of memory "
            "(lower --num-workers or --batch-size)"
        )
    message = message[:1000]
    _, _, tail = message.partition(": ")
    if str(error).startswith("Caught ") and tail:
        message = tail
    what = (
        "make room"
        if is_lost_worker(error)
        else "repair or replace the image (`facezoo doctor` finds all such images); without it, begin a new run"
    )
    saved = f"Progress is saved in {last}; {what}. {how_to_resume(out)}" if last.exists() else ""
    return TrainingDataError(f"{message.rstrip('.')}. {saved}".strip())


def is_data_error(error: Exception) -> bool:
    """Whether an error comes from reading data, in this process or in a data worker (whose errors torch wraps)."""
    from facezoo.data import DataError

    return isinstance(error, DataError) or str(error).startswith("Caught ") or is_lost_worker(error)


def is_lost_worker(error: Exception) -> bool:
    """Whether an error means that a data worker has died."""
    return isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")


def how_to_resume(out: str) -> str:
    """The command that resumes a run."""
    return f"Resume with: facezoo train --resume --out {out}"
