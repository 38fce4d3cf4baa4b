"""Sharded checkpoints: every rank writes its own tensors with torch.distributed.checkpoint, as safetensors.

``last.json`` is the header of a checkpoint: it names the folder in ``last.parts`` with the tensors, and their shapes. It is written
after them, so it always names a complete checkpoint. Any number of ranks can read it; :func:`whole_checkpoint` makes one file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from facezoo.files import write_atomic
from facezoo.margins.shard import ClassShard
from facezoo.training.sharding import base_name
from facezoo.weights import CheckpointError, save_file_atomic
from facezoo.weights.errors import shorten
from facezoo.weights.run_format import read_header

HEADER, FOLDER = "last.json", "last.parts"
_NAME = re.compile(r"\d{1,20}-\d{1,6}")
_MOST = 1 << 30  # bytes of a header


def require_sharded_files() -> Any:
    """Import torch.distributed.checkpoint. Raises ValueError if it cannot store safetensors (before torch 2.8)."""
    dcp = importlib.import_module("torch.distributed.checkpoint") if dist.is_available() else None
    if not hasattr(dcp, "HuggingFaceStorageWriter"):
        raise ValueError(
            f"checkpoint_format='sharded' needs torch 2.8 or newer (torch.distributed.checkpoint with safetensors); this is "
            f"{torch.__version__}. Use checkpoint_format='single'"
        )
    return dcp


def write_parts(
    run: Path, tensors: Mapping[str, Tensor], shards: Mapping[str, ClassShard], metadata: Mapping[str, str]
) -> None:
    """Write a sharded checkpoint; called by every rank.

    Args:
        run: the run folder.
        tensors: tensors of this rank by name. Those in ``shards`` are its rows; the others are equal on all ranks.
        shards: the rows of each rank, by name of the sharded weight.
        metadata: the header of the checkpoint.

    Raises:
        CheckpointError: it could not be written; the previous checkpoint is still complete.
    """
    dcp = require_sharded_files()
    alone = not (dist.is_initialized() and dist.get_world_size() > 1)
    main = alone or dist.get_rank() == 0
    placed = {name: _placed(name, value.detach(), shards) for name, value in tensors.items()}
    box = [_free_name(run, json.loads(metadata["state"])["updates"]) if main else ""]
    if not alone:
        group = dist.group.WORLD
        dist.broadcast_object_list(box, src=0, group=group, device=_any_device(group))
    folder = run / FOLDER / box[0]
    writer = dcp.HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    planner = dcp.DefaultSavePlanner(dedup_save_to_lowest_rank=True)  # batch norms' statistics: those of rank 0
    try:
        with _quietly():
            dcp.save(placed, storage_writer=writer, planner=planner, no_dist=alone)
    except (dcp.api.CheckpointException, OSError) as error:
        if main:
            shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(f"{folder}: the checkpoint could not be written ({shorten(error)})") from error
    if main:
        shapes = {name: list(value.shape) for name, value in placed.items()}
        text = json.dumps({"header": dict(metadata), "folder": folder.name, "shapes": shapes})
        write_atomic(run / HEADER, text)
        for old in (run / FOLDER).iterdir():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        (run / "last.safetensors").unlink(missing_ok=True)


def remove_parts(run: Path) -> None:
    """Remove a sharded checkpoint after a single file has replaced it."""
    (run / HEADER).unlink(missing_ok=True)
    shutil.rmtree(run / FOLDER, ignore_errors=True)


def read_parts(path: Path, shards: Mapping[str, ClassShard]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read this rank's tensors of a sharded checkpoint, and its header; called by every rank of a process group.

    Args:
        path: ``last.json`` of a run.
        shards: the rows of this rank, by name of the weight; {} for whole tensors.

    Raises:
        CheckpointError: the checkpoint is damaged, or a part is missing.
    """
    dcp = require_sharded_files()
    shapes, folder, header = _read_header(path)
    try:
        reader = dcp.HuggingFaceStorageReader(path=str(folder))
        found: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
    except Exception as error:  # torch's and safetensors' own kinds
        raise CheckpointError(f"{folder}: its parts cannot be read ({shorten(error)})") from None
    for name, shape in shapes.items():
        chunks = found[name].chunks if name in found else ()
        there = sum(math.prod(chunk.sizes) for chunk in chunks)
        if name not in found or list(found[name].size) != shape or there != math.prod(shape):
            raise CheckpointError(f"{folder}: {shorten(name)} is not there as a whole; a part is missing or damaged")
    if extra := found.keys() - shapes.keys():
        raise CheckpointError(f"{folder}: {shorten(min(extra))} is not one of this checkpoint's tensors")
    targets = {name: _target(name, entry.size, entry.properties.dtype, shards) for name, entry in found.items()}
    try:
        with _quietly():
            dcp.load(targets, storage_reader=dcp.HuggingFaceStorageReader(path=str(folder)), no_dist=not shards)
    except Exception as error:
        raise CheckpointError(f"{folder}: its parts cannot be read ({shorten(error)})") from None
    return {name: value.to_local() if hasattr(value, "to_local") else value for name, value in targets.items()}, header


