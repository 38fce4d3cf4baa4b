"""What the example adds to facezoo. Importing it registers everything."""

from __future__ import annotations

from facezoo_example import blocks, losses, margins, networks

__all__ = ["blocks", "losses", "margins", "networks"]
