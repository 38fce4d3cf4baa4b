"""The few functions of torch.distributed that the trainer uses."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from facezoo.devices import resolve_device
from facezoo.training.errors import TrainingInterrupted
from facezoo.training.lifeline import Lifeline

T = TypeVar("T")

# The figures of an evaluation are made on rank 0 while the others wait. That may take longer than torch's default of 10 minutes.
_TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Distributed:
    """Rank and world size of this process, and collective operations. With ``world_size`` 1 every method does nothing.

    Args:
        rank: number of this process.
        world_size: number of processes.
        device: device of this process.
        owner: whether :meth:`leave` ends the process group.
        lifeline: notices the end of another rank.
    """

    rank: int
    world_size: int
    device: torch.device
    owner: bool = False
    lifeline: Lifeline | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def __enter__(self) -> Distributed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave(error)

    def leave(self, error: BaseException | None = None) -> None:
        """Leave the process group, if this object joined it.

        Args:
            error: what this rank ends with; the other ranks are told, and end too.

        Raises:
            RankLostError: ``error`` is there because another rank is gone.
        """
        try:
            if self.lifeline is not None:  # an interruption is one of all ranks
                self.lifeline.leave(None if isinstance(error, TrainingInterrupted) else error)
        finally:
            if self.owner and dist.is_initialized():
                dist.destroy_process_group()
            if self.lifeline is not None:
                self.lifeline.close()

    def broadcast(self, value: T) -> T:
        """The value of rank 0, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def on_main(self, work: Callable[[], T]) -> tuple[T | None, Exception | None]:
        """What ``work`` returns on rank 0, and the error with which it ended there instead; on every rank."""
        value: T | None = None
        failure: Exception | None = None
        if self.is_main:
            try:
                value = work()
            except Exception as error:
                failure = error
        value, sent = self.broadcast((value, None if self.world_size == 1 else to_send(failure)))
        return value, failure or sent

    def gather(self, value: T) -> list[T] | None:
        """The values of all ranks in order, on rank 0; None on the others."""
        if self.world_size == 1:
            return [value]
        box: list[T | None] | None = [None] * self.world_size if self.is_main else None
        with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
            dist.gather_object(value, box, dst=0)
        return cast("list[T] | None", box)

    def broadcast_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give tensors the values of rank 0, in place."""
        for tensor in tensors if self.world_size > 1 else ():
            dist.broadcast(tensor, src=0)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank."""
        if self.world_size == 1:
            return flag
        tensor = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return bool(tensor.item())

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over the ranks (of a copy)."""
        if self.world_size == 1:
            return tensor
        tensor = tensor.clone()
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
        return tensor

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        """The mean over the ranks (of a copy)."""
        return self.sum(tensor) / self.world_size


def to_send(value: T) -> T | RuntimeError:
    """A value that another process can read; an error becomes a plain one if more than its message is needed to make it again."""
    if isinstance(value, Exception):
        try:
            pickle.loads(pickle.dumps(value))
        except Exception:
            return RuntimeError(f"{type(value).__name__}: {value}")
    return value


def join_distributed(device: str = "auto") -> Distributed:
    """Join the process group that torchrun describes in the environment; without torchrun there is one process.

    The backend is gloo on CPU and nccl on CUDA (one device per local rank). An existing group is used and not changed. A rank that
    dies or fails ends the others within seconds, with a line that names it. As a context manager the result leaves the group at
    the end::

        with join_distributed() as process:
            Trainer(config, process=process).fit()

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        ValueError: the device does not exist.
    """
    if dist.is_available() and dist.is_initialized():
        return Distributed(dist.get_rank(), dist.get_world_size(), resolve_device(device, _local_rank()))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        return Distributed(0, 1, resolve_device(device))
    own = resolve_device(device, _local_rank())
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_TIMEOUT)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    host = os.environ.get("MASTER_ADDR", "127.0.0.1")
    return Distributed(rank, world_size, own, owner=True, lifeline=Lifeline(rank, world_size, own, host))


def current_process(device: str = "auto") -> Distributed:
    """Rank and world size in the existing process group, or a single process. It does not join a group.

    Raises:
        ValueError: the device does not exist.
        RuntimeError: torchrun started several processes, but no process group was joined.
    """
    if not (dist.is_available() and dist.is_initialized()) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            f"this is one of {os.environ['WORLD_SIZE']} processes of torchrun, which are not joined yet: "
            "with facezoo.training.join_distributed() as process: Trainer(config, process=process).fit()"
        )
    return join_distributed(device)


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))
