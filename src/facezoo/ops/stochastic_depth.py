"""Stochastic depth: drop whole residual branches."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def drop_path(x: Tensor, drop_prob: float, *, mode: Literal["row", "batch"] = "row", training: bool = True) -> Tensor:
    """Zero the residual branch ``x`` with probability ``drop_prob``; otherwise divide it by the keep probability.

    Deep Networks with Stochastic Depth, 1603.09382. The division keeps the expectation, so evaluation needs no rescaling.

    Args:
        x: branch output, ``(N, ...)``.
        drop_prob: probability of dropping, in [0, 1].
        mode: ``"row"`` draws for every sample separately, ``"batch"`` once for all samples.
        training: if False, ``x`` is returned unchanged.

    Returns:
        A tensor of the shape and dtype of ``x``.

    Raises:
        ValueError: ``drop_prob`` outside [0, 1] or an unknown ``mode``.
    """
    if not 0.0 <= drop_prob <= 1.0:
        raise ValueError(f"drop_prob is a probability in [0, 1], got {drop_prob}")
    if mode not in ("row", "batch"):
        raise ValueError(f"mode is 'row' (one draw per sample) or 'batch' (one draw for all), got {mode!r}")
    if not training or drop_prob == 0.0:
        return x
    if drop_prob == 1.0:
        return x * 0.0  # keeps the graph; nothing is left to rescale
    keep_prob = 1.0 - drop_prob
    shape = (x.shape[0] if mode == "row" else 1,) + (1,) * (x.dim() - 1)
    keep = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(keep_prob)
    return x * (keep / keep_prob)
