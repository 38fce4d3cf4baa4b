"""Which of many similar tests run by default."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def others_in_ci(names: Iterable[str], by_default: Collection[str]) -> list[Any]:
    """Parameters of a test: those of ``by_default`` run in ``make test``, the others in ``.ci/run``."""
    return [name if name in by_default else pytest.param(name, marks=pytest.mark.ci) for name in names]
