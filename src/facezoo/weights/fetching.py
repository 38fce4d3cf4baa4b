"""Get the file of a registered record: facezoo's own, a download, pinned on first use, or the user's conversion."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import warnings
from pathlib import Path

from facezoo.weights import records
from facezoo.weights.config import CONFIG_FILE
from facezoo.weights.errors import CheckpointError, shorten
from facezoo.weights.hub import HubError, download, is_offline, look_up
from facezoo.weights.pins import Pin, lock_file, read_pin, weights_folder, write_pin
from facezoo.weights.pretrained import LOCAL, PretrainedFiles, find_pretrained, sha256_of
from facezoo.weights.records import NOT_STATED, WeightsRecord

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_weights(record: WeightsRecord) -> PretrainedFiles:
    """Find the file of a registered record in facezoo itself, in the cache or among the converted files, or download it.

    A record without SHA-256 is pinned on first use: the file's commit and SHA-256, as reported by the Hub, are written to a lock
    file, and later only this file is accepted. If the license does not allow commercial use, or is missing, a
    :class:`LicenseNotice` is shown once.

    Raises:
        CheckpointError: the file differs from the record or the lock; or facezoo does not download it and it was not converted
            yet (the message says what to download and which command to run).
        HubError: see :func:`facezoo.weights.hub.download`.
    """
    if record.bundled and record.sha256 is not None:
        path = Path(records.__file__).parent / record.file
        if not path.is_file() or sha256_of(path) != record.sha256:
            raise CheckpointError(
                f"weights {record.name}: {path}, a part of facezoo, is missing or changed: install facezoo again"
            )
        found = _files(record, path, Pin(record.repository, record.file, record.revision, record.sha256))
    elif not record.downloadable:
        found = _converted(record)
    elif record.sha256 is not None:
        path = download(record.repository, record.file, revision=record.revision)
        found = _files(record, path, Pin(record.repository, record.file, record.revision, record.sha256))
    else:
        pin = read_pin(record)
        path, pin = _first_use(record) if pin is None else (_download(pin), pin)
        found = dataclasses.replace(_files(record, path, pin), expected_by=str(lock_file(record)))
    notice_license(record)
    return found


def _first_use(record: WeightsRecord) -> tuple[Path, Pin]:
    """Ask the Hub for the file's SHA-256, download the file, compare, and write the lock."""
    if is_offline():  # the cached file came from the Hub earlier, with its commit
        path, promised = download(record.repository, record.file, revision=record.revision), None
        commit = path.parent.name if _COMMIT.fullmatch(path.parent.name) else record.revision
    else:
        commit, promised = look_up(record.repository, record.file, revision=record.revision)
        path = download(record.repository, record.file, revision=commit)
    found = sha256_of(path)
    if promised not in (None, found):
        raise CheckpointError(
            f"{path} of weights {record.name} is not the file that {record.repository} announced: its SHA-256 is {found}, "
            f"announced was {promised}. Delete the file and try again; if that does not help, do not trust it"
        )
    pin = Pin(record.repository, record.file, commit, found)
    write_pin(record, pin)
    return path, pin


def _download(pin: Pin) -> Path:
    return download(pin.repository, pin.file, revision=pin.revision)


def _files(record: WeightsRecord, path: Path, pin: Pin) -> PretrainedFiles:
    return PretrainedFiles(
        origin=f"weights {record.name} ({record.repository}@{pin.revision})",
        path=path,
        sha256=pin.sha256,
        model=record.model,
        model_args=record.model_args,
        preprocessing=record.preprocessing,
        layout=record.layout,
    )


def _converted(record: WeightsRecord) -> PretrainedFiles:
    """The folder that ``facezoo convert`` wrote from the user's download."""
    folder = weights_folder(record)
    if not (folder / CONFIG_FILE).is_file():
        why = "pickles can run code" if record.format == "PyTorch" else "its SHA-256 is not known"
        raise CheckpointError(
            f"weights {record.name}: {record.file} of {record.repository} is a file of {record.format}, which facezoo does not "
            f"download ({why}). Download it from {record.address}, then run: {record.convert_command}"
        )
    found = find_pretrained(f"{LOCAL}{folder}")
    if found.model != record.model:
        raise CheckpointError(
            f"{folder} holds a {shorten(found.model)}, not weights {record.name}; delete it, and run: {record.convert_command}"
        )
    return dataclasses.replace(found, origin=f"weights {record.name} (converted, {folder})")


class LicenseNotice(UserWarning):
    """The license of the weights does not allow commercial use, or is not stated."""


def notice_license(record: WeightsRecord) -> None:
    """Warn with a :class:`LicenseNotice`, once per process, unless ``record`` may be used commercially."""
    if not record.commercial:
        _notice(record.name, record.license, record.terms, record.address)


@functools.cache
def _notice(name: str, license: str, terms: str, address: str) -> None:
    said = "state no license" if license == NOT_STATED else f"are under the license {license}"
    more = f"; {terms}" if terms else ""
    text = f"weights {name} {said}{more}: see {address} before you use them for more than research"
    warnings.warn(text, LicenseNotice, stacklevel=5)


def newer_file(record: WeightsRecord) -> str:
    """One line if the Hub now has another file than the pinned one; empty if not, or if the Hub cannot be reached."""
    pin = read_pin(record)
    if pin is None or not record.downloadable or is_offline():
        return ""
    try:
        commit, sha256 = look_up(record.repository, record.file, revision=record.revision)
    except HubError:
        return ""
    if sha256 in (None, pin.sha256):
        return ""
    return (
        f"{record.repository} now has another {record.file} (commit {commit}, SHA-256 {sha256}); the pinned one stays in use "
        f"until {lock_file(record)} is deleted"
    )


def stated_otherwise(record: WeightsRecord) -> str:
    """One line if the repository itself states another channel order than ``record``; empty if not, or if it states none.

    Repositories of CVLface have a ``config.json`` with ``conf.color_space``. Where it is ``BGR``, CVLface's own class turns the
    channels of the RGB image that it is given; the weights then want BGR. But CVLface's class reads the same word from a YAML file
    too, which facezoo does not download, and copies of the two are known that differ. So nothing is decided here.
    """
    if record.layout != "cvlface" or not record.downloadable:
        return ""
    pin = read_pin(record)
    try:
        path = download(record.repository, CONFIG_FILE, revision=record.revision if pin is None else pin.revision)
        stated = json.loads(path.read_text(encoding="utf-8"))["conf"]["color_space"].lower()
    except (HubError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        order = record.preprocessing.channel_order
        return f"{CONFIG_FILE} of {record.repository} states no color_space; the record's {order} stands"
    if stated == record.preprocessing.channel_order:
        return ""
    return (
        f"{CONFIG_FILE} of {record.repository} states color_space {shorten(stated, 20)}, the record "
        f"{record.preprocessing.channel_order}: compare pretrained_model/model.yaml there, or measure both with --pairs; "
        "model.preprocessing can be set"
    )
