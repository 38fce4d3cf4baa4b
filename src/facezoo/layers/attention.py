"""Self-attention over tokens, and over the positions of a window."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Multi-head self-attention over a sequence. Attention Is All You Need, 1706.03762.

    Args:
        channels: width of the tokens.
        heads: number of heads; it divides ``channels``.
        qkv_bias: whether the layer for queries, keys and values has a bias.
    """

    def __init__(self, channels: int, heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        self.heads = heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, L, C) -> (N, L, C)``."""
        query, key, value = rearrange(self.qkv(x), "n l (qkv head d) -> qkv n head l d", qkv=3, head=self.heads).unbind(
            0
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(mixed, "n head l d -> n l (head d)"))


class WindowAttention(nn.Module):
    """Self-attention inside square windows with a learned bias per relative position. Swin Transformer, 2103.14030.

    If the window does not divide the map, the map is padded with zeros at the lower right, and cropped afterwards.

    Args:
        channels: width of the map.
        heads: number of heads; it divides ``channels``.
        window: side of a window in cells.
        shift: number of cells by which the windows are shifted to the lower right. The map wraps around, and cells that were not
            adjacent are masked. There is no shift along an axis with a single window.
    """

    no_weight_decay = ("bias_table",)

    def __init__(self, channels: int, heads: int, *, window: int = 7, shift: int = 0) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels")
        if not 0 <= shift < window:
            raise ValueError(f"a window of {window} cells is shifted by 0…{window - 1} cells, got {shift}")
        self.heads = heads
        self.window = window
        self.shift = shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.normal_(self.bias_table, 0.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, H, W, C) -> (N, H, W, C)``, channels last."""
        n, height, width, channels = x.shape
        side = self.window
        if height % side or width % side:
            x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = x.shape[1] // side, x.shape[2] // side
        shifts = (self.shift if rows > 1 else 0, self.shift if columns > 1 else 0)
        if any(shifts):
            x = x.roll((-shifts[0], -shifts[1]), dims=(1, 2))
        x = rearrange(x, "n (row y) (column x) c -> (n row column) (y x) c", y=side, x=side)
        query, key, value = rearrange(self.qkv(x), "n l (qkv head d) -> qkv n head l d", qkv=3, head=self.heads).unbind(
            0
        )
        scores = (query * (channels // self.heads) ** -0.5) @ key.transpose(-2, -1)
        scores = scores + self._bias()
        if any(shifts):
            masked = _not_adjacent(rows, columns, side, shifts, x.device)
            scores = scores.unflatten(0, (n, rows * columns))
            scores = scores.masked_fill(masked[:, None], -torch.inf).flatten(0, 1)
        mixed = self.proj(rearrange(scores.softmax(dim=-1) @ value, "n head l d -> n l (head d)"))
        x = rearrange(mixed, "(n row column) (y x) c -> n (row y) (column x) c", n=n, row=rows, column=columns, y=side)
        if any(shifts):
            x = x.roll(shifts, dims=(1, 2))
        return x[:, :height, :width]

    def _bias(self) -> Tensor:
        """The bias of every head for every pair of positions in a window, ``(heads, window², window²)``.

        Row ``(dy + window - 1) * (2 * window - 1) + dx + window - 1`` of the table is for a query dy rows below and dx columns
        to the right of its key. It uses views of the table instead of a buffer of indices, which would be empty after a
        construction on the meta device.
        """
        table = self.bias_table.unflatten(0, (2 * self.window - 1, 2 * self.window - 1))
        sliding = table.unfold(0, self.window, 1).unfold(
            1, self.window, 1
        )  # [a, b, head, c, d]: the row of (a + c, b + d)
        return sliding.flip(3, 4).permute(2, 0, 1, 3, 4).flatten(3, 4).flatten(1, 2)


def _not_adjacent(rows: int, columns: int, side: int, shifts: tuple[int, int], device: torch.device) -> Tensor:
    """Pairs of positions that are in one window only because of the wrap-around: ``(rows · columns, side², side²)``, bool."""
    row_region = _regions(rows * side, side, shifts[0], device).view(rows, 1, side, 1)
    column_region = _regions(columns * side, side, shifts[1], device).view(1, columns, 1, side)
    region = (3 * row_region + column_region).reshape(rows * columns, side * side)
    return region[:, :, None] != region[:, None]


def _regions(length: int, side: int, shift: int, device: torch.device) -> Tensor:
    """Along one axis: 0 for complete windows, 1 and 2 for the two parts of the last window, which the shift has joined."""
    position = torch.arange(length, device=device)
    if not shift:
        return torch.zeros_like(position)
    return (position >= length - side).long() + (position >= length - shift).long()
