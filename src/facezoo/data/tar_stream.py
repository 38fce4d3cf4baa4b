"""Tar shards read front to back: for sets of tens of millions of images, or on a network file system."""

from __future__ import annotations

import random
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from facezoo.checks import whole
from facezoo.data._listing import tell_unread
from facezoo.data.errors import DataError
from facezoo.data.image import MAX_BYTES, decode_pixels, is_image_name, is_unread_photo, transformed
from facezoo.data.sampling import mix_seeds, require_rank, seeded
from facezoo.data.sources.folders import holds_files_ending
from facezoo.data.sources.shards import LABEL_ENDINGS, RankedLabel, parts_of, surer_label

_Sample = tuple[bytes, str, str, int]  # image file, its name, its label, seed of its transform


class TarStream(IterableDataset[tuple[Any, int]]):
    """Labeled images of WebDataset's tar shards, for a ``DataLoader`` and a loop of one's own.

    Nothing is listed beforehand and nothing is kept but a buffer, so start-up and memory do not depend on the number of images.
    Each epoch takes the shards in another order; each reader (a worker of a rank) takes its part of them, and draws the next image
    from the buffer. What it gives depends on (seed, epoch, rank, number of ranks and workers) only.

    Args:
        path: a folder with ``.tar`` files, or one such file. The files of an image follow each other, and its label is the
            ``.cls``, a field of the ``.json`` or the ``.txt`` beside it, in this order.
        transform: from a uint8 array (H, W, 3), or a PIL image for a transform that is not facezoo's; None gives the array.
        classes: names of the identities by class index; None if the labels are class indices already.
        buffer: images from which the next one is drawn, compressed as they lie; 1 keeps the order of the shards.
        images: images that each rank gives in an epoch, so that all ranks give equally many; its readers go round their shards as
            often as that takes. None: every image of its shards, once.
        seed: of the orders and the transform.
        rank: this process, from 0.
        world_size: number of processes.

    Raises:
        ValueError: a number is out of range.
        DataError: there is no tar file, or fewer than ranks.
    """

    def __init__(
        self,
        path: str | Path,
        transform: Any = None,
        *,
        classes: Sequence[str] | None = None,
        buffer: int = 4096,
        images: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.shards = tuple(holds_files_ending(Path(path), ".tar"))
        self.transform = transform
        self.classes = None if classes is None else {name: index for index, name in enumerate(classes)}
        self.buffer = whole("buffer", buffer, 1)
        self.images = None if images is None else whole("images", images, 1)
        self.seed, self.rank, self.world_size = seed, rank, whole("world_size", world_size, 1)
        self.epoch = 0
        require_rank(rank, world_size)
        self._require_shards(world_size, "ranks")

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, before the loader is iterated; not with ``persistent_workers``, which do not see it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Any, int]]:
        """The images of this reader, transformed, each with its class index."""
        worker = get_worker_info()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        readers, reader = self.world_size * workers, self.rank * workers + number
        self._require_shards(readers, "ranks times workers")
        left = None if self.images is None else self.images // workers + (number < self.images % workers)
        for sample in self._shuffled(reader, readers):
            if left == 0:
                return
            left = None if left is None else left - 1
            yield self._item(*sample)

    def _require_shards(self, readers: int, what: str) -> None:
        if len(self.shards) < readers:
            raise DataError(f"there are {len(self.shards)} tar files for {readers} {what}; each needs one of its own")

    def _shuffled(self, reader: int, readers: int) -> Iterator[_Sample]:
        """Samples by way of the buffer; without end if ``images`` says how many are taken."""
        draw = random.Random(mix_seeds(self.seed, self.epoch, reader, 1))
        waiting: list[_Sample] = []
        for sample in self._in_order(reader, readers):
            waiting.append(sample)
            if len(waiting) >= self.buffer:
                yield _taken(waiting, draw)
        while waiting:
            yield _taken(waiting, draw)

    def _in_order(self, reader: int, readers: int) -> Iterator[_Sample]:
        """The samples of this reader's shards, in the order in which they lie there."""
        order = list(range(len(self.shards)))
        random.Random(mix_seeds(self.seed, self.epoch, 0)).shuffle(order)
        turn = 0
        while True:
            found = 0
            for shard in order[reader::readers]:
                for position, (content, name, label) in enumerate(_samples(self.shards[shard])):
                    yield content, name, label, mix_seeds(self.seed, self.epoch, turn, shard, position)
                    found += 1
            turn += 1
            if self.images is None:
                return
            if not found:
                raise DataError(
                    f"{self.shards[order[reader]].as_posix()!r} and this reader's other shards hold no image"
                )

    def _item(self, content: bytes, name: str, label: str, seed: int) -> tuple[Any, int]:
        pixels = decode_pixels(content, name)
        if self.transform is None:
            return transformed(pixels, None), self._class(label, name)
        with seeded(seed, self.epoch):
            return transformed(pixels, self.transform), self._class(label, name)

    def _class(self, label: str, name: str) -> int:
        if self.classes is not None:
            if label not in self.classes:
                raise DataError(f"{name}: the label {label[:100]!r} is none of the {len(self.classes)} classes")
            return self.classes[label]
        if not label.isascii() or not label.isdecimal() or len(label) > 18:
            raise DataError(
                f"{name}: the label {label[:100]!r} is not a class index; name the identities with classes="
            )
        return int(label)


def _taken(waiting: list[_Sample], draw: random.Random) -> _Sample:
    """Take a random one out of the buffer."""
    index = draw.randrange(len(waiting))
    waiting[index], waiting[-1] = waiting[-1], waiting[index]
    return waiting.pop()


def _samples(file: Path) -> Iterator[tuple[bytes, str, str]]:
    """Image, name and label of every image of a shard, which is read once, without seeking."""
    last: str | None = None  # the key that the files of an image share
    image: tuple[bytes, str] | None = None
    label: RankedLabel | None = None
    unread: list[str] = []
    try:
        with tarfile.open(file, "r|") as tar:
            for member in tar:
                key, inside, base, ending = parts_of(member.name)
                name = f"{file.as_posix()}/{inside}"
                if member.islnk() and is_image_name(base):
                    raise DataError(
                        f"{name!r} is a hard link, which a stream cannot follow; write the shard without links"
                    )
                if not member.isreg():
                    continue
                if key != last:
                    if image is not None:
                        yield *image, _written(label, image[1])
                    last, image, label = key, None, None
                if is_image_name(base):
                    if member.size > MAX_BYTES:
                        raise DataError(f"{name!r} has {member.size} bytes, too many")
                    if image is not None:
                        raise DataError(f"{name!r} and {image[1]!r} are two images of one name; give each its own")
                    image = _content(tar, member, name), name
                elif is_unread_photo(base):
                    unread.append(inside)
                elif ending in LABEL_ENDINGS and member.size < 2**20:
                    label = surer_label(label, _content(tar, member, name), ending, repr(name))
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{file.as_posix()!r} is not a complete tar file: {str(error)[:200]}") from None
    if image is not None:
        yield *image, _written(label, image[1])
    tell_unread(file, unread)


def _written(label: RankedLabel | None, name: str) -> str:
    if label is None:
        raise DataError(f"{name!r} has no .cls, .txt or .json with its label beside it")
    return str(label[1])


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str) -> bytes:
    opened = tar.extractfile(member)
    content = b"" if opened is None else opened.read()
    if len(content) != member.size:
        raise DataError(f"{name!r} is cut: {len(content)} of {member.size} bytes")
    return content
