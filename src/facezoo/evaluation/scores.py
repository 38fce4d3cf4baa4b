"""What the figures take and give: checked scores and labels, numbers with the digits that they deserve, JSON."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

ArrayLike: TypeAlias = "Sequence[float] | Sequence[int] | Sequence[bool] | np.ndarray | torch.Tensor"
Interval: TypeAlias = tuple[float, float]
NO_INTERVAL: Interval = (math.nan, math.nan)


def needed_for(rate: float) -> int:
    """The number of comparisons that resolve an error rate: with fewer than 1/``rate`` not even one error is allowed."""
    return math.ceil(1 / rate - 1e-9)  # 1 / 1e-3 and the like may lie just above a whole number


def check_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray, Callable[[float], float]]:
    """Scores as float64 ``(N,)``, labels as bool ``(N,)``, and the rounding of a float to the precision of the scores.

    The rounding matters since numpy and torch compare a float32 array with a Python float in float32: a threshold that separates
    two scores in float64 may not do so there.

    Raises:
        ValueError, TypeError: as :func:`verification_metrics`.
    """
    raw, rounding = as_numpy(scores, "scores")
    values = raw.astype(np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be one-dimensional, one per pair; got shape {values.shape}")
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ValueError(
            f"scores must be finite: {bad.size} of {values.size} are NaN or infinite, the first at index {bad[0]} "
            f"({values[bad[0]]}); look at the embeddings of that pair"
        )
    genuine = check_labels(labels)
    if len(genuine) != len(values):
        raise ValueError(f"scores and labels differ in length: {len(values)} scores, {len(genuine)} labels")
    positives = int(genuine.sum())
    if positives == 0 or positives == len(genuine):
        have, lack = ("impostor (0)", "genuine (1)") if positives == 0 else ("genuine (1)", "impostor (0)")
        raise ValueError(
            f"labels hold one class only: all {len(genuine)} pairs are {have}; {lack} pairs are needed too, "
            "since every figure here compares the two"
        )
    return values, genuine, rounding


def check_labels(labels: ArrayLike) -> np.ndarray:
    """Labels as bool ``(N,)``. Raises ValueError for anything but one dimension of true/false or 0/1."""
    raw, _ = as_numpy(labels, "labels")
    if raw.ndim != 1:
        raise ValueError(f"labels must be one-dimensional, one per pair; got shape {raw.shape}")
    wrong = np.flatnonzero((raw != 0) & (raw != 1))
    if wrong.size:
        raise ValueError(
            f"labels must be 1 (same person) or 0 (different persons); got {raw[wrong[0]]} at index {wrong[0]}"
        )
    return raw.astype(bool)


def check_fars(fars: Iterable[float]) -> tuple[float, ...]:
    """False accept rates, each once. Raises ValueError for one that is not a fraction in (0, 1]."""
    wanted = tuple(dict.fromkeys(float(far) for far in fars))
    for far in wanted:
        if not 0 < far <= 1:
            raise ValueError(f"fars are fractions in (0, 1], such as 1e-3; got {far!r}")
    return wanted


def unit_lengths(embeddings: torch.Tensor, *, empty_too: bool = False) -> torch.Tensor:
    """The lengths ``(N,)`` of embeddings ``(N, D)``, which must be 1.

    Args:
        embeddings: the embeddings.
        empty_too: let zero and NaN through: a network may give them, and the scores say what becomes of them.

    Raises:
        ValueError: a length is not within 1 % of 1; the message names the first row.
    """
    lengths = embeddings.detach().float().norm(dim=1)
    wrong = ~((lengths - 1).abs() < 1e-2)  # NaN too
    if empty_too:
        wrong &= lengths > 0
    if rows := wrong.nonzero().flatten().tolist():
        raise ValueError(
            f"embeddings must have unit length; that of row {rows[0]} is {float(lengths[rows[0]]):.4g}: normalize them first"
        )
    return lengths


def format_figure(value: float, interval: Interval, *, step: float, percent: bool = False) -> tuple[str, str]:
    """``("2.1 %", "[1.8, 2.5]")``: value and interval with the digits that the data resolve.

    Args:
        value: the figure.
        interval: (low, high), or NaNs.
        step: the smallest difference the figure could show; sets the digits where there is no interval.
        percent: print 100 times the value, with a per cent sign.

    Returns:
        The value and the interval as text; the second is empty where there is no interval. The last digit shown is of the order of
        half the interval's width.
    """
    if math.isnan(value):
        return "not resolvable", ""
    scale, unit = (100.0, " %") if percent else (1.0, "")
    known = not any(math.isnan(limit) for limit in interval)
    half = (interval[1] - interval[0]) / 2 if known else step
    half = max(half * scale, 1e-9)
    decimals = min(max(0, math.ceil(-math.log10(half) - 1e-9)), 6)
    text = f"{value * scale:.{decimals}f}{unit}"
    if not known:
        return text, ""
    return text, f"[{interval[0] * scale:.{decimals}f}, {interval[1] * scale:.{decimals}f}]"


def jsonable(value: Any) -> Any:
    """``value`` with only JSON types in it: NaN and infinities become ``None``, tuples lists, keys strings."""
    if isinstance(value, dict):
        return {str(key): jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def as_numpy(data: ArrayLike, name: str) -> tuple[np.ndarray, Callable[[float], float]]:
    """A flat array of the numbers, and the rounding to their precision. Raises TypeError for what is not numbers."""
    if isinstance(data, torch.Tensor):
        dtype = data.dtype
        if dtype.is_complex:
            raise TypeError(f"{name} must be real numbers, got a tensor of {dtype}")
        if dtype in (torch.bfloat16, torch.float16, torch.float32):
            array = data.detach().to("cpu", torch.float32).numpy()
            return array, lambda value: float(torch.tensor(value, dtype=torch.float64).to(dtype))
        return data.detach().cpu().numpy(), float
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise TypeError(f"{name} must be a flat list of numbers, a numpy array or a tensor: {error}") from error
    if array.dtype == object or array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be numbers, got {type(data).__name__} of {array.dtype}")
    if array.dtype in (np.float16, np.float32):
        scalar = array.dtype.type
        return array, lambda value: float(scalar(value))
    return array, float


def true_positions(mask: torch.Tensor) -> torch.Tensor:
    """Int64 ``(n,)`` positions of the true ones in the flattened mask. NumPy is several times faster than torch on a CPU."""
    if mask.device.type != "cpu":
        return mask.flatten().nonzero().squeeze(1)
    return torch.from_numpy(np.flatnonzero(mask.numpy()))
