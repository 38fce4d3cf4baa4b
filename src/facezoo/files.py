"""Atomic writing of files."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_NO_ROOM = tuple(getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name))


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``target`` to write to; afterwards ``target`` is the complete new file or still the old one.

    The temporary file is flushed to the disk and renamed if the block succeeds, and removed if it fails (also on Ctrl-C).
    Missing folders are created. A symbolic link is followed: the file it points to is replaced.

    Raises:
        OSError: the file could not be written (disk full, no permission, ``target`` is a folder, ...).
    """
    if os.path.isdir(target):
        raise IsADirectoryError(f"{os.fspath(target)} is a folder; name a file in it")
    final = Path(os.path.realpath(target))
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        # if the rename reached the disk before the data, a crash would leave an empty file
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, final)
        _sync_folder(final.parent)
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            error.filename = os.fspath(target)  # the system does not say which file found no room
        raise
    finally:
        with contextlib.suppress(OSError):  # after the rename there is nothing left to remove
            temporary.unlink(missing_ok=True)


def write_atomic(target: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a whole file as :func:`atomic_path` does. Text is UTF-8 with ``\\n``."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def _sync_folder(folder: Path) -> None:
    """Make the rename durable, if the system can open a folder (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
