"""What every benchmark shares: the machine beside the figures, paired timing, one way of writing results."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from facezoo.devices import usable_cores

_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS")
RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str]:
    """Processor, accelerator, threads and versions; no names of hosts or paths."""
    packages = {}
    for package in ("torch", "torchvision", "timm", "pytorch-metric-learning", "triton"):
        try:
            packages[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    record = {
        "cpu": _cpu_name(),
        "cores": str(usable_cores()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        **packages,
    }
    limits = [f"{name}={os.environ[name]}" for name in _LIMITS if os.environ.get(name)]
    if limits:
        record["kernels limited by"] = " ".join(limits)
    if torch.cuda.is_available():
        record["gpu"] = torch.cuda.get_device_name()
        record["cuda"] = str(torch.version.cuda)
    return record


def where() -> str:
    """Accelerator, processor and what limits its kernels: what a figure of a training depends on."""
    own = machine()
    return " ".join(own[key] for key in ("gpu", "cpu", "kernels limited by") if key in own)


def steps_at_once(device: str) -> int:
    """Steps between two looks at the clock: on a GPU several, so that launching kernels hides behind them as in a training."""
    return 5 if device.startswith("cuda") else 1


def seconds_in_turn(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 5,
    warmup: int = 1,
    device: str = "cpu",
    at_once: int = 1,
) -> dict[str, list[float]]:
    """Seconds of every call: A B C, C B A, A B C, …, so that drift of the machine hits all alike, and no one always comes first.

    With ``at_once`` the clock is looked at after so many calls of one candidate, and the seconds are those of one.
    """
    synchronize = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(warmup):
        for call in candidates.values():
            call()
    synchronize()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats):
        for name in candidates if repeat % 2 == 0 else reversed(candidates):
            start = time.perf_counter()
            for _ in range(at_once):
                candidates[name]()
            synchronize()
            seconds[name].append((time.perf_counter() - start) / at_once)
    return seconds


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 5,
    warmup: int = 1,
    device: str = "cpu",
    at_once: int = 1,
) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum of each candidate's :func:`seconds_in_turn`."""
    seconds = seconds_in_turn(candidates, repeats=repeats, warmup=warmup, device=device, at_once=at_once)
    return {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in seconds.items()
    }


def images_per_second(images: int, seconds: Sequence[float]) -> dict[str, float]:
    """The columns of a row: ``images`` over the median, the longest and the shortest of ``seconds``."""
    return {
        "img/s (median)": images / statistics.median(seconds),
        "img/s (slowest)": images / max(seconds),
        "img/s (fastest)": images / min(seconds),
    }


def ratio_of_medians(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """The ratio and its 95 % bootstrap interval; neighboring runs are drawn together, since they share the machine's state."""
    generator = random.Random(0)
    pairs = list(zip(numerator, denominator, strict=True))
    samples = (generator.choices(pairs, k=len(pairs)) for _ in range(2000))
    ratios = sorted(
        statistics.median(a for a, _ in sample) / statistics.median(b for _, b in sample) for sample in samples
    )
    return statistics.median(numerator) / statistics.median(denominator), ratios[50], ratios[1949]


def write_results(name: str, title: str, rows: Sequence[Mapping[str, Any]], *, note: str = "") -> None:
    """Write ``results/<name>.json`` and ``.md``: the rows as a table, with date, machine and versions beside them."""
    write_record(
        name,
        {"title": title, "date": time.strftime("%Y-%m-%d"), "machine": machine(), "note": note, "rows": list(rows)},
    )


def write_record(name: str, record: Mapping[str, Any]) -> None:
    """The files of :func:`write_results` from what its JSON holds: for rows that were measured elsewhere."""
    rows, note = record["rows"], record["note"]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [
        f"# {record['title']}",
        "",
        f"{record['date']}. " + ", ".join(f"{k} {v}" for k, v in record["machine"].items()) + ".",
    ]
    lines += ["", note] if note else []
    lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |" for row in rows]
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
