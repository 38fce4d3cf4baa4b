"""Margins that remember an embedding of each class: VPL and UniTSFace.

The head stores, after each training step, the (normalized) embedding of every class in the batch; the newest counts, and of two
in one batch the later. The first ``start`` steps only fill the memory. It changes at the beginning of the next forward pass; where
the backward pass of the one before is still to come, as with mixup, a copy of it does.
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
    """ArcFace against centers into which the class's last embedding is mixed, with a share λ = ``share``.

    An embedding older than ``freshness`` steps (Δ) does not count, for the network has moved on. The memory is as large as
    the centers. Inference (``head.logits``) uses the centers alone.
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
    """UniFace against stored embeddings in place of centers: compares images with images, as verification does.

    No centers are learned, so the paper adds it to a sample-to-class loss such as CosFace once the first epoch has filled the
    memory: set ``start`` to the steps of an epoch. Before that the loss is 0. After it b, which is ``-head.offset``, is set to
    the batch mean of log Σ exp(s·x·f_j), and learned from there. A class that was not seen yet has cosine 0 and no gradient.
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
