"""The catalog of margins: one file per kind; importing a file registers its margins.

To add a kind, add a file and a line here.
"""

from __future__ import annotations

from facezoo.margins.catalog import adaptive, binary, fixed, hard_negatives, memory, sphere

__all__ = ["adaptive", "binary", "fixed", "hard_negatives", "memory", "sphere"]
