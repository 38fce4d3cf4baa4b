"""The folder of a run: config.json, steps.csv, epochs.csv, last.safetensors (or last.json), best.safetensors, tensorboard/."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO

from facezoo.training.config import TrainConfig
from facezoo.training.distributed import Distributed
from facezoo.training.machine import require_disk_space
from facezoo.training.sharded_files import FOLDER, HEADER

FILES = ("config.json", "steps.csv", "epochs.csv", "last.safetensors", HEADER, "best.safetensors")


class RunLock:
    """Keeps two processes from training in one folder: a lock on ``.lock``, released when the process ends, also after a crash.

    Args:
        folder: the run folder. With None, or on a file system without locks, nothing is locked.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / ".lock"
        self._file: IO[str] | None = None

    def acquire(self) -> str:
        """Take the lock. Returns "" on success, else the process that holds it."""
        if self._path is None:
            return ""
        try:
            import fcntl
        except ImportError:  # Windows
            return ""
        file = self._path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(100).strip() or "another process"
            file.close()
            return holder
        except OSError:  # some network file systems have no locks
            file.close()
            return ""
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        self._file = file
        return ""

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def open_run_folder(
    dist: Distributed, config: TrainConfig, *, resume: bool, overwrite: bool, size: int = 0
) -> tuple[bool, RunLock]:
    """Create or check the folder of a run, and lock it. Rank 0 does it, and all ranks get the result.

    Args:
        dist: rank and world size.
        config: the settings; written to config.json.
        resume: resume an existing run.
        overwrite: remove an existing run (only its own files).
        size: size of a checkpoint in bytes, to check the disk space.

    Returns:
        Whether there is a checkpoint to resume from, and the lock, a context manager that the caller must close.

    Raises:
        ValueError: ``resume`` and ``overwrite`` together.
        FileExistsError: the folder contains a run, and neither is given.
        OSError: another process trains in the folder, or the disk is full.
    """
    if resume and overwrite:
        raise ValueError("resume continues the run and overwrite removes it; choose one")
    folder = Path(config.output.folder)
    lock = RunLock(folder if dist.is_main else None)

    def open_it() -> bool:
        there = [name for name in FILES if (folder / name).exists()]
        if there and not (resume or overwrite):
            raise FileExistsError(
                f"{folder} holds a run already ({', '.join(there)}): continue it with --resume, "
                "replace it with --overwrite, or choose another --out"
            )
        require_disk_space(folder, size)
        folder.mkdir(parents=True, exist_ok=True)
        if holder := lock.acquire():
            raise OSError(f"{folder}: {holder} is training there; wait, stop it, or choose another --out")
        return _prepare(folder, config, there, resume=resume, overwrite=overwrite)

    found, problem = dist.on_main(open_it)
    if problem is not None:
        lock.__exit__(None, None, None)
        raise problem
    return bool(found), lock


def _prepare(folder: Path, config: TrainConfig, there: list[str], *, resume: bool, overwrite: bool) -> bool:
    if overwrite:
        for name in (*there, "recipe.json", "report.html"):
            (folder / name).unlink(missing_ok=True)
        for name in ("tensorboard", FOLDER):
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in FILES:  # left by a killed process
        for orphan in folder.glob(f".{name}.*.tmp"):
            with contextlib.suppress(OSError):
                orphan.unlink()
    found = resume and ("last.safetensors" in there or HEADER in there)
    if not found:
        save_settings(folder, config)
    return found


def save_settings(folder: Path, config: TrainConfig) -> None:
    """Write ``config.json``, from which ``--resume`` goes on: without where this call stops, which a resumed run is to pass."""
    config.replace(stop_after=None, stop_epoch=None).save(folder / "config.json")
