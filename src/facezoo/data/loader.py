"""Batches from packed faces: read from the memory map, augmented and normalized ahead of time.

A thread makes a whole batch with a few calls of torch, each on one core. A batch depends only on the seed, the epoch and its
images, so it is the same for any number of threads and ranks, and in a run that was resumed within an epoch.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facezoo.data.augment import AugmentConfig, augment_recipe
from facezoo.data.augment_batches import needs_the_host, normalized_batch
from facezoo.data.augment_plan import Plan
from facezoo.data.packed import PackedFaces
from facezoo.data.sampling import ResumableSampler
from facezoo.data.transforms import EvalTransform, TrainTransform
from facezoo.devices import usable_cores
from facezoo.preprocessing import Preprocessing

Batch = tuple[Tensor, Tensor]


class _Memory:
    """Memory for batches, reused once the batch is no longer referenced: allocating it anew takes a large part of a batch's time.

    A tensor made from an array, and every view of that tensor, holds a reference to the array. The reference count shows whether
    the array is free.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.float32]] = []
        self._lock = threading.Lock()
        # Reference counts are not exact without the GIL.
        self._counts = getattr(sys, "_is_gil_enabled", lambda: True)()

    def take(self, shape: tuple[int, ...]) -> Tensor:
        """A tensor with any content."""
        with self._lock:
            for index in range(len(self._arrays)):  # a loop over the arrays would add a reference
                if self._arrays[index].shape == shape and _holders(self._arrays, index) == _NOBODY_ELSE:
                    return torch.from_numpy(self._arrays[index])
            array = np.empty(shape, dtype=np.float32)
            if self._counts and len(self._arrays) < _MOST_KEPT:
                self._arrays.append(array)
            return torch.from_numpy(array)


_MOST_KEPT = 16


def _holders(arrays: Sequence[object], index: int) -> int:
    return sys.getrefcount(arrays[index])


# The reference count of an array that only the list holds. It is measured, because it differs between versions of Python.
_NOBODY_ELSE = _holders([object()], 0)


