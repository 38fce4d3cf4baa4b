"""Checks of the machine before a run begins."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn


def check_precision(amp: str, device: torch.device) -> None:
    """Raise if the device does not support a precision, and warn if the precision is slow on it.

    Raises:
        ValueError: fp16 without CUDA.
    """
    if amp == "fp16" and device.type != "cuda":
        raise ValueError(
            f"amp='fp16' needs CUDA (its gradients need scaling); on {device.type} use amp='bf16' or 'none'"
        )
    if amp == "bf16" and not has_fast_bfloat16(device):
        warnings.warn(
            "this processor has no bfloat16 arithmetic, so amp='bf16' is many times slower than amp='none'",
            stacklevel=3,
        )


def has_fast_bfloat16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether bfloat16 is computed in hardware; True where that is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not cpuinfo.exists():
        return True
    flags = set(cpuinfo.read_text(errors="ignore").split())
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(flags) or not {"flags", "Features"} & flags


def checkpoint_bytes(objective: nn.Module, optimizer: torch.optim.Optimizer, *, average: bool) -> int:
    """Approximate size of ``last.safetensors`` in bytes: weights, optimizer state and moving average."""
    weights = _bytes([*objective.parameters(), *objective.buffers()])
    trained = _bytes(p for group in optimizer.param_groups for p in group["params"])
    defaults = optimizer.defaults
    states = 2 if "betas" in defaults or "beta2_decay" in defaults else int(bool(defaults.get("momentum", 1)))
    return weights * (2 if average else 1) + trained * states


def require_disk_space(folder: Path, needed: int) -> None:
    """Check the disk space: a new checkpoint of ``needed`` bytes, the one it replaces, and ``best.safetensors``.

    Raises:
        OSError: there is too little; the message says how much is free and how much is needed.
    """
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    present = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    free = shutil.disk_usage(place).free + present
    if free < 3 * needed:
        raise OSError(
            f"{folder}: checkpoints need about {3 * needed / 2**20:,.0f} MiB (a new one is written before the old one goes), "
            f"but only {free / 2**20:,.0f} MiB are free there; make room, or choose another --out"
        )


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
