"""NaN and infinity, found where they enter."""

from __future__ import annotations

import torch
from torch import Tensor

TOO_LONG = "they are too long for this type; lower the learning rate, or let the backbone end in a norm"


class NonFiniteError(ValueError):
    """A tensor holds NaN or infinity; the message names it and its first bad row."""


def check_finite(tensor: Tensor, what: str, *, hint: str = "") -> None:
    """Look for NaN and infinity in the rows of ``tensor``.

    It looks on the CPU, and elsewhere only inside ``torch.autograd.detect_anomaly()``, since the look would make every step wait
    for the device; never inside ``torch.compile``.

    Args:
        tensor: ``(N, ...)``, or 0-dimensional.
        what: what it is, for the message.
        hint: what to do, for the message.

    Raises:
        NonFiniteError: it holds some.
    """
    if torch.compiler.is_compiling() or not (tensor.device.type == "cpu" or torch.is_anomaly_enabled()):
        return
    good = torch.isfinite(tensor.detach())
    if bool(good.all()):
        return
    rows = (~good).reshape(len(tensor) if tensor.dim() else 1, -1).any(1)
    row = int(rows.nonzero()[0])
    kind = "NaN" if bool(torch.isnan(tensor.detach().reshape(len(rows), -1)[row]).any()) else "infinity"
    where = f", row {row} ({int(rows.sum())} of {len(rows)} rows are not finite)" if tensor.dim() else ""
    raise NonFiniteError(f"{kind} in {what}{where}" + (f"; {hint}" if hint else ""))
