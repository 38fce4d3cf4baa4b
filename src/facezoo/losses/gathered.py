"""A loss on the batch of all ranks."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn

from facezoo.ops.gather import gather_with_gradient


class GatheredLoss(nn.Module):
    """``loss(embeddings of all ranks, labels of all ranks)``, for losses whose value is not a mean over samples.

    Pairs, triplets and class centers of one rank's part of a batch are not those of the whole batch. So every rank computes the
    loss of the whole batch; for 1,000 embeddings this takes little time compared with the network. The value is the same on
    each rank, and so are running states such as centers and memories. With the averaging of DistributedDataParallel the
    gradients are those of one process with the whole batch, for any loss, even if the ranks have parts of different size. (A
    random miner draws differently on each rank.)

    Every rank must take part in each call and in its backward pass. Without a process group it is the plain loss.

    Args:
        loss: any module ``loss(embeddings, labels) -> scalar``.
        group: the ranks; None means all.
    """

    def __init__(self, loss: nn.Module, *, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.group = group

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the whole batch.

        Args:
            embeddings: ``(N, D)``, those of this rank; N may differ between ranks.
            labels: int, ``(N,)``.
        """
        value: Tensor = self.loss(
            gather_with_gradient(embeddings, self.group), gather_with_gradient(labels, self.group)
        )
        return value
