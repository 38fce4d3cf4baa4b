"""How an image becomes the input of a network: a record that belongs to a set of weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input. It belongs to a set of weights and travels with them.

    Attributes:
        img_size: height and width in pixels.
        mean: subtracted per channel after scaling to [0, 1], in ``channel_order``.
        std: divided by per channel, in ``channel_order``.
        channel_order: ``"rgb"`` or ``"bgr"``.
        alignment: template that the face was aligned to; ``"arcface"`` is the five-point template of 1801.07698 at 112×112.
    """

    img_size: tuple[int, int] = (112, 112)
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    channel_order: Literal["rgb", "bgr"] = "rgb"
    alignment: str = "arcface"

    def __post_init__(self) -> None:
        if len(self.img_size) != 2 or min(self.img_size) < 1:
            raise ValueError(f"img_size is (height, width) in pixels, got {self.img_size}")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std have one value per channel each, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std is positive, got {self.std}")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order is 'rgb' or 'bgr', got {self.channel_order!r}")

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dictionary; :meth:`from_dict` reads it."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The record that :meth:`to_dict` wrote."""
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**known)
