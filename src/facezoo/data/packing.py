"""``facezoo pack``: turn any source into a packed folder, and list all problems of its images.

A shard is a fixed range of the source's images. It is written as a whole, with a note file beside it, so an interrupted run
resumes after the last complete shard and ends with the same files. The folder gets its final name at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from facezoo._version import __version__
from facezoo.checks import require_size
from facezoo.columns import csv_text
from facezoo.data.errors import DataError, ImageDecodeError, ImageReadError
from facezoo.data.image import decode_pixels, orientation
from facezoo.data.packed import HEADER, PAIRS, SPLITS
from facezoo.data.packing_pairs import copy_lists, lists_lost, renumbered_pairs
from facezoo.data.sources import Source
from facezoo.files import atomic_path, write_atomic

IMAGES_PER_SHARD = 4096
_TINY = 40  # pixels of the shorter side

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PackOptions:
    """Settings of :func:`pack`.

    Attributes:
        size: height and width, pixels; images of another size are resized (antialiased, bilinear), counted and listed.
        keep_files: store the image files unchanged, whatever their size.
        min_images: identities with fewer training images are left out.
        alignment: name of the template that the faces are aligned to, recorded in the header; None for unknown.
        images_per_shard: images of the source per shard.
        threads: number of decoding threads; None for one per core.
    """

    size: tuple[int, int] = (112, 112)
    keep_files: bool = False
    min_images: int = 1
    alignment: str | None = "arcface"
    images_per_shard: int = IMAGES_PER_SHARD
    threads: int | None = None

    def __post_init__(self) -> None:
        require_size(self.size)
        if self.min_images < 1 or self.images_per_shard < 1:
            raise ValueError(
                f"min_images and images_per_shard are at least 1; got {self.min_images} and {self.images_per_shard}"
            )


@dataclass
class PackReport:
    """Counts of packed images and of problems.

    Attributes:
        folder: the packed folder.
        images: number of images in it.
        left_out: number of images left out.
        problems: number of images by kind of problem; ``problems.csv`` names the images.
    """

    folder: Path
    images: int
    left_out: int
    problems: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.folder.as_posix()}: {self.images} images packed, {self.left_out} left out"]
        lines += [f"  {count:8d}  {_MEANING[kind]}" for kind, count in self.problems.items()]
        return "\n".join(
            lines + ([f"  each is named in {(self.folder / 'problems.csv').as_posix()}"] if self.problems else [])
        )


_MEANING = {
    "corrupt": "left out: cannot be decoded, or more than 8 bits per channel",
    "few_images": "left out: their identity has too few images",
    "unread_format": "left out: photos of a format that is not read, such as HEIC",
    "unlabeled": "left out: in no folder of an identity, beside images that are in one",
    "tiny": f"smaller than {_TINY} pixels",
    "resized": "of another size: resized",
    "turned": "with an orientation tag: turned upright",
    "transparent": "with transparency: dropped",
    "gray": "without color",
    "duplicate": "the same pixels as an earlier image of the same identity",
    "near_duplicate": "nearly the same picture as an earlier image of the same identity",
    "contradiction": "the same pixels as an image of another identity",
    "split_leak": "the same pixels as an image of another split",
    "pairs_leak": "identities that a list of evaluation pairs has too",
    "pairs_lost": "pairs left out: an image of theirs is",
    "lists_lost": "lists of evaluation pairs left out: of several sources only the images are packed",
}


def pack(
    source: Source, out: str | os.PathLike[str], options: PackOptions | None = None, *, progress: Progress | None = None
) -> PackReport:
    """Write the images of a source into a packed folder.

    Args:
        source: from :func:`facezoo.data.sources.open_source`.
        out: the folder to write. Finished shards are kept in ``<out>.partial``; after a crash the same call resumes from there.
        options: see :class:`PackOptions`.
        progress: called with the number of images done and the total number.

    Raises:
        FileExistsError: ``out`` exists, or another process packs into it.
        DataError: ``<out>.partial`` belongs to another source or other options, or no image is left.
        ImageReadError: a file cannot be read: it is gone, or there is no right to read it. Finished shards are kept.
        OSError: the disk is full, for example; finished shards are kept.
    """
    options = options or PackOptions()
    target = Path(os.path.abspath(out))
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target.as_posix()!r} exists already; remove it, or choose another --out")
    partial = target.with_name(target.name + ".partial")
    with _only_one(target):
        left_out = _left_out_at_once(source, options.min_images)
        _begin(partial, source, options)
        notes = []
        for number, first in enumerate(range(0, len(source), options.images_per_shard)):
            indices = range(first, min(first + options.images_per_shard, len(source)))
            notes.append(
                _shard(partial, source, options, number, [index for index in indices if index not in left_out])
            )
            if progress is not None:
                progress(indices.stop, len(source))
        report = _finish(partial, source, options, notes, left_out)
        if target.exists():
            target.rmdir()
        _tidy(partial, [*(f"shard-{number:05d}.bin" for number in range(len(notes))), *_FINISHED])
        os.replace(partial, target)
    report.folder = target
    return report


_FINISHED = ("index.npz", "names.txt", "identities.txt", "problems.csv", PAIRS, HEADER)
_OURS = ("shard-*.bin", "shard-*.note.json", ".*.tmp", *_FINISHED)


def _tidy(partial: Path, kept: Sequence[str] = ()) -> None:
    """Remove what only packing needs, and what killed runs have left; the plan last, for it says whose notes these are."""
    found = {path for pattern in _OURS for path in partial.rglob(pattern) if path.is_file()}
    for path in found - {partial / name for name in kept}:
        if path.parent == partial or path.suffix == ".tmp":
            path.unlink()
    (partial / "plan.json").unlink(missing_ok=True)


@contextlib.contextmanager
def _only_one(target: Path) -> Iterator[None]:
    """A lock that is released when the process ends, also after a crash."""
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_name(f".{target.name}.pack-lock")
    with open(file, "w") as opened:
        try:
            import fcntl

            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.exists(file) or not os.path.samestat(os.fstat(opened.fileno()), os.stat(file)):
                raise BlockingIOError  # the one who held the lock has just removed its file
        except ImportError:  # Windows: two at once are not noticed
            pass
        except OSError:
            raise FileExistsError(
                f"another process packs into {target.as_posix()!r}; wait for it, or choose another --out"
            ) from None
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def _begin(partial: Path, source: Source, options: PackOptions) -> None:
    """Write down source and options, or compare them with those of an interrupted run."""
    digest = blake2b(digest_size=16)
    for index in range(len(source)):
        digest.update(f"{source.name(index)}\0{source.labels[index]}\n".encode("utf-8", "surrogatepass"))
    digest.update("\0".join((*source.identities, "", *source.splits)).encode("utf-8", "surrogatepass"))
    plan = {
        "images": len(source), "digest": digest.hexdigest(), "size": list(options.size), "keep_files": options.keep_files,
        "min_images": options.min_images, "images_per_shard": options.images_per_shard,
    }  # fmt: skip
    file = partial / "plan.json"
    if file.is_file():
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            earlier = None
        if earlier != plan:
            raise DataError(f"{partial.as_posix()!r} was begun from another source or with other options; remove it")
    else:
        _tidy(partial)  # notes without a plan are nobody's
        write_atomic(file, json.dumps(plan))


def _left_out_at_once(source: Source, minimum: int) -> dict[int, tuple[str, str]]:
    """Images that are left out unseen, each with the kind of problem and what is to be said of it."""
    training = np.array([split == "train" for split in source.splits])
    left_out = _too_few(source, np.arange(len(source)), minimum)
    if source.pairs is None and (training & (source.labels >= 0)).any():
        left_out |= {int(index): ("unlabeled", "") for index in np.flatnonzero(training & (source.labels < 0))}
    return left_out


def _too_few(source: Source, kept: NDArray[np.int64], minimum: int) -> dict[int, tuple[str, str]]:
    """The images among ``kept`` of identities with training images, but fewer than ``minimum``."""
    if minimum < 2:
        return {}
    labels = source.labels[kept]
    splits = source.splits
    training = np.array([splits[int(index)] == "train" for index in kept], dtype=np.bool_) & (labels >= 0)
    counts = np.bincount(labels[training], minlength=len(source.identities))
    few = np.flatnonzero((counts > 0) & (counts < minimum))
    chosen = np.flatnonzero(np.isin(labels, few))
    return {int(kept[place]): ("few_images", source.identities[labels[place]]) for place in chosen}


def _shard(partial: Path, source: Source, options: PackOptions, number: int, indices: Sequence[int]) -> dict[str, Any]:
    """Write one shard and its note, unless both exist and are complete."""
    file, note_file = partial / f"shard-{number:05d}.bin", partial / f"shard-{number:05d}.note.json"
    read_from = _state_of_files(source, indices)
    if note_file.is_file() and file.is_file():
        with contextlib.suppress(
            ValueError, KeyError, TypeError, RecursionError
        ):  # a damaged note: the shard is written again
            note: dict[str, Any] = json.loads(note_file.read_text(encoding="utf-8"))
            if file.stat().st_size == note["bytes"] and note["read_from"] == read_from:
                return note
    entries, problems = [], []
    histogram = np.zeros((3, 256), dtype=np.int64)
    length, crc = 0, 0
    with (
        atomic_path(file) as temporary,
        open(temporary, "wb") as opened,
        ThreadPoolExecutor(options.threads or os.cpu_count()) as pool,
    ):
        for index, (content, pixels, found) in zip(indices, _ahead(pool, source, options, indices), strict=True):
            problems += [[index, kind, detail] for kind, detail in found]
            if pixels is None:
                continue
            opened.write(content)
            entries.append(
                [
                    index,
                    length,
                    len(content),
                    zlib.crc32(content),
                    _difference_hash(pixels),
                    zlib.crc32(pixels.tobytes()),
                ]
            )
            length, crc = length + len(content), zlib.crc32(content, crc)
            for channel in range(3):
                histogram[channel] += np.bincount(pixels[..., channel].reshape(-1), minlength=256)
    note = {
        "read_from": read_from, "bytes": length, "crc32": crc, "entries": entries, "problems": problems,
        "histogram": histogram.tolist(),
    }  # fmt: skip
    write_atomic(note_file, json.dumps(note))
    return note


def _state_of_files(source: Source, indices: Sequence[int]) -> str:
    """A digest of size and time of the files of these images: another file, or a mended one, is packed again."""
    digest = blake2b(digest_size=16)
    last: Path | None = None
    for index in indices:
        if (file := source.file_of(index)) != last:
            last = file
            with contextlib.suppress(OSError):
                state = file.stat()
                digest.update(f"{index} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


Looked = tuple[bytes, "NDArray[np.uint8] | None", list[tuple[str, str]]]


def _ahead(pool: ThreadPoolExecutor, source: Source, options: PackOptions, indices: Sequence[int]) -> Iterator[Looked]:
    """Images in order, a few dozen in advance. This thread reads the files, the pool decodes them."""
    waiting = []
    for index in indices:
        try:
            content: Any = source.read(index)
        except ImageReadError:
            raise  # the file may be good, and readable the next time
        except DataError as error:
            content = error
        waiting.append(pool.submit(_look, content, source.name(index), options))
        if len(waiting) == 64:
            yield waiting.pop(0).result()
    for future in waiting:
        yield future.result()


def _look(content: bytes | NDArray[np.uint8] | DataError, name: str, options: PackOptions) -> Looked:
    """The bytes to store for one image, its pixels, and its problems."""
    if isinstance(content, DataError):
        return b"", None, [("corrupt", str(content)[:300])]
    found: list[tuple[str, str]] = []
    if isinstance(content, bytes):
        try:
            pixels = decode_pixels(content, name)
        except ImageDecodeError as error:
            return b"", None, [("corrupt", str(error)[:300])]
        with Image.open(io.BytesIO(content)) as image:
            if orientation(image) != 1:
                found.append(("turned", f"orientation {orientation(image)}"))
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                found.append(("transparent", image.mode))
    else:
        pixels = content
    height, width = pixels.shape[:2]
    if min(height, width) < _TINY:
        found.append(("tiny", f"{width}x{height}"))
    if np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2]):
        found.append(("gray", ""))
    if (height, width) != options.size and not options.keep_files:
        found.append(("resized", f"{width}x{height}"))
        resized = Image.fromarray(np.ascontiguousarray(pixels)).resize(options.size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(resized)
    pixels = np.ascontiguousarray(pixels)
    if not options.keep_files:
        return pixels.tobytes(), pixels, found
    return content if isinstance(content, bytes) else _as_png(pixels), pixels, found


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _difference_hash(pixels: NDArray[np.uint8]) -> int:
    """64 bits: whether each of 8×8 cells is lighter than its neighbor. Nearly identical images have the same hash."""
    small = np.asarray(Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)).astype(np.int64)
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _finish(
    partial: Path,
    source: Source,
    options: PackOptions,
    notes: Sequence[dict[str, Any]],
    left_out: dict[int, tuple[str, str]],
) -> PackReport:
    """Write index, names, problems and pairs, and the header last."""
    entries = [
        (number, row, *entry) for number, note in enumerate(notes) for row, entry in enumerate(note["entries"])
    ]  # shard, row in it, index, ...
    # Some identities have too few images only now, since images of theirs cannot be decoded. Theirs stay unused in the shards.
    left_out = left_out | _too_few(
        source, np.array([entry[2] for entry in entries], dtype=np.int64), options.min_images
    )
    entries = [entry for entry in entries if entry[2] not in left_out]
    problems = [(index, kind, detail) for note in notes for index, kind, detail in note["problems"]]
    problems += [(index, kind, detail) for index, (kind, detail) in left_out.items()]
    if not entries:
        write_atomic(partial / "problems.csv", _problem_table(source, problems, ()))
        raise DataError(
            f"{source.root.as_posix()!r}: no image is left to pack; {(partial / 'problems.csv').as_posix()} says why"
        )
    splits = list(source.splits)
    problems += _repetitions(source, entries, splits)
    table = np.array([entry[:6] for entry in entries], dtype=np.int64)
    kept = table[:, 2]
    labels, people = _numbered(source, kept)
    buffer = io.BytesIO()
    np.savez(
        buffer, labels=labels, splits=np.array([SPLITS.index(splits[index]) for index in kept], dtype=np.uint8),
        checksums=table[:, 5].astype(np.uint32), shards=table[:, 0], rows=table[:, 1], offsets=table[:, 3], lengths=table[:, 4],
    )  # fmt: skip
    files: dict[str, bytes] = {
        "index.npz": buffer.getvalue(),
        "names.txt": "".join(json.dumps(source.name(int(index))) + "\n" for index in kept).encode(),
        "identities.txt": "".join(json.dumps(name) + "\n" for name in people).encode(),
    }
    pairs, lost = renumbered_pairs(source.pairs, kept)
    files |= {} if pairs is None else {PAIRS: pairs}
    leaked, beside = copy_lists(partial, source, people)
    files["problems.csv"] = _problem_table(source, problems, leaked)
    for name, content in files.items():
        write_atomic(partial / name, content)
    shards = [f"shard-{number:05d}.bin" for number in range(len(notes))]
    known = {name: {"bytes": note["bytes"], "crc32": note["crc32"]} for name, note in zip(shards, notes, strict=True)}
    known |= {name: {"bytes": len(content), "crc32": zlib.crc32(content)} for name, content in files.items()}
    mean, std = _statistics(sum((np.array(note["histogram"]) for note in notes), np.zeros((3, 256), dtype=np.int64)))
    header = {
        "format": 1, "images": len(entries), "identities": len(people), "shards": shards,
        "size": None if options.keep_files else list(options.size), "files": known, "beside": beside, "mean": mean, "std": std,
        "alignment": options.alignment, "origin": {"source": source.description, "path": source.root.name, **source.metadata},
        "facezoo": __version__,
    }  # fmt: skip
    write_atomic(partial / HEADER, json.dumps(header, indent=1, default=str) + "\n")
    counts = Counter(kind for _, kind, _ in problems)
    unread = len(source.unread)
    counts |= Counter(pairs_leak=len(leaked), pairs_lost=lost, lists_lost=lists_lost(source), unread_format=unread)
    order = {kind: counts[kind] for kind in _MEANING if counts[kind]}
    return PackReport(partial, len(entries), len(source) + unread - len(entries), order)


def _numbered(source: Source, kept: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[str]]:
    """Renumber labels without gaps, without identities that have no images left."""
    labels = source.labels[kept]
    present = np.unique(labels[labels >= 0])
    to = np.full(len(source.identities) + 1, -1, dtype=np.int64)
    to[present] = np.arange(len(present))
    return to[labels], [source.identities[label] for label in present]


def _repetitions(
    source: Source, entries: Sequence[tuple[int, ...]], splits: Sequence[str]
) -> list[tuple[int, str, str]]:
    """Find images with the same, or nearly the same, pixels as an earlier image."""
    found: list[tuple[int, str, str]] = []
    exact: dict[int, int] = {}
    near: dict[tuple[int, int], int] = {}
    for _, _, index, _, _, _, difference, content in entries:
        label = int(source.labels[index])
        earlier = exact.setdefault(content, index)
        if earlier != index:
            # among millions of images, equal 32-bit checksums do not prove equal pixels
            if not np.array_equal(source.pixels(earlier), source.pixels(index)):
                continue
            if label >= 0 and source.labels[earlier] >= 0:  # of the others nobody says who it is
                kind = "duplicate" if source.labels[earlier] == label else "contradiction"
                found.append((index, kind, source.name(earlier)))
            if splits[earlier] != splits[index]:
                found.append((index, "split_leak", source.name(earlier)))
        elif label >= 0 and near.setdefault((label, difference), index) != index:
            found.append((index, "near_duplicate", source.name(near[label, difference])))
    return found


def _problem_table(source: Source, problems: Sequence[tuple[int, str, str]], leaked: Sequence[str]) -> bytes:
    rows = [(source.name(index), kind, detail) for index, kind, detail in sorted(problems)]
    rows += [(name, "unread_format", "convert it to JPEG or PNG") for name in source.unread]
    table = csv_text([("image", "problem", "detail"), *rows, *(("", "pairs_leak", name) for name in leaked)])
    return table.encode("utf-8", "surrogatepass")


def _statistics(histogram: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel over all pixels, fractions of 1."""
    values = np.arange(256) / 255
    shares = histogram / histogram.sum(axis=1, keepdims=True)
    mean = shares @ values
    return mean.tolist(), np.sqrt(np.maximum(shares @ values**2 - mean**2, 0)).tolist()


def with_eta(report: Callable[[str], None]) -> Progress:
    """A progress function that prints images per second and the remaining time, at most twice a second."""
    start, last, begun = time.monotonic(), 0.0, -1

    def progress(done: int, total: int) -> None:
        nonlocal last, begun
        now = time.monotonic()
        if begun < 0:
            begun = done  # the first shard may come from an earlier run
        if now - last < 0.5 and done < total:
            return
        last = now
        rate = max(done - begun, 1) / max(now - start, 1e-9)
        report(f"{done} of {total} images, {rate:.0f} images/s, {max(total - done, 0) / rate:.0f} s left")

    return progress
