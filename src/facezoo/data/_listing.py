"""Reading text lists and looking up the files that they name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from facezoo.data.errors import DataError, first_few

# A shared file system answers one listing of a folder far sooner than one question per image; below this many names in a folder
# (LFW has 5,749 folders of one or two) asking is as quick.
_LIST_FROM = 8


def read_lines(file: str | os.PathLike[str], what: str) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, stripped, with their numbers from 1.

    A byte-order mark (UTF-8 or UTF-16) and Unix, Windows and old Mac line ends are understood.

    Args:
        file: the text file.
        what: what it should be, for messages: ``"list of pairs"``.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not text, or has no line that is not blank.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{what} {path.as_posix()!r} does not exist" + (" as a file" if path.exists() else ""))
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{what} {path.as_posix()!r} is not text in {encoding}: {error}; save it as UTF-8") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line]
    if not lines:
        raise DataError(f"{what} {path.as_posix()!r} is empty")
    return lines


def as_relative(name: str) -> str:
    r"""A file name as written in a list, with ``/`` for Windows' ``\`` and without a leading ``./``."""
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def missing_files(root: str | os.PathLike[str], names: Iterable[str]) -> list[str]:
    """Those of ``names`` (relative to ``root``) that are no file, each once, folder by folder."""
    by_folder: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        folder, _, _ = name.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
    missing: set[str] = set()
    for folder, members in by_folder.items():
        where = os.path.join(root, folder)
        present: set[str] = set()
        if len(members) >= _LIST_FROM and os.path.isdir(where):
            with os.scandir(where) as entries:
                present = {entry.name for entry in entries if entry.is_file()}
        # Asking again about the rest is right where the file system ignores case.
        missing.update(
            name
            for name in members
            if name.rpartition("/")[2] not in present and not os.path.isfile(os.path.join(root, name))
        )
    return [name for members in by_folder.values() for name in members if name in missing]


def check_files(root: str | os.PathLike[str], names: Sequence[str], named_by: str | os.PathLike[str]) -> None:
    """Raise :class:`DataError` with count and first few names if some of ``names`` are no file under ``root``."""
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"image folder {Path(root).as_posix()!r} (for {Path(named_by).as_posix()!r}) does not exist"
        )
    missing = missing_files(root, names)
    if missing:
        raise DataError(
            f"{Path(named_by).as_posix()!r} names {len(missing)} of {len(set(names))} images that are not in "
            f"{Path(root).as_posix()!r}: {first_few(missing)}; unpack the images completely, or name the right folder"
        )


def visible_entries(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """What a folder holds, in the order of names, without hidden entries (``.ipynb_checkpoints``) and ``__MACOSX``."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    yield from sorted(kept, key=lambda entry: entry.name)


def is_unlabeled(lines: Sequence[tuple[int, str]]) -> bool:
    """Whether every line is one field only: a list of images rather than of images and labels."""
    return all(len(line.split()) == 1 for _, line in lines)
