"""N-pair loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.losses._batch import (
    check_not_negative,
    checked_batch,
    checked_lengths,
    finite_loss,
    log1p_exp,
    masked_logsumexp,
    mean_where,
)
from facezoo.losses._pairwise import pair_masks
from facezoo.losses.registry import register_loss


@register_loss("n_pair")
class NPairLoss(nn.Module):
    """``log(1 + Σ_{j≠i} exp(f_i·f_j⁺ - f_i·f_i⁺)) + λ·½(‖f_i‖² + ‖f_i⁺‖²)`` over N pairs of N classes (N-pair-mc, Sohn, NIPS 2016).

    The samples of a class form pairs in the order of the batch. The first pairs of all classes form one set of N pairs, the
    second pairs another, and so on; a pair's negatives are the positives of the *other classes of its set*. The paper uses
    batches with two samples per class; a PK batch with K images gives ⌊K/2⌋ sets. Samples without a partner are ignored. The
    loss is the mean over the pairs.

    It uses dot products, not cosines: as in the paper, embeddings are not normalized, and λ keeps them short. (With length 1
    the dot products lie in [-1, 1], and the loss cannot become small.)

    Args:
        l2_weight: λ, weight of half the squared lengths, averaged over anchors and positives; 0 turns it off. The paper gives
            no value; 0.002 is common.
    """

    def __init__(self, *, l2_weight: float = 0.002) -> None:
        super().__init__()
        check_not_negative(l2_weight=l2_weight)
        self.l2_weight = l2_weight

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean over the pairs of a batch; zero if no class has two samples.

        Args:
            embeddings: ``(N, D)``, not normalized.
            labels: int, ``(N,)``; any values.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, labels = checked_batch(embeddings, labels)
            checked_lengths(embeddings)
            same = pair_masks(labels, labels)[0]
            turn = same.tril().sum(1)  # number of samples of the class before this one
            is_next = same & (turn[None, :] == turn[:, None] + 1)
            anchors = (turn % 2 == 0) & is_next.any(1)
            partner = is_next.to(torch.uint8).argmax(1)
            positives = embeddings[partner]
            products = embeddings @ positives.T
            others = anchors[None, :] & (turn[None, :] == turn[:, None]) & (labels[None, :] != labels[:, None])
            own = products.diagonal()[:, None]
            loss = mean_where(log1p_exp(masked_logsumexp(products - own, others, 1)), anchors)
            lengths = 0.5 * (embeddings.square().sum(1) + positives.square().sum(1))
            return finite_loss(loss + self.l2_weight * mean_where(lengths, anchors))

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return f"l2_weight={self.l2_weight}"
