"""The folder of a run: config.json, steps.csv, epochs.csv, last.safetensors, best.safetensors, tensorboard/."""

from __future__ import annotations

import shutil
from pathlib import Path

from facezoo.training.config import TrainConfig
from facezoo.training.distributed import Distributed

FILES = ("config.json", "steps.csv", "epochs.csv", "last.safetensors", "best.safetensors")


def open_run_folder(dist: Distributed, config: TrainConfig, *, resume: bool, overwrite: bool) -> bool:
    """Make or check the folder of a run; rank 0 does it, all ranks get the answer.

    Args:
        dist: this process among its peers.
        config: the settings; written to config.json.
        resume: go on with a run that is there.
        overwrite: remove a run that is there (its own files only).

    Returns:
        Whether there is a checkpoint to resume from.

    Raises:
        ValueError: ``resume`` and ``overwrite`` together.
        FileExistsError: there is a run and neither is given.
    """
    if resume and overwrite:
        raise ValueError("resume continues the run and overwrite removes it; choose one")
    folder = Path(config.out)
    found, problem = False, ""
    if dist.is_main:
        there = [name for name in FILES if (folder / name).exists()]
        if there and not (resume or overwrite):
            problem = (
                f"{folder} holds a run already ({', '.join(there)}): continue it with --resume, "
                "replace it with --overwrite, or choose another --out"
            )
        else:
            if overwrite:
                for name in there:
                    (folder / name).unlink()
                shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
            found = resume and "last.safetensors" in there
            if not found:
                config.save(folder / "config.json")
    found, problem = dist.broadcast((found, problem))
    if problem:
        raise FileExistsError(problem)
    return found
