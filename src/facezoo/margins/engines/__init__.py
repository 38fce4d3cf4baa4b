"""Engines: ways to compute a softmax loss over all classes. They agree in value and gradient and differ in speed and memory.

A further engine is one file with a function of the :class:`Engine` protocol, and one line in :data:`ENGINES`.
"""

from __future__ import annotations

from facezoo.margins.engines.chunked import chunked_statistics
from facezoo.margins.engines.dense import dense_logits, dense_statistics
from facezoo.margins.engines.statistics import ClassStatistics, Engine

__all__ = [
    "ENGINES",
    "ClassStatistics",
    "Engine",
    "chunked_statistics",
    "dense_logits",
    "dense_statistics",
    "pick_engine",
]

ENGINES: dict[str, Engine] = {"dense": dense_statistics, "chunked": chunked_statistics}

# Up to this many logits (N·C) both engines take a few milliseconds, and the dense one is all plain autograd: torch.compile sees
# through it. Above, the chunked engine is the faster one too, not only the smaller.
_LARGEST_DENSE = 2**16


def pick_engine(name: str, *, samples: int, classes: int) -> Engine:
    """The engine called ``name``; for ``"auto"`` the one that suits ``samples`` × ``classes`` logits."""
    if name == "auto":
        name = "dense" if samples * classes <= _LARGEST_DENSE else "chunked"
    return ENGINES[name]
