"""Devices by name, and the number of processor cores."""

from __future__ import annotations

import os

import torch


def usable_cores() -> int:
    """Number of processor cores that this process may use; all cores if the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(name: str | torch.device, local_rank: int | None = None) -> torch.device:
    """The device called ``name``; ``"auto"`` is CUDA if available.

    Args:
        name: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …, or a device.
        local_rank: number of this process on its machine; selects the CUDA device.

    Raises:
        ValueError: the device does not exist.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {str(name)[:200]!r}: {str(error).splitlines()[0][:200]}") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(
                f"device {str(name)!r} was asked for, but this torch ({torch.__version__}) sees no CUDA device; use device='cpu'"
            )
        index = local_rank if local_rank is not None else device.index or 0
        if index >= torch.cuda.device_count():
            raise ValueError(
                f"device cuda:{index} was asked for, but there are only {torch.cuda.device_count()} CUDA devices"
            )
        return torch.device("cuda", index)
    return device
