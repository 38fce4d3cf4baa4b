"""Order and random numbers that a resumed run repeats exactly, and the loader that uses them."""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from numpy.random import mtrand
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, Subset, get_worker_info


class ResumableSampler(Sampler[int]):
    """The indices of one rank, in an order that depends only on seed and epoch and can be resumed at any point.

    The permutation of all images is dealt to the ranks in turn. Without ``drop_last`` its first entries are appended until every
    rank has the same number of images.

    Args:
        length: number of images of the data set.
        shuffle: a new permutation each epoch; False gives 0, 1, 2, ….
        seed: of the permutations.
        rank: this process, from 0.
        world_size: number of processes.
        drop_last: leave out the last ``length % world_size`` images instead of padding.

    Attributes:
        epoch: the current epoch; set it with :meth:`set_epoch`.
        start: number of samples of this rank to skip, to resume within an epoch.

    Raises:
        ValueError: there is nothing to sample, or ``rank`` is not below ``world_size``.
    """

    def __init__(
        self,
        length: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        if length < 1:
            raise ValueError(f"length: expected at least 1 image, got {length}")
        require_rank(rank, world_size)
        if drop_last and length < world_size:
            raise ValueError(f"drop_last leaves nothing of {length} images for {world_size} processes")
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.epoch = 0
        self.start = 0

    @property
    def num_samples(self) -> int:
        """Number of samples of this rank in a whole epoch."""
        return self.length // self.world_size if self.drop_last else -(-self.length // self.world_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the permutation. A new epoch starts at its first sample; the current one keeps its
        ``start``."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.start = 0

    def __len__(self) -> int:
        return max(self.num_samples - self.start, 0)

    def order(self) -> Tensor:
        """The indices that are left of this epoch for this rank, int64. Millions of them are faster so than one by one."""
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
            order = torch.randperm(self.length, generator=generator)
        else:
            order = torch.arange(self.length)
        total = self.num_samples * self.world_size
        if total > self.length:
            order = order.repeat(-(-total // self.length))
        return order[self.rank : total : self.world_size][self.start :]

    def __iter__(self) -> Iterator[int]:
        yield from self.order().tolist()

    def state_dict(self) -> dict[str, Any]:
        """The position of the sampler, as JSON values: the same on all ranks, and valid for another ``world_size``."""
        return {
            "epoch": self.epoch,
            "position": self.start * self.world_size,
            "length": self.length,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position in ``state``. With another ``world_size`` up to ``world_size - 1`` samples may be seen twice.

        Raises:
            ValueError: the state belongs to another data set, seed or order.
        """
        for name in ("length", "seed", "shuffle"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the saved sampler has {name}={state[name]!r}, this one {getattr(self, name)!r}; "
                    "resume with the same data and settings, or start a new run"
                )
        self.epoch = int(state["epoch"])
        self.start = int(state["position"]) // self.world_size


def require_rank(rank: int, world_size: int) -> None:
    """Raise :class:`ValueError` unless ``rank`` is one of ``world_size`` processes."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 <= rank < world_size, got rank {rank} of {world_size}")


class SeededDataset(Dataset[Any]):
    """A data set whose random transforms of item ``i`` in epoch ``e`` depend only on ``(seed, e, i)``.

    They do not depend on the worker, the batch or earlier items, so a run that resumes within an epoch sees the same images.
    Images of facezoo's data sets with facezoo's transform are augmented a batch at a time, with the numbers that packed faces
    get. For anything else the global generators of torch, ``random`` and numpy are seeded for each item; outside loader workers
    their states are restored afterwards (except for a second Gaussian number that ``numpy.random.randn`` may have cached).

    Args:
        dataset: the data set, with random transforms.
        seed: seed of the run.
    """

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        # In shared memory, because persistent workers have their own copy of this object: a plain number would stay at 0.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The current epoch."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, before the loader is iterated; persistent workers see it too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        if not isinstance(self.dataset, Sized):
            raise TypeError(f"{type(self.dataset).__name__} has no length")
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Item ``index`` of the data set."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items of a batch: the same as one by one, in less time."""
        epoch = self.epoch
        places = [_place(self.dataset, index) for index in indices]
        if (transform := _common_transform(places)) is not None:
            loaded = [dataset.load(place) for dataset, place in places]
            drawn = transform.draw(self.seed, epoch, np.array(indices, dtype=np.int64))
            images = transform.batch([transform.fitted(pixels) for pixels, _ in loaded], drawn)
            return [(image, label) for image, (_, label) in zip(images, loaded, strict=True)]
        if len(indices) != 1:
            return [self[index] for index in indices]
        (index,) = indices
        with seeded(mix_seeds(self.seed, epoch, index), epoch):
            return [self.dataset[index]]


def _place(dataset: Any, index: int) -> tuple[Any, int]:
    """The data set that an item comes from, below torch's ``Subset`` and ``ConcatDataset``, and its index there."""
    while True:
        if type(dataset) is Subset:
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif type(dataset) is ConcatDataset and 0 <= index < len(dataset):
            part = bisect.bisect_right(dataset.cumulative_sizes, index)
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        else:
            return dataset, index


def _common_transform(places: Sequence[tuple[Any, int]]) -> Any:
    """facezoo's transform that all these items go through after they are loaded; None if there is no such one."""
    first = getattr(places[0][0], "transform", None) if places else None
    if not getattr(first, "takes_batches", False):
        return None
    same = all(_loads_apart(type(dataset)) and dataset.transform is first for dataset, _ in places)
    return first if same else None


def _loads_apart(kind: type) -> bool:
    """Whether an item of such a data set is what its ``load`` gives, transformed: no subclass has changed ``__getitem__``."""
    owner = next((base for base in kind.__mro__ if "__getitem__" in vars(base)), object)
    return "load" in vars(owner)


def epoch_now() -> int:
    """The epoch of the item that is being made, inside :func:`seeded`; else 0."""
    return _EPOCH.get()


_EPOCH: ContextVar[int] = ContextVar("epoch", default=0)


@contextmanager
def seeded(seed: int, epoch: int = 0) -> Iterator[None]:
    """The global generators of torch, ``random`` and numpy begin at ``seed``; outside loader workers they go on as before."""
    token = _EPOCH.set(epoch)
    try:
        if get_worker_info() is not None:
            _seed_all(seed)
            yield
            return
        saved = torch.default_generator.get_state(), random.getstate(), mtrand.get_bit_generator()
        try:
            # Replacing numpy's bit generator takes 2 µs; saving and restoring its state takes 150 µs.
            mtrand.set_bit_generator(_NUMPY_STREAM)
            _seed_all(seed)
            yield
        finally:
            torch.default_generator.set_state(saved[0])
            random.setstate(saved[1])
            mtrand.set_bit_generator(saved[2])
    finally:
        _EPOCH.reset(token)


def make_loader(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    sampler: Sampler[int] | None = None,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool | None = None,
    persistent_workers: bool = True,
    seed: int = 0,
) -> DataLoader[Any]:
    """A ``DataLoader`` with suitable settings for training and evaluation on image files.

    Args:
        dataset: map-style data set.
        batch_size: images per batch.
        sampler: order of the images; None for the order of the data set.
        drop_last: leave out a last batch that is not full.
        num_workers: loader processes; 0 loads in this one.
        pin_memory: page-locked batches for fast copies to a GPU; None: if there is a GPU.
        persistent_workers: keep the workers from epoch to epoch.
        seed: of the workers' random generators (torch, ``random``, numpy), each with its own.

    Raises:
        ValueError: ``drop_last`` leaves no batch, or a number is out of range.
    """
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"expected batch_size >= 1 and num_workers >= 0, got {batch_size} and {num_workers}")
    count = getattr(sampler, "num_samples", None)
    if count is None:
        sized = dataset if sampler is None else sampler
        count = len(sized) if isinstance(sized, Sized) else None
    if drop_last and count is not None and count < batch_size:
        raise ValueError(
            f"drop_last leaves no batch: {count} images (per process) are fewer than batch_size {batch_size}; choose a smaller one"
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available() if pin_memory is None else pin_memory,
        persistent_workers=persistent_workers and num_workers > 0,
        generator=torch.Generator().manual_seed(mix_seeds(seed)),
    )


def stop_workers(batches: Iterator[Any]) -> None:
    """End the worker processes of a ``DataLoader``'s iterator now. Without workers, or when called again, it does nothing.

    Otherwise an iterator that is still referenced by an exception's traceback ends its workers only when the interpreter exits,
    and that would wait forever, because training's workers ignore signals.
    """
    shutdown = getattr(batches, "_shutdown_workers", None)  # torch has no public name for this
    if shutdown is not None:
        shutdown()


def mix_seeds(*values: int) -> int:
    """One 32-bit seed from several numbers; a change in any of them gives an unrelated seed.

    With a sum, seed 0 in epoch 1 would have the order of seed 1 in epoch 0. The steps are those of SplitMix64. It has 32 bits
    because the Mersenne Twisters of torch and numpy take no more.
    """
    mixed = 0
    for value in values:
        mixed = (mixed ^ (value & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
        mixed ^= mixed >> 31
    return mixed >> 32


_MASK = 2**64 - 1
_NUMPY_STREAM = np.random.MT19937(0)


def _seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(
        seed
    )  # torch.manual_seed also seeds every accelerator and takes 80 times as long
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
