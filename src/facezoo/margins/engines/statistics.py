"""What an engine computes: the contract between the margins, which see N numbers, and the engines, which see N × C."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class ClassStatistics(NamedTuple):
    """All that a softmax loss with a margin on the target needs to know about the C classes.

    With ``z_ij = scale_i · x_i·w_j + bias_j``:

    Attributes:
        target: similarity ``x_i·w_y`` with the own centre (a cosine, if the engine normalises), ``(N,)``.
        negatives: ``log Σ_{j≠y} exp z_ij``, ``(N,)``; -inf where there is no other class.
        total: ``Σ_j z_ij`` over all classes, ``(N,)``; None unless it was asked for (label smoothing needs it).
    """

    target: Tensor
    negatives: Tensor
    total: Tensor | None


class Engine(Protocol):
    """A way to compute :class:`ClassStatistics`, differentiable in ``features``, ``weight``, ``bias`` and ``scale``.

    No margin appears here. The head puts the margin on ``target`` with ordinary autograd, on N numbers, and an engine's backward
    pass receives ∂loss/∂target and ∂loss/∂negatives; so every engine runs every margin, and none of them knows its formula.
    """

    def __call__(
        self,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        *,
        scale: float | Tensor,
        bias: Tensor | None,
        normalise: bool,
        with_total: bool,
        block_size: int | None,
    ) -> ClassStatistics:
        """Compute the statistics.

        Args:
            features: ``(N, D)``, float32 or float64; of length 1 or 0 if ``normalise``.
            weight: class centres, ``(C, D)``, as the head stores them.
            labels: int64 in [0, C), ``(N,)``.
            scale: a positive number, or one per sample, ``(N,)``.
            bias: added to the logits, ``(C,)``.
            normalise: divide each centre by its length.
            with_total: compute ``total`` too.
            block_size: classes per block, for engines that work in blocks; None lets the engine choose.
        """
        ...
