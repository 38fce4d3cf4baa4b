"""Cross-batch memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.losses._batch import check_not_negative, check_sizes, checked_lengths
from facezoo.losses._pairwise import PairwiseLoss


class CrossBatchMemory(nn.Module):
    """A pair-wise loss whose batch is also compared with the embeddings of former batches (XBM, 1912.06798).

    ::

        criterion = CrossBatchMemory(create_loss("contrastive"), size=8192, embedding_dim=512, delay=1000)
        loss = criterion(embeddings, labels)

    A batch is compared with itself (both samples of a pair get a gradient) and with the memory, whose embeddings are constants.
    (The paper's listing adds the batch to the memory first and compares only with the memory.) In training mode the batch then
    replaces the oldest entries; writing wraps around at the end. Of a batch larger than the memory the last rows are kept.

    Embeddings change quickly at the start of a training, so the memory is used only after ``delay`` steps. It is filled from
    the first step on, so that it is up to date at the end of the delay.

    Its whole state is in buffers: a checkpoint has ``size·(D + 2)`` more numbers, and a resumed run has the same memory.
    Under data-parallel training put it inside :class:`GatheredLoss` (the trainer gathers by itself).

    Args:
        loss: a pair-wise loss: contrastive, triplet, lifted structure, SupCon, NT-Xent, multi-similarity, circle.
        size: number of embeddings in the memory.
        embedding_dim: width D of the embeddings.
        delay: number of training steps (calls) during which the memory is filled but not used.

    Attributes:
        memory: buffer ``(size, D)``, float32.
        memory_labels: buffer ``(size,)``, int64.
        position: buffer, 0-dimensional int64: index of the next embedding.
        filled: buffer, 0-dimensional int64: number of filled entries.
        steps: buffer, 0-dimensional int64: calls in training mode.
    """

    memory: Tensor
    memory_labels: Tensor
    position: Tensor
    filled: Tensor
    steps: Tensor

    def __init__(self, loss: nn.Module, *, size: int, embedding_dim: int, delay: int = 0) -> None:
        super().__init__()
        if not isinstance(loss, PairwiseLoss):
            raise TypeError(
                f"a memory needs a loss that compares pairs with further references; {type(loss).__name__} does not"
            )
        check_sizes(size=size, embedding_dim=embedding_dim)
        check_not_negative(delay=delay)
        self.loss = loss
        self.size = size
        self.embedding_dim = embedding_dim
        self.delay = delay
        self.register_buffer("memory", torch.zeros(size, embedding_dim))
        self.register_buffer("memory_labels", torch.zeros(size, dtype=torch.int64))
        for name in ("position", "filled", "steps"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of the batch compared with itself and the memory; in training mode the batch is added to the memory
        afterwards.

        Args:
            embeddings: ``(N, D)``.
            labels: int, ``(N,)``.
        """
        if embeddings.dim() == 2 and embeddings.shape[1] != self.embedding_dim:
            raise ValueError(f"expected embeddings of width {self.embedding_dim}, got {embeddings.shape[1]}")
        # A mask instead of a slice: the number of entries is on the device, and reading it would synchronize.
        valid = (torch.arange(self.size, device=self.memory.device) < self.filled) & (self.steps >= self.delay)
        if self.training:
            checked_lengths(embeddings, kept_as=self.memory.dtype)
        value: Tensor = self.loss(embeddings, labels, self.memory, self.memory_labels, valid)
        if self.training:
            self._remember(embeddings.detach(), labels)
        return value

    @torch.no_grad()
    def _remember(self, embeddings: Tensor, labels: Tensor) -> None:
        embeddings, labels = embeddings[-self.size :], labels[-self.size :]
        place = (self.position + torch.arange(len(labels), device=self.position.device)) % self.size
        self.memory[place] = embeddings.to(self.memory.dtype)
        self.memory_labels[place] = labels.long()
        self.position.copy_((self.position + len(labels)) % self.size)
        self.filled.add_(len(labels)).clamp_(max=self.size)
        self.steps.add_(1)

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"size={self.size}, embedding_dim={self.embedding_dim}, delay={self.delay}"
