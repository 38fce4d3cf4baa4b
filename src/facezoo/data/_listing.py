"""Read text lists, and look up the files that they name."""

from __future__ import annotations

import csv
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from facezoo.data.errors import DataError, first_few
from facezoo.data.image import IMAGE_EXTENSIONS, is_image_name, is_unread_photo

# On a shared file system, listing a folder once is much faster than one query per image. For fewer names than this in one folder
# (LFW has 5,749 folders with one or two images) single queries are as fast.
_LIST_FROM = 8


def read_lines(file: str | os.PathLike[str], what: str) -> list[tuple[int, str]]:
    """The non-blank lines of a text file, stripped, with their line numbers (counted from 1).

    A byte-order mark (UTF-8 or UTF-16) and Unix, Windows and old Mac line ends are understood.

    Args:
        file: the text file.
        what: the kind of list, for messages, such as ``"list of pairs"``.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it is not text, or all its lines are blank.
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
    """The names (relative to ``root``) for which no file exists, without repetitions, folder by folder."""
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
        # A second query per name is needed on file systems that ignore case.
        missing.update(
            name
            for name in members
            if name.rpartition("/")[2] not in present and not os.path.isfile(os.path.join(root, name))
        )
    return [name for members in by_folder.values() for name in members if name in missing]


def check_files(root: str | os.PathLike[str], names: Sequence[str], named_by: str | os.PathLike[str]) -> None:
    """Raise :class:`DataError`, with the count and the first few names, if files are missing under ``root``."""
    if not Path(root).is_dir():
        raise FileNotFoundError(
            f"image folder {Path(root).as_posix()!r} (for {Path(named_by).as_posix()!r}) does not exist"
        )
    outside = [name for name in names if leaves_root(name)]
    if outside:
        raise DataError(
            f"{Path(named_by).as_posix()!r} names {len(outside)} images outside of {Path(root).as_posix()!r}: "
            f"{first_few(outside)}; write names relative to that folder"
        )
    missing = missing_files(root, names)
    if missing:
        raise DataError(
            f"{Path(named_by).as_posix()!r} names {len(missing)} of {len(set(names))} images that are not in "
            f"{Path(root).as_posix()!r}: {first_few(missing)}; unpack the images completely, or name the right folder"
        )


def visible_entries(folder: str | os.PathLike[str]) -> Iterator[os.DirEntry[str]]:
    """The entries of a folder, sorted by name, without hidden ones (``.ipynb_checkpoints``) and ``__MACOSX``."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    yield from sorted(kept, key=lambda entry: entry.name)


def images_below(root: str | os.PathLike[str], folder: str = "", unread: list[str] | None = None) -> Iterator[str]:
    """Names, relative to ``root``, of the images in ``root/folder`` and the folders inside it: first by name, then by depth.

    Training, ``embed``, ``pack`` and the doctor all use this function, so they agree on what an image is. Hidden entries,
    ``__MACOSX`` and files of other types are skipped. A folder named ``x.jpg`` is a folder. Links to folders are followed,
    except links to a folder that contains the link.

    Args:
        root: the folder that names are relative to.
        folder: a folder in it, with ``/`` between folders; empty for ``root`` itself.
        unread: a list that gets the names of photos whose format is not read, see :func:`tell_unread`.

    Raises:
        DataError: an entry is named like an image but is not a regular file: a pipe, a device, or a broken link.
    """
    start = os.path.join(root, folder) if folder else os.fspath(root)
    unread = [] if unread is None else unread
    yield from _images_below(start, f"{folder}/" if folder else "", (os.path.realpath(start),), unread)


def _images_below(place: str, prefix: str, above: tuple[str, ...], unread: list[str]) -> Iterator[str]:
    """``above``: the real paths of the folders that contain this one."""
    for entry in visible_entries(place):
        if entry.is_dir():
            inner = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
            if not any(_lies_in(folder, inner) for folder in above):
                yield from _images_below(entry.path, f"{prefix}{entry.name}/", (*above, inner), unread)
        elif is_image_name(entry.name):
            if not entry.is_file():
                raise DataError(
                    f"{Path(entry.path).as_posix()!r} is called like an image but is not a file (a pipe, a device, or a link that "
                    "leads nowhere); remove it"
                )
            yield prefix + entry.name
        elif is_unread_photo(entry.name):
            unread.append(prefix + entry.name)


def holds_photos(root: str | os.PathLike[str], folder: str = "") -> bool:
    """Whether there is an image in ``root/folder``, or a photo of a format that is not read."""
    unread: list[str] = []
    return next(images_below(root, folder, unread), None) is not None or bool(unread)


def images_in(folder: Path) -> list[Path]:
    """The images that lie directly in a folder, sorted by name. Warns of photos whose format is not read."""
    entries = [entry.name for entry in visible_entries(folder) if not entry.is_dir()]
    tell_unread(folder, [name for name in entries if is_unread_photo(name)])
    return [folder / name for name in entries if is_image_name(name)]


