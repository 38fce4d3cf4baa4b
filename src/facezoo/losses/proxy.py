"""Losses against learned proxies of the classes: Proxy-NCA, Proxy-Anchor, SoftTriple.

The proxies are parameters, created in ``__init__``. Pass them to the optimizer, usually with a larger learning rate than the
backbone's (100 times in Proxy-Anchor's paper). Any batch works, since no pairs are needed.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facezoo.losses._batch import (
    check_not_negative,
    check_positive,
    check_sizes,
    checked_batch,
    checked_lengths,
    finite_loss,
    log1p_exp,
    masked_logsumexp,
    mean_where,
)
from facezoo.losses._pairwise import pairwise_cosines, pairwise_distances
from facezoo.losses.registry import register_loss
from facezoo.ops.margin import unit_vectors
from facezoo.registry import unknown_name_message

Denominator = Literal["negatives", "all"]


class _ProxyLoss(nn.Module):
    """Base class with proxies ``(C, ...)`` and the checks of a batch."""

    def __init__(self, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, embedding_dim=embedding_dim)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: ``(N, D)``, any floating dtype, of any length.
            labels: int, in [0, C), ``(N,)``.

        Returns:
            The loss, 0-dimensional, float32 (float64 for float64 embeddings).

        Raises:
            ValueError: shapes do not match, an empty batch, values that are not finite, or a label out of range.
            TypeError: labels that are not integers, or embeddings that are.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings, labels = checked_batch(
                embeddings, labels, width=self.embedding_dim, num_classes=self.num_classes
            )
            checked_lengths(embeddings)
            return finite_loss(self.compare(embeddings, labels))

    def compare(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of a checked batch."""
        raise NotImplementedError

    def _is_target(self, labels: Tensor) -> Tensor:
        """``(N, C)`` bool: which proxy belongs to which sample."""
        return labels[:, None] == torch.arange(self.num_classes, device=labels.device)


