"""What processes that hold a part of the classes each have to tell one another. Alone, nothing."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """Communication of a head whose classes are spread over several processes.

    Every process works on the rows of *all* processes' batches (``gather_*``), reduces over its own classes, and joins the
    results (``sum``, ``max``); from there on all of them compute the same numbers, the loss included. So gradients of numbers per
    sample are the same everywhere, while ∂loss/∂features is a sum over processes.
    """

    def gather_features(self, x: Tensor) -> Tensor:
        """``(n, D)`` of each process -> ``(N, D)``. Backward: every process holds a *part* of the gradient; sum, keep own rows."""
        ...

    def gather_replicated(self, x: Tensor) -> Tensor:
        """``(n,)`` of each process -> ``(N,)``. Backward: every process holds the *whole* gradient; keep own rows. Also labels."""
        ...

    def broadcast(self, x: Tensor) -> Tensor:
        """The first process's ``x``, without gradient: random numbers that all must share."""
        ...

    def sum(self, x: Tensor) -> Tensor:
        """Sum over processes, without gradient; may write into ``x``."""
        ...

    def max(self, x: Tensor) -> Tensor:
        """Largest over processes, elementwise, without gradient; may write into ``x``."""
        ...


class SingleProcess:
    """All classes are here: every operation returns its argument."""

    def gather_features(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def gather_replicated(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def sum(self, x: Tensor) -> Tensor:
        """``x``."""
        return x

    def max(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


SINGLE_PROCESS = SingleProcess()
