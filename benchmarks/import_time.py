"""Time of ``import facezoo``, alone and with a first look at a network, against ``import torch``: fresh interpreters in turn.

    python benchmarks/import_time.py [--repeats 15]

Writes ``results/import_time.json`` and ``.md``. ``import facezoo`` alone does not load torch, so the figure that counts is the
ratio of the medians of ``import facezoo; facezoo.create_model`` and ``import torch``, with the interval that resampling the
runs gives it; the aim is at most 1.10.
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
TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
STATEMENTS = {
    "torch": "import torch",
    "facezoo": "import facezoo",
    "facezoo, and its first network looked up": "import facezoo; facezoo.create_model",
}
HEAVY = ("torch", "torchvision", "huggingface_hub", "matplotlib")
LOADED = "; import sys; print(*(name for name in {!r} if name in sys.modules))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="imports of each module (default 15)")
    options = parser.parse_args()
    if options.repeats < 3:
        parser.error("--repeats is at least 3: the spread comes from them")

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for statement in STATEMENTS.values():
        run(TIMED.format(statement))  # fills the file cache and writes byte code; not counted
    for repeat in range(options.repeats):
        for name in STATEMENTS if repeat % 2 == 0 else reversed(STATEMENTS):
            seconds[name].append(float(run(TIMED.format(STATEMENTS[name]))))

    alone, first = (name for name in STATEMENTS if name != "torch")
    ratio, low, high = ratio_of_medians(seconds[first], seconds["torch"])
    loaded = {
        name: ", ".join(run(STATEMENTS[name] + LOADED.format(HEAVY)).split()) or f"none of {', '.join(HEAVY)}"
        for name in (alone, first)
    }
    note = (
        f"Ratio of the medians, {first}, over torch: {ratio:.3f}, 95 % interval {low:.3f} – {high:.3f}; the aim is at most "
        f"{LIMIT:.2f}. Loaded by `{STATEMENTS[alone]}`: {loaded[alone]}; by `{STATEMENTS[first]}`: {loaded[first]}. "
        f"{options.repeats} fresh interpreters each, interleaved; load {load:.1f} before."
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
