"""A convolution whose bias depends on the position."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from facezoo.ops.folding import bias_map


class BorderBiasConv2d(nn.Conv2d):
    """A zero-padded ``Conv2d`` with a preceding affine map folded in, for inference; created by :func:`facezoo.fuse`.

    Zeros are padded after the affine map, so its shift reaches an output cell only through taps inside the map: the bias is a map
    itself. It is computed once for one map size; for other sizes it is recomputed at every call, with a one-channel convolution.

    Padding with ``-shift / scale`` instead of zeros would be exact too, but it copies the whole map at every call, is undefined
    for scale 0, and loses digits for small scales.

    Args:
        conv: the convolution; its weight and bias are used.
        taps: ``(out_channels, kh, kw)``, the contribution of each tap inside the map; see :func:`facezoo.ops.fold_before`.
        map_size: height and width of the input map for the stored bias.
    """

    taps: Tensor
    bias_map: Tensor

    def __init__(self, conv: nn.Conv2d, taps: Tensor, map_size: tuple[int, int]) -> None:
        settings: dict[str, Any] = {
            name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups")
        }
        with torch.device("meta"):
            super().__init__(conv.in_channels, conv.out_channels, **settings, bias=False)
        self.weight, self.bias, self.map_size = conv.weight, conv.bias, map_size
        self.register_buffer("taps", taps)
        with torch.no_grad():
            cells = self.make_bias_map(map_size)  # computed in the precision of the taps, then rounded once
        self.register_buffer("bias_map", cells.to(conv.weight.dtype))
        self.taps = taps.to(conv.weight.dtype)
        self.train(conv.training)

    def make_bias_map(self, size: tuple[int, int]) -> Tensor:
        """The bias ``(1, out_channels, h, w)`` for input maps of ``size``."""
        cells = bias_map(self.taps, size, stride=self.stride, padding=self.padding, dilation=self.dilation)
        return cells if self.bias is None else cells + self.bias.view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W) -> (N, out_channels, h, w)``, like the original convolution."""
        size = (x.shape[-2], x.shape[-1])
        cells = self.bias_map if size == self.map_size else self.make_bias_map(size)
        return self._conv_forward(x, self.weight, None).add_(cells)

    def extra_repr(self) -> str:
        """Show the convolution and the size that the bias is for."""
        return f"{super().extra_repr()}, map_size={self.map_size}"
