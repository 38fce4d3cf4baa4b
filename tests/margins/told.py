"""``create_margin`` for tests that run every margin: the one that depends on class sizes is told some."""

from __future__ import annotations

from typing import Any

import torch

import facezoo.margins
from facezoo.margins import MarginHead


def create_margin(name: str, *, num_classes: int, **options: Any) -> MarginHead:
    head = facezoo.margins.create_margin(name, num_classes=num_classes, **options)
    if name == "dyn_arcface":
        head.set_class_counts(torch.arange(num_classes, device=head.weight.device) * 7 + 1)
    return head
