"""Modules without storage: names and shapes without memory or time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_DRAWS = (Tensor.normal_, Tensor.uniform_, Tensor.bernoulli_, Tensor.exponential_)


class _Undrawn(TorchFunctionMode):
    """Skip random initialization: without storage it would only take time and import torch's compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _DRAWS and args else func(*args, **(kwargs or {}))


@contextmanager
def without_storage() -> Iterator[None]:
    """In the block, modules are built on the meta device without random initialization."""
    with torch.device("meta"), _Undrawn():
        yield
