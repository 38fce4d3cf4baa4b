"""Batches of P identities with K images each, for losses on pairs and triplets."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from facezoo.data.sampling import mix_seeds, require_rank
from facezoo.registry import unknown_name_message

Short = Literal["repeat", "skip"]


class PKSampler(Sampler[int]):
    """Batches of P different identities with K images each: the indices of one rank.

    An epoch is one pass over the images, as with :class:`ResumableSampler`. The images of an identity are shuffled and cut into
    groups of K, and the groups are spread over the batches of the epoch. An identity appears as often as its number of images
    allows, and no image appears twice. Three kinds of images are skipped in an epoch, different ones in each: the ``n mod K``
    left over of an identity's n images, the groups of an identity that has more groups than there are batches, and the groups
    that do not fill a last batch. An identity with fewer than K images forms one group with its images repeated as evenly as
    possible, or it is left out (``short``). (With :class:`SeededDataset` the copies of an image in one epoch get the same
    augmentation, so they are positives at distance 0.)

    A batch over all ranks has P identities. Each rank gets P/world_size of them, different from those of the other ranks; the K
    images of an identity are adjacent. With ``batch_size = P·K / world_size``, or a divisor of it that is a multiple of K, a
    loader's batches contain whole identities, and the batches of all ranks joined are those of a single process. The order
    depends only on the labels, P, K, the seed and the epoch, and can be resumed at any point.

    Args:
        labels: identity of every image, int, ``(length,)``.
        identities: P, over all ranks together; a multiple of ``world_size``.
        images_per_identity: K.
        short: identities with fewer than K images: ``"repeat"`` their images, or ``"skip"`` them.
        seed: seed of the order.
        rank: this process, from 0.
        world_size: number of processes.

    Attributes:
        epoch: the current epoch; set it with :meth:`set_epoch`.
        start: number of samples of this rank to skip, to resume within an epoch.
        batches: number of batches in an epoch, the same in each.

    Raises:
        ValueError: fewer than P identities (that have enough images), or a number out of range.
    """

    def __init__(
        self,
        labels: Tensor | Sequence[int],
        *,
        identities: int,
        images_per_identity: int,
        short: Short = "repeat",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        table = np.asarray(labels, dtype=np.int64)
        if table.ndim != 1 or len(table) < 1:
            raise ValueError(f"labels: expected one per image, at least 1, got shape {table.shape}")
        if identities < 1 or images_per_identity < 1:
            raise ValueError(
                f"identities and images_per_identity: expected at least 1, got {identities} and {images_per_identity}"
            )
        if short not in ("repeat", "skip"):
            raise ValueError(unknown_name_message("short", str(short), ("repeat", "skip"), hint="repeat or skip"))
        require_rank(rank, world_size)
        if identities % world_size:
            raise ValueError(f"identities ({identities}) must be a multiple of world_size ({world_size})")
        self.length = len(table)
        self.identities = identities
        self.images_per_identity = images_per_identity
        self.short = short
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0
        _, self._identity, self._counts = np.unique(table, return_inverse=True, return_counts=True)
        self._groups = self._counts // images_per_identity
        if short == "repeat":
            self._groups = np.maximum(self._groups, 1)
        usable = int((self._groups > 0).sum())
        if usable < identities:
            enough = f" with at least {images_per_identity} images" if short == "skip" else ""
            raise ValueError(
                f"a batch of {identities} identities x {images_per_identity} images needs {identities} identities{enough}; "
                f"there are {usable} of {len(self._counts)}"
            )
        self.batches = _most_batches(self._groups, identities)
        self._fingerprint = zlib.crc32(table.astype("<i8").tobytes())

    @property
    def num_samples(self) -> int:
        """Number of samples of this rank in a whole epoch."""
        return self.batches * self.identities * self.images_per_identity // self.world_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which determines the order. A new epoch starts at its first sample; the current one keeps its
        ``start``."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.start = 0

    def __len__(self) -> int:
        return max(self.num_samples - self.start, 0)

    def __iter__(self) -> Iterator[int]:
        share = self.identities // self.world_size
        own = self.epoch_batches()[:, self.rank * share : (self.rank + 1) * share]
        yield from own.reshape(-1)[self.start :].tolist()

    def epoch_batches(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Image indices of the epoch for all ranks, ``(batches, P, K)``; rank r takes the r-th part of P."""
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
        chosen = self._identities_of_batches(generator)
        # All images in one array, identity by identity, shuffled within each.
        shuffled = torch.randperm(self.length, generator=generator).numpy()
        images = shuffled[np.argsort(self._identity[shuffled], kind="stable")]
        first = np.cumsum(self._counts) - self._counts
        # How often the identity appeared before: this many groups of its images are used.
        flat = chosen.reshape(-1)
        by_identity = np.argsort(flat, kind="stable")
        uses = np.bincount(flat, minlength=len(self._counts))
        turn = np.empty_like(flat)
        turn[by_identity] = np.arange(len(flat)) - np.repeat(np.cumsum(uses) - uses, uses)
        k = self.images_per_identity
        place = (turn[:, None] * k + np.arange(k)) % self._counts[flat][:, None]
        return images[first[flat][:, None] + place].reshape(*chosen.shape, k)

    def state_dict(self) -> dict[str, Any]:
        """The position of the sampler, as JSON values: the same on all ranks, and valid for another ``world_size``."""
        return {"epoch": self.epoch, "position": self.start * self.world_size, **self._settings()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to the position in ``state``. With another ``world_size`` this is exact at the end of a batch.

        Raises:
            ValueError: the state belongs to other labels, another seed, or other numbers.
        """
        for name, own in self._settings().items():
            if state[name] != own:
                raise ValueError(
                    f"the saved sampler has {name}={state[name]!r}, this one {own!r}; "
                    "resume with the same data and settings, or start a new run"
                )
        self.epoch = int(state["epoch"])
        self.start = int(state["position"]) // self.world_size

    def _settings(self) -> dict[str, Any]:
        return {
            "length": self.length,
            "labels": self._fingerprint,
            "seed": self.seed,
            "identities": self.identities,
            "images_per_identity": self.images_per_identity,
            "short": self.short,
        }

    def _identities_of_batches(self, generator: torch.Generator) -> np.ndarray[Any, np.dtype[np.int64]]:
        """The identities of every batch, ``(batches, P)``: random, each at most once per batch."""
        p, batches = self.identities, self.batches
        counts = np.minimum(self._groups, batches)
        owners = np.repeat(np.arange(len(counts)), counts)
        kept = torch.randperm(len(owners), generator=generator).numpy()[: p * batches]
        counts = np.bincount(owners[kept], minlength=len(counts))
        # Each identity's groups get random times in equal parts of the epoch, so they are spread over it.
        owners = np.repeat(np.arange(len(counts)), counts)
        part = np.arange(len(owners)) - np.repeat(np.cumsum(counts) - counts, counts)
        noise = torch.rand(len(owners), generator=generator, dtype=torch.float64).numpy()
        queue = deque(owners[np.argsort((part + noise) / counts[owners], kind="stable")].tolist())
        # Take P identities at a time from the queue. An identity that is already in the batch waits for the next one. An identity
        # with as many groups left as there are batches left must be in each of them: it is taken first, and its place in the queue
        # is dropped. There are P groups left per batch, and no identity has more groups than batches, so P are always available.
        left, void = counts.tolist(), [0] * len(counts)
        due: list[list[int]] = [[] for _ in range(batches + 1)]
        for identity, count in enumerate(left):
            if count:
                due[batches - count].append(identity)
        rows = []
        for batch in range(batches):
            row: list[int] = []
            for identity in due[batch]:
                if left[identity] == batches - batch:
                    row.append(identity)
                    void[identity] += 1
                    left[identity] -= 1
                if left[identity]:
                    due[batches - left[identity]].append(identity)
            members, waiting = set(row), []
            while len(row) < p:
                identity = queue.popleft()
                if void[identity]:
                    void[identity] -= 1
                elif identity in members:
                    waiting.append(identity)
                else:
                    row.append(identity)
                    members.add(identity)
                    left[identity] -= 1
            queue.extendleft(reversed(waiting))
            rows.append(row)
        return np.array(rows, dtype=np.int64)


def _most_batches(groups: np.ndarray[Any, np.dtype[np.int64]], identities: int) -> int:
    """The largest B such that B batches of P *different* identities exist: ``Σ_y min(groups_y, B) ≥ P·B``."""
    low, high = 1, int(groups.sum()) // identities
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.minimum(groups, middle).sum()) >= identities * middle:
            low = middle
        else:
            high = middle - 1
    return low
