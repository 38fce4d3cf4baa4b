"""Time of ``import facezoo`` against ``import torch``, each in fresh interpreters, interleaved.

    python benchmarks/import_time.py [--repeats 15]

Writes ``results/import_time.json`` and ``.md``. The figure that counts is the ratio of the medians, with the interval that
resampling the runs gives it; the aim is at most 1.10.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from common import ratio_of_medians, write_results

LIMIT = 1.10
# The clock runs inside the interpreter: its own start is no part of an import.
TIMED = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
LOADED = (
    "import sys, facezoo; print(*(n for n in ('torchvision', 'huggingface_hub', 'matplotlib') if n in sys.modules))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="imports of each module (default 15)")
    options = parser.parse_args()
    if options.repeats < 3:
        parser.error("--repeats is at least 3: the spread comes from them")

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    seconds: dict[str, list[float]] = {"torch": [], "facezoo": []}
    for module in seconds:
        run(TIMED.format(module))  # fills the file cache and writes byte code; not counted
    for repeat in range(options.repeats):
        for module in seconds if repeat % 2 == 0 else reversed(seconds):
            seconds[module].append(float(run(TIMED.format(module))))

    ratio, low, high = ratio_of_medians(seconds["facezoo"], seconds["torch"])
    loaded = ", ".join(run(LOADED).split()) or "none of torchvision, huggingface_hub, matplotlib"
    note = (
        f"Ratio of the medians {ratio:.3f}, 95 % interval {low:.3f} – {high:.3f}; the aim is at most {LIMIT:.2f}. "
        f"Loaded besides torch: {loaded}. {options.repeats} fresh interpreters each, interleaved; load {load:.1f} before."
    )
    rows = []
    for module, values in seconds.items():
        first, median, third = statistics.quantiles(values, n=4, method="inclusive")
        rows.append({"import": module, "median s": median, "first quartile s": first, "third quartile s": third})
    write_results("import_time", "Import time", rows, note=note)


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
