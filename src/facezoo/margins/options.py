"""Checks of the arguments of :func:`facezoo.create_margin`; each raises ValueError or TypeError and names the option."""

from __future__ import annotations

from typing import Any

import torch

from facezoo.checks import is_real
from facezoo.margins.backward import BackwardAdamW, BackwardSGD
from facezoo.margins.engines import ENGINES
from facezoo.margins.margin import Margin
from facezoo.margins.negatives import Filter, Negatives
from facezoo.registry import unknown_name_message


def check_head_options(
    margin: Margin,
    *,
    embedding_dim: int,
    num_classes: int,
    label_smoothing: float,
    engine: str,
    block_size: int | None,
    process_group: object,
    sample_rate: object,
    optimizer_in_backward: object,
    warmup_steps: int,
    warmup_scale: float | None,
) -> None:
    """Check the options of every head, one by one and with this margin."""
    if embedding_dim < 1:
        raise ValueError(f"embedding_dim is at least 1, got {embedding_dim}")
    if num_classes < 1:
        raise ValueError(f"num_classes is at least 1, got {num_classes}")
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing is a share in [0, 1), got {label_smoothing}")
    if engine != "auto" and engine not in ENGINES:
        known = ["auto", *ENGINES]
        raise ValueError(unknown_name_message("engine", str(engine), known, hint=f"there are {', '.join(known)}"))
    if block_size is not None and block_size < 1:
        raise ValueError(f"block_size is at least 1 class, got {block_size}")
    _check_scale_out(margin, engine, process_group, sample_rate, optimizer_in_backward)
    _check_warmup(margin, warmup_steps, warmup_scale)


def negatives_of(margin: Margin, interclass_filter: object, label_smoothing: float) -> Negatives:
    """The form of the negatives: the margin's, or that of ``interclass_filter``."""
    negatives, limit = margin.negatives, interclass_filter
    if limit is not None:
        if not is_real(limit) or not -1.0 <= limit <= 1.0:
            raise ValueError(f"interclass_filter is a cosine, from -1 to 1 (typically 0.4), or None; got {limit!r}")
        in_place_of_centers = margin.stored is not None and margin.stored.place == "only"
        if negatives != Negatives() or margin.logits != "scaled_cosine" or in_place_of_centers:
            raise ValueError(
                f"margin {margin.name!r} has its own treatment of the other classes; interclass_filter is for those with plain "
                "softmax over scaled cosines"
            )
        negatives = Filter(limit=float(limit))
    if label_smoothing > 0.0:
        if negatives.reduction != "logsumexp" or "combine" in margin.has:
            raise ValueError(f"margin {margin.name!r} is not a softmax: label_smoothing has no meaning for it")
        if limit is not None:
            raise ValueError(
                "label_smoothing and interclass_filter exclude each other: one wants every class, the other does not"
            )
    return negatives


def _check_warmup(margin: Margin, steps: int, scale: float | None) -> None:
    """Check ``warmup_steps`` and ``warmup_scale``."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"warmup_steps is a number of training steps, 0 or more; got {steps!r}")
    if scale is not None:
        if not steps:
            raise ValueError("warmup_scale needs warmup_steps of at least 1")
        if "scale" not in margin.options or not is_real(scale) or scale <= 0.0:
            raise ValueError(f"warmup_scale is a finite number above 0, for margins with a scale option; got {scale!r}")
    if steps and scale is None and not margin.warmable:
        raise ValueError(f"margin {margin.name!r} has no margin on the cosine that could be warmed up")


def _check_scale_out(
    margin: Margin, engine: str, process_group: object, sample_rate: object, optimizer_in_backward: object
) -> None:
    """Check ``sample_rate``, ``optimizer_in_backward`` and ``process_group``, alone and with the engine."""
    if not is_real(sample_rate) or not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate is a share of the classes, above 0 and up to 1, got {sample_rate!r}")
    if optimizer_in_backward is not None:
        if not isinstance(optimizer_in_backward, (BackwardSGD, BackwardAdamW)):
            raise TypeError(
                f"optimizer_in_backward is a BackwardSGD or a BackwardAdamW of facezoo.margins, got {optimizer_in_backward!r}"
            )
        if margin.stored is not None and margin.stored.place == "only":
            raise ValueError(
                f"margin {margin.name!r} learns no centers: there is nothing for optimizer_in_backward to step"
            )
    if process_group is not None and not _is_process_group(process_group):
        raise TypeError(
            "process_group is a group of torch.distributed, such as torch.distributed.group.WORLD, or None; "
            f"got {process_group!r}"
        )
    if engine == "dense" and (process_group is not None or optimizer_in_backward is not None):
        raise ValueError(
            "engine='dense' holds all logits and the gradient of all centers in one process: with process_group or "
            "optimizer_in_backward use 'auto', 'chunked' or 'fused'"
        )


def _is_process_group(value: Any) -> bool:
    return torch.distributed.is_available() and isinstance(value, torch.distributed.ProcessGroup)
