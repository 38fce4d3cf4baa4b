"""What every test has: one thread per process, and the same examples of hypothesis in every run."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; started processes inherit it

from hypothesis import settings

settings.register_profile("facezoo", derandomize=True, deadline=None)
settings.load_profile("facezoo")


def pytest_collection_finish() -> None:
    """What thousands of collected tests hold stays to the end: looking through it for garbage takes 2 % of the time."""
    gc.collect()
    gc.freeze()
