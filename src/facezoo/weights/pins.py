"""Local data about registered weights: the file that was pinned on first use, and converted downloads.

Each record has a folder ``weights/MODEL.TAG`` below ``FACEZOO_HOME`` (default: ``facezoo`` in ``XDG_CACHE_HOME``, or in
``~/.cache``). It contains ``lock.json``, the fingerprint written by ``facezoo weights check`` and, if facezoo does not download
the file itself, the network that ``facezoo convert`` wrote from the user's download.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from facezoo.files import write_atomic
from facezoo.weights.errors import CheckpointError, shorten
from facezoo.weights.records import WeightsRecord

FORMAT, VERSION = "facezoo.lock", 1
_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Pin:
    """The file of a record when it was first used.

    Attributes:
        repository: ``owner/name``.
        file: path in the repository.
        revision: commit of the repository; for a file that the user downloaded, the record's revision.
        sha256: SHA-256 of the published file.
    """

    repository: str
    file: str
    revision: str
    sha256: str


def weights_folder(record: WeightsRecord) -> Path:
    """The local folder of ``record``; it may not exist."""
    home = os.environ.get("FACEZOO_HOME")
    if not home:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        home = os.fspath(Path(cache) / "facezoo")
    return Path(home).expanduser() / "weights" / record.name


def lock_file(record: WeightsRecord) -> Path:
    """The record's ``lock.json``; it may not exist."""
    return weights_folder(record) / "lock.json"


def read_pin(record: WeightsRecord) -> Pin | None:
    """The pin of ``record``; None before its first use.

    Raises:
        CheckpointError: the lock cannot be read, is damaged, or names another file than the record.
    """
    path = lock_file(record)
    if not path.exists():
        return None
    advice = f"if you mean to take the published file anew, delete {path}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT or values["version"] != VERSION:
            raise ValueError(f"format {values['format']!r}, version {values['version']!r}")
        pin = Pin(**{field.name: values[field.name] for field in dataclasses.fields(Pin)})
        if not all(isinstance(value, str) for value in dataclasses.astuple(pin)) or not _HEXADECIMAL.fullmatch(
            pin.sha256
        ):
            raise ValueError("a value is not text, or the SHA-256 is not one")
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"weights {record.name}: the lock {path} cannot be read ({shorten(error)}); {advice}"
        ) from None
    if (pin.repository, pin.file) != (record.repository, record.file):
        raise CheckpointError(
            f"weights {record.name} are locked to {shorten(pin.file, 60)} of {shorten(pin.repository, 60)}, and the record names "
            f"{record.file} of {record.repository}; {advice}"
        )
    if record.sha256 not in (None, pin.sha256):
        raise CheckpointError(
            f"weights {record.name} are locked to the SHA-256 {pin.sha256}, and the record says {record.sha256}; {advice}"
        )
    return pin


def write_pin(record: WeightsRecord, pin: Pin) -> None:
    """Write the lock atomically. Raises :class:`CheckpointError` if it cannot be written."""
    path = lock_file(record)
    values = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(pin)}
    try:
        write_atomic(path, json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"could not write {path}: {error}; set FACEZOO_HOME to a folder that can be written"
        ) from error


def require_same(record: WeightsRecord, sha256: str, what: str) -> None:
    """Compare a file's SHA-256 with the record's, its known first digits, and the lock's.

    Raises:
        CheckpointError: they differ; ``what`` names the file.
    """
    known = [(record.sha256, "the record says"), (record.sha256_begins, "its published name begins with")]
    pin = read_pin(record)
    if pin is not None:
        known.append((pin.sha256, f"{lock_file(record)} says"))
    for digits, source in known:
        if digits and not sha256.startswith(digits):
            raise CheckpointError(
                f"{what} is not the file of weights {record.name}: its SHA-256 is {sha256}, {source} {digits}. Download it again "
                f"from {record.address}; if that does not help, somebody changed it: do not trust it"
            )
