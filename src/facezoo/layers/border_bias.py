"""A convolution whose bias knows where the padding is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from facezoo.ops.folding import bias_map


class BorderBiasConv2d(nn.Conv2d):
    """A zero-padded ``Conv2d`` with an affine map before it folded in: for inference, made by :func:`facezoo.fuse`.

    Zeros are padded after the affine map, so its shift reaches an output cell only through the taps that are on the map: the bias
    is a map itself. It is computed once for one size of map; for other sizes it is made anew at every call, with a convolution of
    one channel.

    The other exact way – no bias, and ``-shift / scale`` padded instead of zeros – was not taken: it copies the whole map at every
    call, is undefined where the scale is 0, and loses digits where it is small.

    Args:
        conv: the convolution; its weight and bias are taken over.
        taps: ``(out_channels, kh, kw)``, what each tap adds where it is on the map; see :func:`facezoo.ops.fold_before`.
        map_size: height and width of the input map to compute the bias for.
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
            cells = self.make_bias_map(map_size)  # in the precision of the taps, then rounded once
        self.register_buffer("bias_map", cells.to(conv.weight.dtype))
        self.taps = taps.to(conv.weight.dtype)
        self.train(conv.training)

    def make_bias_map(self, size: tuple[int, int]) -> Tensor:
        """The bias ``(1, out_channels, h, w)`` for input maps of ``size``."""
        cells = bias_map(self.taps, size, stride=self.stride, padding=self.padding, dilation=self.dilation)
        return cells if self.bias is None else cells + self.bias.view(-1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W) -> (N, out_channels, h, w)``, as the convolution that it was made from."""
        size = (x.shape[-2], x.shape[-1])
        cells = self.bias_map if size == self.map_size else self.make_bias_map(size)
        return self._conv_forward(x, self.weight, None).add_(cells)

    def extra_repr(self) -> str:
        """Show the convolution and the size that the bias is for."""
        return f"{super().extra_repr()}, map_size={self.map_size}"