@register_loss("proxy_nca")
class ProxyNCALoss(_ProxyLoss):
    """``-log(exp(-s·d²(x, p_y)) / Σ_{j≠y} exp(-s·d²(x, p_j)))`` (1703.07464, equation 6), the mean over the batch.

    x and p are of length 1, d² is the squared Euclidean distance. As the paper has it, the denominator leaves out the sample's
    own proxy: the loss may be negative, and has no lower bound of zero.

    Args:
        num_classes: number of identities C, at least 2.
        embedding_dim: width D of the embeddings.
        scale: s. The paper's vectors are of length 1; its published code, and 2004.01113, take length 3, which is s = 9.
        denominator: ``"negatives"``, the paper's; or ``"all"`` proxies, which is a softmax (Proxy-NCA++, 2004.01113).

    Attributes:
        proxies: parameter ``(C, D)``.
    """

    def __init__(
        self, *, num_classes: int, embedding_dim: int, scale: float = 9.0, denominator: Denominator = "negatives"
    ) -> None:
        super().__init__(num_classes, embedding_dim)
        check_positive(scale=scale)
        if denominator not in ("negatives", "all"):
            raise ValueError(
                unknown_name_message("denominator", str(denominator), ("negatives", "all"), hint="negatives or all")
            )
        if num_classes < 2:
            raise ValueError("proxy_nca needs at least 2 classes: with one there is no negative proxy")
        self.scale = scale
        self.denominator = denominator
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.normal_(self.proxies)

    def compare(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch."""
        distances = pairwise_distances(embeddings, self.proxies.to(embeddings.dtype), normalize=True)
        logits = -self.scale * distances.square()
        target = logits.gather(1, labels[:, None])[:, 0]
        if self.denominator == "all":
            return (torch.logsumexp(logits, 1) - target).mean()
        return (masked_logsumexp(logits, ~self._is_target(labels), 1) - target).mean()

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return (
            f"num_classes={self.num_classes}, embedding_dim={self.embedding_dim}, scale={self.scale}, "
            f"denominator={self.denominator!r}"
        )


@register_loss("proxy_anchor")
class ProxyAnchorLoss(_ProxyLoss):
    """``1/|P⁺|·Σ_{p∈P⁺} log(1 + Σ_{x∈X_p} exp(-α(c_xp - δ))) + 1/|P|·Σ_p log(1 + Σ_{x∉X_p} exp(α(c_xp + δ)))`` (2003.13911).

    Each proxy is an anchor for the whole batch; X_p are its samples, P⁺ the proxies that have any. c are cosines. A batch gives
    every one of the C proxies a gradient.

    Args:
        num_classes: number of identities C.
        embedding_dim: width D of the embeddings.
        margin: δ, a cosine.
        scale: α.

    Attributes:
        proxies: parameter ``(C, D)``.
    """

    def __init__(self, *, num_classes: int, embedding_dim: int, margin: float = 0.1, scale: float = 32.0) -> None:
        super().__init__(num_classes, embedding_dim)
        check_not_negative(margin=margin)
        check_positive(scale=scale)
        self.margin = margin
        self.scale = scale
        self.proxies = nn.Parameter(torch.empty(num_classes, embedding_dim))
        nn.init.kaiming_normal_(self.proxies, mode="fan_out")

    def compare(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The sum of the two means over proxies."""
        cosines = pairwise_cosines(embeddings, self.proxies.to(embeddings.dtype))
        own = self._is_target(labels)
        pull = log1p_exp(masked_logsumexp(self.scale * (self.margin - cosines), own, 0))
        push = log1p_exp(masked_logsumexp(self.scale * (cosines + self.margin), ~own, 0))
        return mean_where(pull, own.any(0)) + push.mean()

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return (
            f"num_classes={self.num_classes}, embedding_dim={self.embedding_dim}, margin={self.margin}, "
            f"scale={self.scale}"
        )


@register_loss("soft_triple")
class SoftTripleLoss(_ProxyLoss):
    """``-log(exp(λ(S_y - δ)) / (exp(λ(S_y - δ)) + Σ_{j≠y} exp(λ·S_j)))`` with K centers per class (1909.05235, equation 8).

    ``S_j = Σ_k softmax_k(c_jk/γ)·c_jk`` is a soft maximum of the cosines to the K centers of class j. A regularizer
    ``τ/(C·K(K-1))·Σ_j Σ_{s<t} √(2 - 2·w_js·w_jt)``, the distances between the centers of a class, merges redundant centers.

    Args:
        num_classes: number of identities C.
        embedding_dim: width D of the embeddings.
        centers_per_class: K.
        scale: λ.
        gamma: γ, temperature of the soft maximum: the smaller, the harder.
        margin: δ, a cosine.
        regularizer: τ, weight of the regularizer.

    Attributes:
        centers: parameter ``(C, K, D)``. K times the memory of one center per class.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        embedding_dim: int,
        centers_per_class: int = 10,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        regularizer: float = 0.2,
    ) -> None:
        super().__init__(num_classes, embedding_dim)
        check_positive(scale=scale, gamma=gamma)
        check_not_negative(margin=margin, regularizer=regularizer)
        check_sizes(centers_per_class=centers_per_class)
        self.centers_per_class = centers_per_class
        self.scale = scale
        self.gamma = gamma
        self.margin = margin
        self.regularizer = regularizer
        self.centers = nn.Parameter(torch.empty(num_classes, centers_per_class, embedding_dim))
        nn.init.normal_(self.centers)

    def compare(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch, plus the regularizer."""
        centers = unit_vectors(self.centers.to(embeddings.dtype))[0]
        cosines = (unit_vectors(embeddings)[0] @ centers.flatten(0, 1).T).unflatten(1, centers.shape[:2])
        similarity = ((cosines / self.gamma).softmax(2) * cosines).sum(2)
        logits = self.scale * (similarity - self.margin * self._is_target(labels).to(similarity.dtype))
        loss = F.cross_entropy(logits, labels)
        k = self.centers_per_class
        if self.regularizer == 0.0 or k == 1:
            return loss
        # cdist, not √(2 - 2·w_s·w_t): its gradient at distance 0, the optimum of the regularizer, is 0 instead of infinite.
        distances = torch.cdist(centers, centers, compute_mode="donot_use_mm_for_euclid_dist")
        # Each pair occurs twice in the sum, and the diagonal is zero.
        return loss + self.regularizer * 0.5 * distances.sum() / (self.num_classes * k * (k - 1))

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        return (
            f"num_classes={self.num_classes}, embedding_dim={self.embedding_dim}, "
            f"centers_per_class={self.centers_per_class}, scale={self.scale}, gamma={self.gamma}, margin={self.margin}, "
            f"regularizer={self.regularizer}"
        )
