"""The catalog: each margin once, as a small function of the target similarity, with its declaration.

A file per kind; importing one registers its margins. A further kind is a file and a line here.
"""

from __future__ import annotations

from facezoo.margins.catalog import adaptive, binary, fixed, hard_negatives, memory, sphere

__all__ = ["adaptive", "binary", "fixed", "hard_negatives", "memory", "sphere"]