def whole_checkpoint(run: str | Path) -> Path:
    """Write the single file ``last.safetensors`` from a sharded checkpoint, which stays; for one process. Returns its path.

    Raises:
        CheckpointError: the run has no sharded checkpoint, or it is damaged.
    """
    run = Path(run)
    if not (run / HEADER).exists():
        raise CheckpointError(f"{run} has no checkpoint in parts ({HEADER}); name the folder of a run")
    tensors, header = read_parts(run / HEADER, {})
    save_file_atomic(run / "last.safetensors", tensors, header)
    return run / "last.safetensors"


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint to resume from: ``last.safetensors`` or ``last.json``, whichever has more updates; None without either."""
    found = [path for path in (run / HEADER, run / "last.safetensors") if path.exists()]
    if len(found) < 2:  # both: one was converted from the other, or a process was killed before it removed the older
        return found[0] if found else None
    return max(found, key=_updates)


def _updates(path: Path) -> int:
    if path.name == HEADER:
        header = _read_header(path)[2]
    else:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    updates = read_header(path, header, "state").get("updates")
    return updates if isinstance(updates, int) else -1


def _read_header(path: Path) -> tuple[dict[str, list[int]], Path, dict[str, str]]:
    try:
        if path.stat().st_size > _MOST:
            raise ValueError("it is too large")
        values = json.loads(path.read_text(encoding="utf-8"))
        shapes, folder, header = values["shapes"], values["folder"], values["header"]
        if not isinstance(folder, str) or not _NAME.fullmatch(folder):
            raise ValueError("folder is not a name that facezoo gives")
        if not all(isinstance(name, str) and isinstance(text, str) for name, text in header.items()):
            raise ValueError("header contains something other than text")
        if not all(isinstance(shape, list) for shape in shapes.values()):
            raise ValueError("shapes contains something other than lists")
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the header of this checkpoint is damaged ({shorten(repr(error))})") from None
    return shapes, path.parent / FOLDER / folder, header


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Suppress torch's warning that only one process saves or loads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _placed(name: str, value: Tensor, shards: Mapping[str, ClassShard]) -> Tensor:
    shard = shards.get(base_name(name))
    return value if shard is None or value.dim() == 0 else shard.as_dtensor(value)


def _target(name: str, size: torch.Size, dtype: torch.dtype, shards: Mapping[str, ClassShard]) -> Tensor:
    shard = shards.get(base_name(name))
    if shard is None or not size:
        return torch.empty(size, dtype=dtype)
    if size[0] != shard.num_classes:
        raise CheckpointError(f"{shorten(name)} has {size[0]} rows, needed are {shard.num_classes}")
    return shard.as_dtensor(torch.empty(shard.count, *size[1:], dtype=dtype))


def _free_name(run: Path, updates: int) -> str:
    taken = {path.name for path in (run / FOLDER).glob("*")}
    return next(name for turn in range(10**6) if (name := f"{updates}-{turn}") not in taken)


def _any_device(group: Any) -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device()) if dist.get_backend(group) == "nccl" else torch.device("cpu")
    )
