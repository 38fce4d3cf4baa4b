"""Batches of a run: order, division into updates and micro-batches, and resuming within an epoch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facezoo.training.config import TrainConfig
from facezoo.training.datasets import labels_of
from facezoo.training.distributed import Distributed
from facezoo.training.signals import ignore_stop_signals

Batch = tuple[Tensor, ...]  # images, labels, and the teacher's embeddings if there is a teacher


class TrainingBatches:
    """Divides an epoch into updates, and an update into the micro-batches of this rank.

    Update t of an epoch uses images ``t·batch_size`` to ``(t + 1)·batch_size`` of the epoch's order, for any number of ranks,
    workers and accumulation steps. The order is a permutation of the images or, with ``sampler="pk"``, a sequence of full batches
    of P identities with K images each; a micro-batch then contains whole identities.

    Args:
        dataset: training images, map-style; for ``sampler="pk"`` with labels, see :func:`~facezoo.training.datasets.labels_of`.
        config: the run's settings.
        dist: rank and world size.
        teacher: the teacher's embeddings of all training images (N, T), or None; a batch then has three items.

    Attributes:
        images_per_epoch: images of an epoch, over all ranks.
        updates_per_epoch: updates of an epoch.
        smallest: images of the smallest forward pass of this rank.

    Raises:
        ValueError: ``batch_size`` cannot be divided among the ranks, or the images do not fill one batch.
    """

    def __init__(self, dataset: Any, config: TrainConfig, dist: Distributed, teacher: Tensor | None = None) -> None:
        self._dataset, self._config, self._dist, self._teacher = dataset, config, dist, teacher
        own = config.optimization
        self._micro_batch, rest = divmod(own.batch_size, dist.world_size * own.accumulation)
        if rest:
            raise ValueError(
                f"batch_size ({own.batch_size}) must be a multiple of ranks x accumulation "
                f"({dist.world_size} x {own.accumulation})"
            )
        self._sampler: Any
        if config.data.sampler == "pk":
            self._sampler = self._identity_sampler()
            self.images_per_epoch = self._sampler.batches * own.batch_size
        else:
            self._sampler = self._shuffling_sampler()
            self.images_per_epoch = self._images_of_a_permutation()
        self.updates_per_epoch = math.ceil(self.images_per_epoch / own.batch_size)
        last = (self.images_per_epoch // dist.world_size) % self._micro_batch
        self.smallest = last or self._micro_batch
        self._parts: tuple[Any, Any] | None = None
        self._batches: Iterator[Any] = iter(())

    def updates(self, epoch: int, position: int) -> Iterator[list[Batch]]:
        """The micro-batches of every update of ``epoch``, starting at image ``position`` (counted over all ranks).

        All micro-batches of an update are read before it starts, so that an unreadable image does not leave a partial update.
        With ``overfit_batch`` every batch is the first one of the training.
        """
        if self._config.data.overfit_batch:
            left = math.ceil((self.images_per_epoch - position) / self._config.optimization.batch_size)
            return itertools.repeat(next(self._read(0, 0)), left)
        return self._read(epoch, position)

    def first(self, epoch: int, count: int) -> Iterator[Tensor]:
        """The images of the first ``count`` micro-batches of an epoch."""
        return (batch[0] for batch in itertools.islice(itertools.chain.from_iterable(self.updates(epoch, 0)), count))

    def _read(self, epoch: int, position: int) -> Iterator[list[Batch]]:
        self._sampler.set_epoch(epoch)
        self._sampler.start = position // self._dist.world_size
        self._batches = self._packed_batches(epoch) or self._loaded_batches(epoch)
        batches = self._batches if self._teacher is None else self._with_teacher(self._batches, self._teacher)
        batch_size, share = self._config.optimization.batch_size, self._dist.world_size * self._micro_batch
        starts = range(position, self.images_per_epoch, batch_size)
        counts = [math.ceil(min(batch_size, self.images_per_epoch - start) / share) for start in starts]
        # For each count, a list of the next `count` batches.
        return map(list, map(itertools.islice, itertools.repeat(batches), counts))

    def _with_teacher(self, batches: Iterator[Any], teacher: Tensor) -> Iterator[Batch]:
        """Add the teacher's rows to the batches. The order of the epoch gives the images of a batch."""
        order = torch.tensor(list(self._sampler), dtype=torch.int64)
        for (images, labels), chosen in zip(batches, order.split(self._micro_batch), strict=False):
            yield images, labels, teacher[chosen]

    def _loaded_batches(self, epoch: int) -> Iterator[Any]:
        seeded, loader = self._loading()
        seeded.set_epoch(epoch)
        return iter(loader)

    def _packed_batches(self, epoch: int) -> Iterator[Any] | None:
        """Batches of packed faces in the network's input size, read by threads; None for other datasets."""
        from facezoo.data.loader import BatchMaker, batches_ahead, fits

        transform: Any = getattr(self._dataset, "transform", None)
        if not fits(self._dataset, transform):
            return None
        config = self._config
        maker = BatchMaker(self._dataset, transform, seed=config.optimization.seed, device=self._dist.device)
        order = np.fromiter(self._sampler, dtype=np.int64)
        blocks = [order[start : start + self._micro_batch] for start in range(0, len(order), self._micro_batch)]
        return batches_ahead(maker, blocks, epoch, threads=config.machine.num_workers)

    def close(self) -> None:
        """End the worker processes. The next epoch, if there is one, starts new ones."""
        if self._parts is not None:
            from facezoo.data import stop_workers

            stop_workers(self._batches)
        self._parts, self._batches = None, iter(())

    def _shuffling_sampler(self) -> Any:
        from facezoo.data import ResumableSampler

        config, dist = self._config, self._dist
        return ResumableSampler(
            len(self._dataset), seed=config.optimization.seed, rank=dist.rank, world_size=dist.world_size
        )

    def _identity_sampler(self) -> Any:
        from facezoo.data import PKSampler

        batch_size, dist, config = self._config.optimization.batch_size, self._dist, self._config
        images = config.data.images_per_identity
        if self._micro_batch % images:
            raise ValueError(
                f"batch_size ({batch_size}) must be a multiple of ranks x accumulation x images_per_identity "
                f"({dist.world_size} x {config.optimization.accumulation} x {images})"
            )
        return PKSampler(
            labels_of(self._dataset).tolist(),
            identities=batch_size // images,
            images_per_identity=images,
            seed=config.optimization.seed,
            rank=dist.rank,
            world_size=dist.world_size,
        )

    def _images_of_a_permutation(self) -> int:
        batch_size, images = self._config.optimization.batch_size, len(self._dataset)
        drop_last = self._config.data.drop_last
        if drop_last and images < batch_size:
            raise ValueError(
                f"{images} training images do not fill one batch of {batch_size}: "
                "lower batch_size, or set drop_last to false"
            )
        # Without drop_last the sampler repeats a few images, so that all ranks have the same number.
        unit = batch_size if drop_last else self._dist.world_size
        return (images // unit if drop_last else math.ceil(images / unit)) * unit

    def _loading(self) -> tuple[Any, Any]:
        if self._parts is None:
            from facezoo.data import SeededDataset, make_loader

            config, dist = self._config, self._dist
            seeded = SeededDataset(self._dataset, config.optimization.seed)
            loader = make_loader(
                seeded,
                self._micro_batch,
                sampler=self._sampler,
                num_workers=config.machine.num_workers,
                pin_memory=dist.device.type == "cuda",
            )
            loader.worker_init_fn = ignore_stop_signals
            self._parts = seeded, loader
        return self._parts
