"""The base class of losses that compare samples with each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facezoo.losses._batch import checked_batch, checked_lengths, finite_loss
from facezoo.losses.miners import Candidates
from facezoo.ops.margin import unit_vectors


class PairwiseLoss(nn.Module):
    """A loss that compares every sample of a batch with every other, and with additional references if given.

    A subclass defines :meth:`compare`. Everything runs in float32 (float64 for float64 embeddings), also under autocast. The
    loss of a batch without pairs is a zero that is connected to the graph, so that the backward pass works.
    """

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        reference_mask: Tensor | None = None,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: ``(N, D)``, any floating dtype, of any length.
            labels: int, ``(N,)``; any values, they are only compared.
            references: ``(M, D)``, additional embeddings to compare with, such as a memory of earlier batches. They are not
                anchors.
            reference_labels: int, ``(M,)``.
            reference_mask: bool, ``(M,)``, the references to use; None for all.

        Returns:
            The loss, 0-dimensional, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: shapes do not match, an empty batch, or values that are not finite (see :func:`checked_batch`).
            TypeError: labels that are not integers, or embeddings that are.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, labels = checked_batch(embeddings, labels)
            against, against_labels = embeddings, labels
            if references is not None and len(references):
                if reference_labels is None:
                    raise ValueError("references need their labels: pass reference_labels, one per row")
                references, reference_labels = checked_batch(
                    references, reference_labels, what="references", width=embeddings.shape[1]
                )
                against = torch.cat([embeddings, references.to(embeddings.dtype)])
                against_labels = torch.cat([labels, reference_labels])
            positive, negative = pair_masks(labels, against_labels)
            if reference_mask is not None and len(against) > len(embeddings):
                allowed = torch.cat([reference_mask.new_ones(len(labels)), reference_mask])
                positive, negative = positive & allowed, negative & allowed
            checked_lengths(embeddings)
            return finite_loss(self.compare(embeddings, against, positive, negative))

    def compare(self, anchors: Tensor, references: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The loss of anchors against references.

        Args:
            anchors: ``(N, D)``, float32 or float64.
            references: ``(N + M, D)``: the anchors themselves, then the others.
            positive: ``(N, N + M)`` bool, pairs of one class, without those of an anchor with itself.
            negative: ``(N, N + M)`` bool, pairs of two classes.
        """
        raise NotImplementedError


def pair_masks(labels: Tensor, reference_labels: Tensor) -> tuple[Tensor, Tensor]:
    """``(positive, negative)``, ``(N, M)`` bool, where the first N of M references are the anchors themselves."""
    same = labels[:, None] == reference_labels[None, :]
    positive = same.clone()
    positive.fill_diagonal_(False)
    return positive, ~same


def pairwise_distances(anchors: Tensor, references: Tensor, *, normalize: bool) -> Tensor:
    """Euclidean distances between all rows, ``(N, M)``; the gradient at distance 0 is 0."""
    if normalize:
        anchors, references = unit_vectors(anchors)[0], unit_vectors(references)[0]
    # With a matrix product small distances would lose half of their digits, and small distances matter most here.
    return torch.cdist(anchors, references, compute_mode="donot_use_mm_for_euclid_dist")


def pairwise_cosines(anchors: Tensor, references: Tensor) -> Tensor:
    """Cosines between all rows, ``(N, M)``; that of a zero vector with anything is 0, and so is its gradient."""
    return unit_vectors(anchors)[0] @ unit_vectors(references)[0].T


def candidates(distances: Tensor, positive: Tensor, negative: Tensor, anchors: Tensor) -> Candidates:
    """The candidates for a miner, without gradient."""
    return Candidates(distances.detach(), positive, negative, anchors.shape[1])
