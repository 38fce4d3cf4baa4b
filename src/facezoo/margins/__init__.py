"""Margin-softmax heads: ``create_margin(name, embedding_dim=..., num_classes=...)``.

There are three independent parts: the *margins*, each a small class with its options and the target similarity (:class:`Margin`);
the *engines*, which reduce N × C logits to three numbers per sample and differentiate them; and :class:`MarginHead`, which has
the class centers and connects the two.
"""

from __future__ import annotations

from facezoo.margins import catalog as _catalog  # registers the margins
from facezoo.margins.backward import BackwardAdamW, BackwardSGD
from facezoo.margins.create import create_margin
from facezoo.margins.head import MarginHead
from facezoo.margins.margin import (
    Batch,
    Gradient,
    Logits,
    Margin,
    Stored,
    describe_margin,
    list_margins,
    margin_class,
    register_margin,
)
from facezoo.margins.negatives import NEGATIVES, Coefficients, Negatives, register_negatives
from facezoo.margins.sub_centers import SubCenterReport, sub_center_report

__all__ = [
    "NEGATIVES",
    "BackwardAdamW",
    "BackwardSGD",
    "Batch",
    "Coefficients",
    "Gradient",
    "Logits",
    "Margin",
    "MarginHead",
    "Negatives",
    "Stored",
    "SubCenterReport",
    "create_margin",
    "describe_margin",
    "list_margins",
    "margin_class",
    "register_margin",
    "register_negatives",
    "sub_center_report",
]

_RENAMED = {"MarginInputs": "Batch", "MarginSpec": "Margin", "margin_spec": "margin_class"}


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        raise AttributeError(f"facezoo.margins.{name} is called {_RENAMED[name]} now")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


del _catalog
