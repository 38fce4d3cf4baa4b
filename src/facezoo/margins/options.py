"""Checks of what :func:`facezoo.create_margin` is given; each raises ValueError or TypeError naming the option."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from facezoo.margins.backward import BackwardAdamW, BackwardSGD
from facezoo.margins.engines import ENGINES, Negatives
from facezoo.margins.spec import MarginSpec
from facezoo.registry import unknown_name_message

_GRADIENTS = ("exact", "detached")


def check_head_options(
    embedding_dim: int, num_classes: int, label_smoothing: float, engine: str, block_size: int | None
) -> None:
    """Sizes, label smoothing, engine and block size."""
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


def filtered_negatives(spec: MarginSpec, negatives: Negatives, logits: str, threshold: float) -> Negatives:
    """The other classes with those left out whose cosine exceeds ``threshold``; for plain softmax over scaled cosines only."""
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1.0 <= threshold <= 1.0:
        raise ValueError(f"interclass_filter is a cosine, from -1 to 1 (typically 0.4), or None; got {threshold!r}")
    if negatives != Negatives() or logits != "scaled_cosine" or spec.memory == "only":
        raise ValueError(
            f"margin {spec.name!r} has its own treatment of the other classes; interclass_filter is for those with plain softmax "
            "over scaled cosines"
        )
    return Negatives("filter", a=float(threshold))


def check_warmup(spec: MarginSpec, steps: int, scale: float | None) -> None:
    """``warmup_steps`` and ``warmup_scale``."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"warmup_steps is a number of training steps, 0 or more; got {steps!r}")
    if scale is not None:
        if not steps:
            raise ValueError("warmup_scale needs warmup_steps of at least 1")
        if (
            not spec.has_scale
            or isinstance(scale, bool)
            or not isinstance(scale, (int, float))
            or not 0.0 < scale < math.inf
        ):
            raise ValueError(f"warmup_scale is a finite number above 0, for margins with a scale option; got {scale!r}")
    if steps and scale is None and not spec.warmable:
        raise ValueError(f"margin {spec.name!r} has no margin on the cosine that could be warmed up")


def check_label_smoothing(spec: MarginSpec, negatives: Negatives) -> None:
    """Label smoothing, where it is asked for, with this margin's treatment of the other classes."""
    if negatives.reduction != "logsumexp" or spec.combine is not None:
        raise ValueError(f"margin {spec.name!r} is no softmax: label_smoothing has no meaning for it")
    if negatives.form == "filter":
        raise ValueError(
            "label_smoothing and interclass_filter exclude each other: one wants every class, the other does not"
        )


def check_scale_out(
    spec: MarginSpec, engine: str, process_group: Any, sample_rate: float, optimizer_in_backward: Any
) -> None:
    """``sample_rate``, ``optimizer_in_backward`` and ``process_group``, and what of it the engine can do."""
    if isinstance(sample_rate, bool) or not isinstance(sample_rate, (int, float)) or not 0.0 < sample_rate <= 1.0:
        raise ValueError(f"sample_rate is a share of the classes, above 0 and up to 1, got {sample_rate!r}")
    if optimizer_in_backward is not None:
        if not isinstance(optimizer_in_backward, (BackwardSGD, BackwardAdamW)):
            raise TypeError(
                f"optimizer_in_backward is a BackwardSGD or a BackwardAdamW of facezoo.margins, got {optimizer_in_backward!r}"
            )
        if spec.memory == "only":
            raise ValueError(
                f"margin {spec.name!r} learns no centers: there is nothing for optimizer_in_backward to step"
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


def check_margin_options(spec: MarginSpec, options: Mapping[str, Any]) -> None:
    """The margin's own options, ``scale`` and ``gradient`` among them."""
    if set(options) != set(spec.defaults):
        raise ValueError(f"margin {spec.name!r} has the options {sorted(spec.defaults)}, got {sorted(options)}")
    scale = options.get("scale", 1.0)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0.0 < scale < math.inf:
        raise ValueError(f"scale is a finite number above 0 (typically 30 to 64), got {scale!r}")
    if options.get("gradient", "exact") not in _GRADIENTS:
        raise ValueError(
            unknown_name_message("gradient", str(options["gradient"]), _GRADIENTS, hint="'exact' or 'detached'")
        )
    if spec.check is not None:
        spec.check(**options)
