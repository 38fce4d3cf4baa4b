"""Margins that store an embedding of each class: VPL and UniTSFace.

After each training step the head stores the normalized embedding of every class in the batch; the newest is kept, and of two in
one batch the later. The first ``start`` steps only fill the memory. The memory is updated at the beginning of the next forward
pass; if the previous backward pass has not run yet, as with mixup, a copy is updated.
"""

from __future__ import annotations

from typing import Any

from facezoo.margins.catalog.binary import UniFace
from facezoo.margins.catalog.checks import check_share
from facezoo.margins.catalog.fixed import ArcFace
from facezoo.margins.margin import Stored, register_margin


def _check_steps(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is a number of training steps, 0 or more; got {value!r}")


@register_margin("vpl")
class VPL(ArcFace):
    """ArcFace with the class's last embedding mixed into its center, with weight λ = ``share``.

    An embedding older than ``freshness`` steps (Δ) is ignored, because the network has changed since. The memory is as large as
    the centers. Inference (``head.logits``) uses only the centers.
    """

    title = "VPL, variational prototype learning"
    formula = "s·cos(θ_y + m) with the centers norm((1 - λ)·w_j + λ·memory_j)"
    paper = "CVPR 2021, Deng et al."

    share: float = 0.15
    freshness: int = 200
    start: int = 8000

    def check(self) -> None:
        """ArcFace's options, a share, and numbers of steps."""
        super().check()
        check_share("share", self.share)
        _check_steps("freshness", self.freshness)
        _check_steps("start", self.start)

    @property
    def stored(self) -> Stored:
        """Mixed into the centers."""
        return Stored("mixed", start=self.start, share=self.share, freshness=self.freshness)


@register_margin("unitsface")
class UniTSFace(UniFace):
    """UniFace with stored embeddings in place of centers: it compares images with images, as verification does.

    No centers are learned, so the paper adds it to a sample-to-class loss such as CosFace after the first epoch has filled the
    memory: set ``start`` to the number of steps of an epoch. Before ``start`` the loss is 0. Then b, which is ``-head.offset``,
        is set to the
    batch mean of log Σ exp(s·x·f_j), and learned from there. A class that was not seen yet has cosine 0 and no gradient.
    """

    title = "UniTSFace, sample to sample"
    formula = (
        "loss log(1 + exp(b - s·(x·f_y - m))) + Σ_j log(1 + exp(s·x·f_j - b)), f_j the stored embedding of class j"
    )
    paper = "arXiv 2311.02523"
    other_formula = "s·x·f_j - b"

    margin: float = 0.1
    start: int = 100

    def check(self) -> None:
        """UniFace's options, and a number of steps."""
        super().check()
        _check_steps("start", self.start)

    @property
    def stored(self) -> Stored:
        """In place of centers."""
        return Stored("only", start=self.start)
