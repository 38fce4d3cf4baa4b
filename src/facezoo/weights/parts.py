"""Checkpoints in several files, as the Hub's libraries write large ones: ``model-00001-of-00002.safetensors``, … and an index."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from facezoo.weights.errors import CheckpointError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.safetensors|\.bin)")
_INDEX = re.compile(r"(.+)(\.safetensors|\.bin)\.index\.json")


def parts_of(path: Path) -> list[Path]:
    """All files of the checkpoint that ``path`` is a part or the index of; any other file alone.

    The index is not read: the names of the parts say how many there are, and they lie beside it.

    Raises:
        CheckpointError: not all parts are there.
    """
    if index := _INDEX.fullmatch(path.name):
        pattern = f"{glob.escape(index[1])}-{'[0-9]' * 5}-of-{'[0-9]' * 5}{index[2]}"
        beside = sorted(path.parent.glob(pattern))
        if not beside:
            raise CheckpointError(
                f"{path} is the index of a checkpoint in parts, and none of them ({index[1]}-00001-of-…{index[2]}) lies beside it; "
                "put all of them into this folder"
            )
        path = beside[0]
    part = _PART.fullmatch(path.name)
    if part is None:
        return [path]
    count = int(part[3])
    names = [f"{part[1]}-{number:05d}-of-{part[3]}{part[4]}" for number in range(1, count + 1)]
    if missing := [name for name in names if not path.with_name(name).is_file()]:
        raise CheckpointError(
            f"{path} is one of the {count} parts of a checkpoint, and {len(missing)} of them do not lie beside it (first "
            f"{missing[0]}); put all of them into this folder"
        )
    return [path.with_name(name) for name in names] or [path]
