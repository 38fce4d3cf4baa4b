"""Arithmetic for folding an affine map per channel, such as a batch norm in evaluation, into the adjacent layer.

Weights are those of ``nn.Linear``, ``(O, I)``, or of a convolution, ``(O, I / groups, kh, kw)``. Everything is computed and
returned in float64; the caller rounds once, at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def batch_norm_affine(
    mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and shift, ``(C,)`` each, of a batch norm in evaluation: ``(x - mean) / sqrt(var + eps) * weight + bias``."""
    scale = (var.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def fold_after(weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that computes ``scale * layer(x) + shift``; scale and shift are ``(O,)``."""
    folded = weight.double() * scale.view(-1, *[1] * (weight.dim() - 1))
    return folded, shift if bias is None else bias.double() * scale + shift


def fold_before(weight: Tensor, scale: Tensor, shift: Tensor, groups: int = 1) -> tuple[Tensor, Tensor]:
    """Fold ``scale * x + shift`` before a layer into it; scale and shift are ``(I,)``.

    Returns:
        The new weight, and the contribution of every tap to the output, ``(O, 1)`` or ``(O, kh, kw)``: the sum over the input
        channels of ``weight * shift``. A tap on the padding contributes nothing, since zeros are padded *after* the affine map.
        So the bias of a padded convolution depends on the position (:func:`bias_map`); without padding it is the sum over all
        taps.
    """
    out_chans, in_chans = weight.shape[:2]
    trailing = [1] * (weight.dim() - 2)

    def per_weight(values: Tensor) -> Tensor:  # (I,) -> (O, I / groups, 1, 1): the input channels of each filter
        return (
            values.view(groups, in_chans).repeat_interleave(out_chans // groups, dim=0).view(out_chans, -1, *trailing)
        )

    taps = (weight.double() * per_weight(shift)).sum(dim=1)
    return weight.double() * per_weight(scale), taps if taps.dim() > 1 else taps[:, None]


def bias_map(
    taps: Tensor,
    size: tuple[int, int],
    *,
    stride: Sequence[int],
    padding: str | Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """The sum of the taps inside the map (not on its padding), at every output position of a convolution.

    For a 3×3 kernel with padding 1 there are 9 different values per channel: corners, edges, inside.

    Args:
        taps: ``(O, kh, kw)`` from :func:`fold_before`.
        size: height and width of the input map.
        stride: as in the convolution.
        padding: as in the convolution.
        dilation: as in the convolution.

    Returns:
        ``(1, O, h, w)``.
    """
    ones = torch.ones(1, 1, *size, dtype=taps.dtype, device=taps.device)
    return F.conv2d(ones, taps[:, None], None, tuple(stride), padding, tuple(dilation))
