"""Import, construction, heads and the command line against another version of facezoo: processes in turn, ratio and interval.

    python benchmarks/editions.py --before OTHER/src --repeats 9 --write        # writes results/editions.md

Every figure is the wall time of a fresh process (import, commands), or what such a process measures (construction, the best of
three; heads, the median of twenty, in processor time). Both versions are run one after the other, in alternating order; the ratio
is the median of those of the pairs, with its 95 % interval by bootstrap.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "editions.md"
BUILD = """
import time, torch, facezoo
torch.set_num_threads(1)
times = []
for _ in range(4):
    start = time.perf_counter()
    facezoo.create_model("{name}")
    times.append(time.perf_counter() - start)
print(min(times[1:]))
"""
HEAD = """
import statistics, time, torch, facezoo
torch.set_num_threads(1)
torch.manual_seed(0)
head = facezoo.create_margin("{name}", embedding_dim=512, num_classes={classes}, engine="{engine}")
x, labels, times = torch.randn(64, 512, requires_grad=True), torch.randint({classes}, (64,)), []
for _ in range(22):
    head.zero_grad(set_to_none=True)
    x.grad = None
    start = time.process_time()
    head(x, labels).backward()
    times.append(time.process_time() - start)
print(statistics.median(times[2:]))
"""
IMPORT = "import torch, facezoo"


def cases() -> dict[str, tuple[list[str], bool]]:
    """Name -> arguments of Python, and whether the process itself says how long it took."""
    built = {
        f"create_model({name!r})": (["-c", BUILD.format(name=name)], True)
        for name in ("resnet50", "iresnet50", "convnext_tiny", "mobilefacenet")
    }
    heads = {
        f"{name}, {engine}, 64 x {classes:,}, forward and backward": (
            ["-c", HEAD.format(name=name, engine=engine, classes=classes)],
            True,
        )
        for name, engine, classes in (
            ("arcface", "dense", 1000),
            ("subcenter_arcface", "dense", 1000),
            ("arcface", "chunked", 20000),
            ("curricularface", "chunked", 20000),
        )
    }
    commands = {
        f"facezoo {words}": (["-m", "facezoo", *words.split()], False)
        for words in ("--version", "--help", "train --help", "models")
    }
    return {IMPORT: (["-c", IMPORT], False), **built, **heads, **commands}


def seconds(source: Path, arguments: list[str], says: bool) -> float:
    """The time of one process with the facezoo in ``source``."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True, cwd="/"
    )
    return float(done.stdout) if says else time.perf_counter() - start


def row(name: str, before: Path | None, repeats: int) -> str:
    """One line of the table."""
    arguments, says = cases()[name]
    sources = [ROOT / "src"] if before is None else [before, ROOT / "src"]
    times: dict[Path, list[float]] = {source: [] for source in sources}
    for source in sources:  # caches of files
        seconds(source, arguments, says)
    for turn in range(repeats):
        for source in sources[:: 1 if turn % 2 else -1]:
            times[source].append(seconds(source, arguments, says))
    now = np.array(times[sources[-1]])
    if before is None:
        return f"| `{name}` | | {np.median(now):.3f} | |"
    ratios = now / np.array(times[before])
    drawn = np.median(np.random.default_rng(0).choice(ratios, (2000, repeats)), axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"| `{name}` | {np.median(times[before]):.3f} | {np.median(now):.3f} | {np.median(ratios):.2f} ({low:.2f}–{high:.2f}) |"


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, help="the src folder of the other version")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--only", nargs="+", default=list(cases()), help="some of the cases")
    parser.add_argument("--machine", default="quiet", help="quiet or loaded, for the heading")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    before = None if options.before is None else options.before.resolve()
    import torch

    head = [
        "# Import, construction and commands against the first edition",
        "",
        f"`python benchmarks/editions.py --before OTHER/src --repeats {options.repeats}`, {date.today()}, {platform.machine()}, "
        f"{os.cpu_count()} cores, {options.machine}, one thread, Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        "| | before, s | now, s | now / before |",
        "|---|--:|--:|--:|",
    ]
    print("\n".join(head), flush=True)
    for name in options.only:
        head.append(row(name, before, options.repeats))
        print(head[-1], flush=True)
        if options.write:
            from facezoo.files import write_atomic

            write_atomic(RESULTS, "\n".join(head) + "\n")


if __name__ == "__main__":
    main()
