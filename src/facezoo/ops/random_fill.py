"""Random numbers for many tensors at once, on all threads, and the same ones for any number of threads."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import torch
from torch import Tensor

# Numbers per generator: some milliseconds of work, thousands of times what a generator costs.
PIECE = 2**19


class Draw(NamedTuple):
    """What to fill a tensor with.

    Attributes:
        tensor: floating, any shape and device.
        distribution: ``"normal"``: N(0, width²); ``"uniform"``: U(-width, width).
        width: 0 or more.
    """

    tensor: Tensor
    distribution: Literal["normal", "uniform"]
    width: float


def fill_(draws: Sequence[Draw]) -> None:
    """Fill every tensor, in place.

    torch draws on one thread, from one generator. Here each piece of :data:`PIECE` numbers in the memory of the CPU has a generator
    of its own, whose seed comes from torch's default generator, and the pieces are drawn side by side: ``torch.manual_seed``
    decides all numbers, the number of threads none.
    """
    pieces: list[Draw] = []
    for draw in draws:
        tensor = draw.tensor.detach()
        if type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.is_contiguous():
            pieces += [Draw(part, draw.distribution, draw.width) for part in tensor.view(-1).split(PIECE)]
        else:
            _fill(Draw(tensor, draw.distribution, draw.width), None)
    if not pieces:
        return
    seeds = torch.randint(2**63 - 1, (len(pieces),), device="cpu").tolist()
    inference = torch.is_inference_mode_enabled()  # a thread does not inherit it

    def fill(draw: Draw, seed: int) -> None:
        with torch.inference_mode(inference):
            _fill(draw, seed)

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        list(threads.map(fill, pieces, seeds))


def _fill(draw: Draw, seed: int | None) -> None:
    generator = None if seed is None else torch.Generator("cpu").manual_seed(seed)
    if draw.distribution == "normal":
        draw.tensor.normal_(0.0, draw.width, generator=generator)
    else:
        draw.tensor.uniform_(-draw.width, draw.width, generator=generator)
