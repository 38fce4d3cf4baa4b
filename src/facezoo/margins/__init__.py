"""Margin-softmax heads: ``create_margin(name, embedding_dim=..., num_classes=...)``.

Three parts that know nothing of one another's inside: the *catalog* of margins, each a small function of the target similarity
with a frozen :class:`MarginSpec`; the *engines*, which reduce N × C logits to three numbers per sample and differentiate them; and
:class:`MarginHead`, which owns the class centers and joins the two.
"""

from __future__ import annotations

from facezoo.margins import catalog as _catalog  # registers the margins
from facezoo.margins.backward import BackwardAdamW, BackwardSGD
from facezoo.margins.create import create_margin
from facezoo.margins.engines import Negatives
from facezoo.margins.head import MarginHead
from facezoo.margins.spec import (
    MarginInputs,
    MarginSpec,
    describe_margin,
    list_margins,
    margin_spec,
    register_margin,
)
from facezoo.margins.sub_centers import SubCenterReport, sub_center_report
from facezoo.ops.negatives import Coefficients

__all__ = [
    "BackwardAdamW",
    "BackwardSGD",
    "Coefficients",
    "MarginHead",
    "MarginInputs",
    "MarginSpec",
    "Negatives",
    "SubCenterReport",
    "create_margin",
    "describe_margin",
    "list_margins",
    "margin_spec",
    "register_margin",
    "sub_center_report",
]

del _catalog
