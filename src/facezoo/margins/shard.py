"""The classes of this process, and gathering of sharded tensors."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Rows drawn at a time; the random numbers depend on this value.
_ROWS_PER_DRAW = 16384


@dataclass(frozen=True, eq=False)
class ClassShard:
    """The classes of one process of a group: a run of ⌈C/W⌉ of them, fewer (or none) in the last processes.

    These are the rows of a DTensor with ``Shard(0)``, as torch.distributed.checkpoint expects.

    Attributes:
        num_classes: C, of all processes together.
        group: the processes.
        rank: number of this process in the group.
        size: number of processes W.
    """

    num_classes: int
    group: dist.ProcessGroup
    rank: int
    size: int
    _meshes: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of_group(cls, num_classes: int, group: dist.ProcessGroup) -> ClassShard:
        """The shard of this process. Raises ValueError if the process is not a member of the group."""
        rank = dist.get_rank(group)
        if rank < 0:
            raise ValueError(
                "this process is not a member of process_group; give every process the group that it is in"
            )
        return cls(num_classes, group, rank, dist.get_world_size(group))

    def __deepcopy__(self, memo: dict[int, Any]) -> ClassShard:
        return self  # process groups cannot be copied

    @property
    def rows(self) -> slice:
        """The classes of this process."""
        return self.rows_of(self.rank)

    @property
    def count(self) -> int:
        """Number of classes of this process."""
        return self.count_of(self.rank)

    def rows_of(self, rank: int) -> slice:
        """The classes of a process."""
        most = -(-self.num_classes // self.size)
        return slice(min(rank * most, self.num_classes), min((rank + 1) * most, self.num_classes))

    def count_of(self, rank: int) -> int:
        """Number of classes of a process."""
        rows = self.rows_of(rank)
        return rows.stop - rows.start

    def local_labels(self, labels: Tensor) -> Tensor:
        """Labels as rows of this process's part, -1 for classes of other processes, ``(N,)``."""
        inside = (labels >= self.rows.start) & (labels < self.rows.stop)
        return torch.where(inside, labels - self.rows.start, -1)

    def own(self, value: Tensor) -> Tensor:
        """This process's part of ``value``, which is a DTensor over the same group, all C rows, or already the part.

        Raises:
            ValueError: the number of rows is wrong.
        """
        from torch.distributed.tensor import DTensor

        if isinstance(value, DTensor):
            same = value.device_mesh.mesh.flatten().tolist() == dist.get_process_group_ranks(self.group)
            return value.to_local() if same and value.placements[0].is_shard(0) else self.own(value.full_tensor())
        if len(value) == self.num_classes:
            return value[self.rows]
        if len(value) == self.count:
            return value
        raise ValueError(
            f"expected {self.num_classes} rows, one per class, or the {self.count} of this process; got {len(value)}"
        )

    def as_dtensor(self, part: Tensor) -> Tensor:
        """``part``, the rows of this process, as a DTensor with ``Shard(0)`` that shares its memory."""
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.tensor import DTensor, Shard

        device = part.device.type
        if device not in self._meshes:
            self._meshes[device] = DeviceMesh.from_group(self.group, device)
        part = part.detach()
        whole = torch.empty(self.num_classes, *part.shape[1:], device="meta")
        return DTensor.from_local(
            part, self._meshes[device], [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
        )

    def put_dtensors(self, state_dict: MutableMapping[str, Any], names: Iterable[str]) -> None:
        """Replace the parts called ``names`` by DTensors."""
        for name in names:
            if name in state_dict:
                state_dict[name] = self.as_dtensor(state_dict[name])

    def take_parts(self, state_dict: MutableMapping[str, Any], names: Iterable[str]) -> None:
        """Replace the entries called ``names`` by this process's part, see :meth:`own`."""
        for name in names:
            if name in state_dict:
                state_dict[name] = self.own(state_dict[name])

    def gather(self, part: Tensor) -> Tensor | None:
        """All C rows on the CPU of the group's first process; None on the others. Every process must call it.

        The parts are sent one by one, so that no device holds more than two of them.
        """
        part = part.detach().contiguous()
        first = dist.get_global_rank(self.group, 0)
        if self.rank > 0:
            if self.count:
                dist.send(part, dst=first, group=self.group)
            return None
        whole = torch.empty(self.num_classes, *part.shape[1:], dtype=part.dtype)
        whole[self.rows] = part.cpu()
        for rank in range(1, self.size):
            if self.count_of(rank):
                received = part.new_empty(self.count_of(rank), *part.shape[1:])
                dist.recv(received, src=dist.get_global_rank(self.group, rank), group=self.group)
                whole[self.rows_of(rank)] = received.cpu()
        return whole

    def exchange_columns(self, block: Tensor) -> Tensor:
        """Exchange ``(N, own classes)`` for all batches to ``(n, C)`` for the own batch, on every process."""
        samples = len(block) // self.size
        counts = [self.count_of(rank) for rank in range(self.size)]
        received = block.new_empty(samples * self.num_classes)
        dist.all_to_all_single(
            received,
            block.flatten(),
            output_split_sizes=[samples * count for count in counts],
            input_split_sizes=[samples * self.count] * self.size,
            group=self.group,
        )
        parts = received.split([samples * count for count in counts])
        return torch.cat([part.view(samples, count) for part, count in zip(parts, counts, strict=True)], dim=1)


def draw_centers(weight: Tensor, *, std: float, num_classes: int, first: int = 0) -> None:
    """Fill ``weight`` with rows ``first`` and following of a ``(num_classes, ...)`` tensor from N(0, std²).

    All rows are drawn, and those of other processes are discarded. So with the same seed the rows do not depend on the number of
    processes, and the processes' random generators stay in sync.
    """
    with torch.no_grad():
        for start in range(0, num_classes, _ROWS_PER_DRAW):
            stop = min(start + _ROWS_PER_DRAW, num_classes)
            if first <= start and stop <= first + len(weight):
                weight[start - first : stop - first].normal_(std=std)
                continue
            block = weight.new_empty(stop - start, *weight.shape[1:]).normal_(std=std)
            start, begin = max(start, first), start
            stop = min(stop, first + len(weight))
            if start < stop:
                weight[start - first : stop - first] = block[start - begin : stop - begin]
