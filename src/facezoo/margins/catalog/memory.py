"""Margins that remember an embedding of each class: VPL and UniTSFace.

The head stores, after each training step, the (normalized) embedding of every class in the batch; the newest counts, and of two
in one batch the later. The first ``start`` steps only fill the memory. It changes at the beginning of the next forward pass; where
the backward pass of the one before is still to come, as with mixup, a copy of it does.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from facezoo.margins.catalog.binary import check_uniface, uniface_loss, uniface_offset
from facezoo.margins.catalog.checks import check_angular_margin, check_share
from facezoo.margins.engines.statistics import Negatives
from facezoo.margins.spec import MarginInputs, register_margin
from facezoo.ops.margin import Easy, additive_angular_margin


def _check_steps(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is a number of training steps, 0 or more; got {value!r}")


def _check_vpl(*, margin: float, easy: str, share: float, freshness: int, start: int, **_: Any) -> None:
    check_angular_margin(margin=margin, easy=easy)
    check_share("share", share)
    _check_steps("freshness", freshness)
    _check_steps("start", start)


@register_margin(
    "vpl",
    title="VPL, variational prototype learning",
    formula="s·cos(θ_y + m) with the centers norm((1 - λ)·w_j + λ·memory_j)",
    paper="CVPR 2021, Deng et al.",
    scale=64.0,
    memory="mixed",
    check=_check_vpl,
)
def vpl(
    inputs: MarginInputs,
    *,
    margin: float = 0.5,
    easy: Easy = "monotone",
    share: float = 0.15,
    freshness: int = 200,
    start: int = 8000,
) -> Tensor:
    """ArcFace against centers into which the class's last embedding is mixed, with a share λ = ``share``.

    An embedding older than ``freshness`` steps (Δ) does not count, for the network has moved on. The memory is as large as
    the centers. Inference (``head.logits``) uses the centers alone.
    """
    return additive_angular_margin(inputs.target, margin, easy=easy)


def _check_unitsface(*, start: int, **options: Any) -> None:
    check_uniface(**options)
    _check_steps("start", start)


@register_margin(
    "unitsface",
    title="UniTSFace, sample to sample",
    formula="loss log(1 + exp(b - s·(x·f_y - m))) + Σ_j log(1 + exp(s·x·f_j - b)), f_j the stored embedding of class j",
    paper="arXiv 2311.02523",
    scale=64.0,
    negatives=Negatives(reduction="softplus"),
    other_logits="s·x·f_j - b",
    combine=uniface_loss,
    offset=uniface_offset,
    memory="only",
    warmable=True,
    check=_check_unitsface,
)
def unitsface(inputs: MarginInputs, *, margin: float = 0.1, negative_weight: float = 1.0, start: int = 100) -> Tensor:
    """UniFace against stored embeddings in place of centers: compares images with images, as verification does.

    No centers are learned, so the paper adds it to a sample-to-class loss such as CosFace once the first epoch has filled the
    memory: set ``start`` to the steps of an epoch. Before that the loss is 0. After it b, which is ``-head.offset``, is set to
    the batch mean of log Σ exp(s·x·f_j), and learned from there. A class that was not seen yet has cosine 0 and no gradient.
    """
    return inputs.target - margin