def tell_unread(root: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Warn of the photos ``names``, relative to ``root``, that are left out because their format is not read."""
    if names:
        place = Path(root).as_posix()
        warnings.warn(f"{place!r}: photos left out: {unread_formats(names)}", stacklevel=3)


def unread_formats(names: Sequence[str]) -> str:
    """What is said of photos whose format is not read: how many of each, the first few, and what to do."""
    counts = Counter(os.path.splitext(name)[1].lower() for name in names)
    kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common())
    return f"{kinds} ({first_few(names)}); facezoo does not read these formats, convert them to JPEG or PNG"


def _lies_in(folder: str, other: str) -> bool:
    return folder == other or folder.startswith(other.rstrip(os.sep) + os.sep)


def list_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The image files among ``paths``; folders are searched through as :func:`images_below` says, in order of names.

    Raises:
        FileNotFoundError: a path does not exist.
        DataError: a folder holds no image, or a path is not a regular file.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            unread: list[str] = []
            inside = [path / name for name in images_below(path, unread=unread)]
            if not inside:
                raise DataError(f"the folder {path.as_posix()!r} holds no images{no_images(unread)}")
            tell_unread(path, unread)
            found += inside
        elif path.is_file():
            found.append(path)
        elif path.exists():
            raise DataError(f"{path.as_posix()!r} is a pipe or a device, not an image file")
        else:
            raise FileNotFoundError(f"no image {path.as_posix()!r}")
    return found


def no_images(unread: Sequence[str]) -> str:
    """The end of a message that there are no images: photos that are not read, or else the formats that are."""
    return f"; it has {unread_formats(unread)}" if unread else f" ({', '.join(IMAGE_EXTENSIONS)})"


def leaves_root(name: str) -> bool:
    """Whether a relative name points outside its folder: an absolute path, a drive letter, or more ``..`` than folders."""
    if name.startswith("/") or name[1:2] == ":" or "\0" in name:
        return True
    depth = 0
    for part in name.split("/"):
        depth += -1 if part == ".." else part not in ("", ".")
        if depth < 0:
            return True
    return False


_IMAGE_COLUMNS = ("file", "filename", "file_name", "image", "img", "path", "name", "id")
_LABEL_COLUMNS = ("label", "labels", "class", "identity", "target", "same", "issame", "is_same", "match", "person")
_COLUMNS = frozenset(
    (*_IMAGE_COLUMNS, *_LABEL_COLUMNS, *(f"{word}{mark}{digit}" for word in _IMAGE_COLUMNS for mark in ("", "_") for digit in "12"))
)  # fmt: skip


def split_fields(
    lines: Sequence[tuple[int, str]], file: str | os.PathLike[str], *, columns: int | None = None
) -> list[tuple[int, list[str]]]:
    """Split every line of a list into fields; returns them with the line number, without the header.

    The separator is the tab if every line has one; names may then contain spaces. It is the comma, with quotes as in CSV, if
    the file name ends in ``.csv``, if there is a header, or if every line has a comma and either a field that ends in one or some
    line has the wrong number of fields when split at white space. Otherwise it is white space; with ``columns``, extra spaces
    belong to the first field.

    Args:
        lines: from :func:`read_lines`.
        file: the list; its suffix is used, and its name in messages.
        columns: 2 for a list ``file label``; None for any number of fields.

    Raises:
        DataError: a quote is not closed, or there is only a header.
    """
    texts = [line for _, line in lines]
    comma = all("," in text for text in texts)
    if all("\t" in text for text in texts):
        fields = [[part.strip() for part in text.split("\t")] for text in texts]
    elif comma and (_is_csv(file) or _is_header(next(csv.reader(texts[:1]), [])) or _needs_commas(texts, columns)):
        try:
            fields = [[part.strip() for part in row] for text in texts for row in csv.reader([text], strict=True)]
        except csv.Error as error:
            raise DataError(f"{Path(file).as_posix()!r} is not CSV: {error}") from None
    elif columns is not None:
        fields = [text.rsplit(maxsplit=columns - 1) for text in texts]
    else:
        fields = [text.split() for text in texts]
    rows = [(number, row) for (number, _), row in zip(lines, fields, strict=True)]
    if _is_header(fields[0]):
        rows = rows[1:]
        if not rows:
            raise DataError(f"{Path(file).as_posix()!r} has a header and no line after it")
    return rows


def _is_csv(file: str | os.PathLike[str]) -> bool:
    return os.fspath(file).lower().endswith(".csv")


def _is_header(fields: Sequence[str]) -> bool:
    return len(fields) > 1 and all(field.lower() in _COLUMNS for field in fields)


def _needs_commas(texts: Sequence[str], columns: int | None) -> bool:
    if all(any(field.endswith(",") for field in text.split()[:-1]) for text in texts):
        return True  # "a.jpg, b.jpg, 1"
    if columns is None:
        return any(len(text.split()) not in (2, 3) for text in texts)
    return any(len(text.split()) < columns for text in texts)


def is_unlabeled(lines: Sequence[tuple[int, str]]) -> bool:
    """Whether every line has a single field: a list of images without labels."""
    return all(len(line.split()) == 1 for _, line in lines) and not all("," in line for _, line in lines)