class BatchMaker:
    """Makes normalized batches from image indices.

    Args:
        faces: packed images, all of the size that the network takes.
        transform: facezoo's training or evaluation transform; its settings are read, it is not called.
        seed: of the run.
        device: where batches go. On a GPU they are augmented there, except for operations that work image by image: occluders, low
            resolution, JPEG.

    Raises:
        ValueError: the images have another size than the network takes, or the transform is not facezoo's.
    """

    def __init__(
        self, faces: PackedFaces, transform: EvalTransform, *, seed: int = 0, device: str | torch.device = "cpu"
    ) -> None:
        if not transform.takes_batches:
            raise ValueError(
                f"{type(transform).__name__} has a forward of its own, which packed faces would not use; use make_loader"
            )
        if not fits(faces, transform):
            height, width = transform.preprocessing.img_size
            held = (
                "image files as they were"
                if faces.folder.size is None
                else "images of {}x{}".format(*faces.folder.size)
            )
            mend = f"pack with --size {height}x{width}" + (", without --keep-jpeg" if faces.folder.size is None else "")
            if transform.preprocessing.crop is not None:
                held, mend = "whole images, of which this network takes a crop", "cut them before packing"
            raise ValueError(
                f"{faces.root.as_posix()!r} holds {held}; the network takes {height}x{width}: {mend}, or use make_loader"
            )
        self.faces, self.seed, self.device = faces, seed, torch.device(device)
        self._transform = transform
        self._memory = _Memory()
        self._normalization = transform.to_input.normalization

    def draw(self, indices: NDArray[np.int64], epoch: int) -> Plan:
        """The augmentation parameters of each image in ``epoch``."""
        return self._transform.draw(self.seed, epoch, self.faces.indices[indices])

    def prepare(self, indices: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor, Plan]:
        """The part done in a thread: images, labels and plan.

        Images are float (N, 3, H, W) if all is done here, else uint8 (N, H, W, 3).
        """
        pixels, labels = self.faces.views(indices)
        drawn = self.draw(indices, epoch)
        if self.device.type != "cpu" and not needs_the_host(drawn):
            images = torch.from_numpy(np.stack(pixels))
        else:
            images = self._transform.batch(pixels, drawn, self._memory.take((len(pixels), 3, *drawn.size)))
        targets = torch.from_numpy(labels)
        if self.device.type == "cuda":
            images, targets = images.pin_memory(), targets.pin_memory()
        return images, targets, drawn

    def finish(self, images: Tensor, labels: Tensor, drawn: Plan) -> Batch:
        """The part done on the device."""
        images = images.to(self.device, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        if images.dtype == torch.uint8:
            images = normalized_batch(images, drawn, self._normalization)
        return images, labels


def fits(dataset: Any, transform: Any) -> bool:
    """Whether :class:`BatchMaker` supports a data set: packed faces of the network's input size with facezoo's transform."""
    return (
        isinstance(dataset, PackedFaces)
        and isinstance(transform, EvalTransform)
        and transform.takes_batches
        and transform.preprocessing.crop is None
        and dataset.folder.size == tuple(transform.preprocessing.img_size)
    )


def batches_ahead(
    maker: BatchMaker, blocks: Iterable[NDArray[np.int64]], epoch: int, *, threads: int, ahead: int = 4
) -> Iterator[Batch]:
    """The batches of ``blocks`` in order, prepared in advance.

    Args:
        maker: makes the batches.
        blocks: image indices, one block per batch.
        epoch: epoch of the random draws.
        threads: number of threads that make batches; 0 makes each batch when it is requested.
        ahead: largest number of finished batches, besides those in work.
    """
    if threads < 1:
        for block in blocks:
            yield maker.finish(*maker.prepare(block, epoch))
        return
    waiting: deque[Future[tuple[Tensor, Tensor, Plan]]] = deque()
    pool = _single_threaded(threads)
    try:
        for block in blocks:
            waiting.append(pool.submit(maker.prepare, block, epoch))
            if len(waiting) > ahead:
                yield maker.finish(*waiting.popleft().result())
        while waiting:
            yield maker.finish(*waiting.popleft().result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _single_threaded(threads: int) -> ThreadPoolExecutor:
    """A thread pool in which torch's operations use one core per thread.

    Otherwise each short operation would wait for helper threads on all cores, which takes ten times as long when the cores are
    busy. ``torch.set_num_threads`` affects the calling thread and all threads that torch has not set up yet, so each sets itself
    up, and the old number is restored after that.
    """
    before = torch.get_num_threads()
    begun = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # sets this thread up; else its first operation would take the number of the process
        begun.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="facezoo-loader", initializer=begin)
    for _ in range(threads):
        pool.submit(int)
    begun.wait()
    torch.set_num_threads(before)
    return pool


class PackedLoader:
    """The loader of :func:`packed_loader`. Each iteration gives the batches of the current epoch and moves on to the next epoch.

    Args:
        maker: makes the batches.
        sampler: the order of the images.
        batch_size: images per batch and rank.
        drop_last: leave out a last batch that is not full.
        threads: see :func:`batches_ahead`.
    """

    def __init__(
        self, maker: BatchMaker, sampler: ResumableSampler, batch_size: int, *, drop_last: bool, threads: int
    ) -> None:
        self.maker, self.sampler = maker, sampler
        self.batch_size, self.drop_last, self.threads = batch_size, drop_last, threads

    def __len__(self) -> int:
        """Number of batches left in this epoch."""
        left = len(self.sampler)
        return left // self.batch_size if self.drop_last else math.ceil(left / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of ``epoch``. In the epoch that the loader is in, after :meth:`load_state_dict` say, it stays."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[Batch]:
        """The remaining batches of this epoch. After the last one the next epoch begins."""
        order = self.sampler.order().numpy()
        batches = len(self)
        blocks = (order[number * self.batch_size : (number + 1) * self.batch_size] for number in range(batches))
        for batch in batches_ahead(self.maker, blocks, self.sampler.epoch, threads=self.threads):
            self.sampler.start += len(batch[1])
            yield batch
        self.sampler.set_epoch(self.sampler.epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """The position of the loader; see :meth:`ResumableSampler.state_dict`."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position in ``state``, also in the middle of an epoch."""
        self.sampler.load_state_dict(state)


def packed_loader(
    folder: str | os.PathLike[str] | PackedFaces,
    batch_size: int = 128,
    augment: str | AugmentConfig = "standard",
    device: str | torch.device = "cpu",
    split: str = "train",
    *,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
    threads: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> PackedLoader:
    """Batches of a packed folder, augmented and normalized.

    Args:
        folder: a packed folder (``facezoo pack``), or its faces.
        batch_size: images per batch and rank.
        augment: a name of ``AUGMENT_RECIPES``, or a configuration.
        device: device of the batches; on a GPU they are augmented there, if all operations can be (:class:`BatchMaker`).
        split: ``"train"``, ``"dev"`` or ``"test"``.
        preprocessing: the network's (``model.preprocessing``); None normalizes to -1 … 1 in RGB.
        seed: seed of order and augmentation.
        shuffle: a new order in each epoch.
        drop_last: leave out a last batch that is not full.
        threads: number of threads that make batches; None for one per core, 0 makes each batch when it is requested.
        rank: this process, from 0.
        world_size: number of processes. If ``batch_size`` times ``world_size`` stays the same, batch t over all ranks contains
            the same images with the same augmentation.

    Returns:
        A loader of batches: images float32 (N, 3, H, W) and labels int64 (N,) on ``device``; with ``set_epoch``, ``state_dict`` and
        ``load_state_dict``.

    Raises:
        FileNotFoundError: ``folder`` is not a packed folder.
        DataError: the packed folder is damaged.
        ValueError: the image size is not the network's, or there is no full batch.
    """
    faces = folder if isinstance(folder, PackedFaces) else PackedFaces(folder, split)
    if preprocessing is None:
        preprocessing = Preprocessing(img_size=faces.folder.size or (112, 112))
    config = augment_recipe(augment) if isinstance(augment, str) else augment
    maker = BatchMaker(faces, TrainTransform(preprocessing, config), seed=seed, device=device)
    if batch_size < 1 or len(faces) < (batch_size * world_size if drop_last else 1):
        raise ValueError(f"{len(faces)} images do not fill one batch of {batch_size} on each of {world_size} ranks")
    sampler = ResumableSampler(
        len(faces), shuffle=shuffle, seed=seed, rank=rank, world_size=world_size, drop_last=drop_last
    )
    threads = threads if threads is not None else usable_cores()
    return PackedLoader(maker, sampler, batch_size, drop_last=drop_last, threads=threads)
