"""Measure whether training waits for the images or for the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Speeds:
    """Images per second of batches alone, of the network alone, and of both in turn.

    Attributes:
        loader: loading batches only.
        network: the network on one batch, repeatedly.
        together: loading batches and running the network.
    """

    loader: float
    network: float
    together: float

    def __str__(self) -> str:
        slower = "loader" if self.loader < self.network else "network"
        return (
            f"loader        {self.loader:.0f} images/s alone\n"
            f"network       {self.network:.0f} images/s alone\n"
            f"together      {self.together:.0f} images/s; training waits for the {slower}"
        )


def measure_speeds(
    batches: Callable[[], Iterator[Tensor]], step: Callable[[Tensor], object], *, seconds: float = 5.0
) -> Speeds:
    """Measure the speed of loading and of the network, each for some seconds after two warm-up batches.

    Args:
        batches: starts an epoch of images (N, C, H, W); begun anew when it ends.
        step: uses a batch, and returns when it is done.
        seconds: for each of the three measurements.

    Raises:
        ValueError: an epoch without a batch.
    """
    stream = _endless(batches)
    one = next(stream)

    def rate(used: Callable[[], Tensor]) -> float:
        for _ in range(2):
            used()
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < seconds:
            count += len(used())
        return count / max(time.perf_counter() - start, 1e-9)

    def both() -> Tensor:
        images = next(stream)
        step(images)
        return images

    def network() -> Tensor:
        step(one)
        return one

    return Speeds(rate(lambda: next(stream)), rate(network), rate(both))


def _endless(batches: Callable[[], Iterator[Tensor]]) -> Iterator[Tensor]:
    while True:
        empty = True
        for images in batches():
            empty = False
            yield images
        if empty:
            raise ValueError("there are fewer images than fill one batch")
