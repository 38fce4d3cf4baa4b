"""Files that are there whole or not at all."""

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
    """A temporary path beside ``target``, for the block to write; afterwards ``target`` is the whole new file or still the old one.

    What was written is flushed to the disk and renamed if the block ends well, and removed if it does not (Ctrl-C included).
    Missing folders are made. A symbolic link is followed: the file it points to is replaced.

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
        # a rename that reaches the disk before the data would leave an empty file after a crash
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
    """Make the rename durable, where the system lets a folder be opened (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
