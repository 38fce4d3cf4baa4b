"""Batches of a run: how an epoch is cut, in which order, and from where it goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from facezoo.training.config import TrainConfig
from facezoo.training.distributed import Distributed
from facezoo.training.signals import ignore_stop_signals

Batch = tuple[Tensor, Tensor]


class TrainingBatches:
    """Cuts an epoch into updates, and an update into the micro-batches of this rank.

    Update t of an epoch sees images ``t·batch_size`` to ``(t + 1)·batch_size`` of the epoch's order, whatever the number of ranks,
    of workers and of accumulation steps. The order is a permutation of the images, or (``sampler="pk"``) one of batches of P
    identities with K images each, which are always full; then a micro-batch has whole identities.

    Args:
        dataset: training images, map-style; for ``sampler="pk"`` with ``samples``, pairs of a path and a label.
        config: the run's settings.
        dist: this process among its peers.

    Attributes:
        images_per_epoch: images of an epoch, all ranks together.
        updates_per_epoch: updates of an epoch.

    Raises:
        ValueError: ``batch_size`` cannot be dealt out to the ranks, or the images do not fill one batch.
    """

    def __init__(self, dataset: Any, config: TrainConfig, dist: Distributed) -> None:
        self._dataset, self._config, self._dist = dataset, config, dist
        self._micro_batch, rest = divmod(config.batch_size, dist.world_size * config.accumulation)
        if rest:
            raise ValueError(
                f"batch_size ({config.batch_size}) must be a multiple of ranks x accumulation "
                f"({dist.world_size} x {config.accumulation})"
            )
        self._sampler: Any
        if config.sampler == "pk":
            self._sampler = self._identity_sampler()
            self.images_per_epoch = self._sampler.batches * config.batch_size
        else:
            self._sampler = self._shuffling_sampler()
            self.images_per_epoch = self._images_of_a_permutation()
        self.updates_per_epoch = math.ceil(self.images_per_epoch / config.batch_size)
        self._parts: tuple[Any, Any] | None = None
        self._batches: Iterator[Any] = iter(())

    def updates(self, epoch: int, position: int) -> Iterator[list[Batch]]:
        """The micro-batches of every update of ``epoch``, from image ``position`` (of all ranks together) on.

        All micro-batches of an update are read before it begins: a broken image leaves weights and statistics whole.
        """
        seeded, loader = self._loading()
        seeded.set_epoch(epoch)
        self._sampler.set_epoch(epoch)
        self._sampler.start = position // self._dist.world_size
        batches = self._batches = iter(loader)
        while position < self.images_per_epoch:
            images = min(self._config.batch_size, self.images_per_epoch - position)
            yield [next(batches) for _ in range(math.ceil(images / self._dist.world_size / self._micro_batch))]
            position += images

    def close(self) -> None:
        """End the worker processes. The next epoch, if there is one, starts new ones."""
        if self._parts is not None:
            from facezoo.data import stop_workers

            stop_workers(self._batches)
        self._parts, self._batches = None, iter(())

    def _shuffling_sampler(self) -> Any:
        from facezoo.data import ResumableSampler

        config, dist = self._config, self._dist
        return ResumableSampler(len(self._dataset), seed=config.seed, rank=dist.rank, world_size=dist.world_size)

    def _identity_sampler(self) -> Any:
        from facezoo.data import PKSampler

        config, dist = self._config, self._dist
        if self._micro_batch % config.images_per_identity:
            raise ValueError(
                f"batch_size ({config.batch_size}) must be a multiple of ranks x accumulation x images_per_identity "
                f"({dist.world_size} x {config.accumulation} x {config.images_per_identity})"
            )
        return PKSampler(
            [label for _, label in self._dataset.samples],
            identities=config.batch_size // config.images_per_identity,
            images_per_identity=config.images_per_identity,
            seed=config.seed,
            rank=dist.rank,
            world_size=dist.world_size,
        )

    def _images_of_a_permutation(self) -> int:
        config, images = self._config, len(self._dataset)
        if config.drop_last and images < config.batch_size:
            raise ValueError(
                f"{images} training images do not fill one batch of {config.batch_size}: "
                "lower batch_size, or set drop_last to false"
            )
        # Without drop_last the sampler repeats a few images, so that every rank has as many.
        unit = config.batch_size if config.drop_last else self._dist.world_size
        return (images // unit if config.drop_last else math.ceil(images / unit)) * unit

    def _loading(self) -> tuple[Any, Any]:
        if self._parts is None:
            from facezoo.data import SeededDataset, make_loader

            config, dist = self._config, self._dist
            seeded = SeededDataset(self._dataset, config.seed)
            loader = make_loader(
                seeded,
                self._micro_batch,
                sampler=self._sampler,
                num_workers=config.num_workers,
                pin_memory=dist.device.type == "cuda",
            )
            loader.worker_init_fn = ignore_stop_signals
            self._parts = seeded, loader
        return self._parts
