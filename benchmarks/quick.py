"""Whether this machine agrees with the committed ratios: three of them, in a few minutes. Writes nothing.

    python benchmarks/quick.py

Ratios, and not times, since they carry over from one machine to another. A ratio agrees where its 95 % interval meets the committed
one, widened by a quarter either way. The status is 1 where one does not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable

import torch

from common import RESULTS, machine, ratio_of_medians, seconds_in_turn
from construction import seconds_of
from head import HEADS, inputs, step_of
from peers import same_network

ALLOWED = 1.25
BUSY = 0.5  # load per core
Ratio = tuple[float, float, float]


def committed(name: str, column: str, above: dict[str, object], below: dict[str, object]) -> float:
    """The ratio of two rows of a result."""
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rows"]

    def value(where: dict[str, object]) -> float:
        (row,) = (row for row in rows if all(row.get(key) == wanted for key, wanted in where.items()))
        return row[column]

    return value(above) / value(below)


def construction() -> tuple[Ratio, float]:
    """Seconds of timm over facezoo's to build a ResNet-50."""
    seconds = seconds_of(same_network("resnet50", num_classes=1000), 5)
    where = {"model": "resnet50"}
    there = committed("construction", "ms (median)", where | {"library": "timm"}, where | {"library": "facezoo"})
    return ratio_of_medians(seconds["timm"], seconds["facezoo"]), there


def head() -> tuple[Ratio, float]:
    """Seconds of insightface's formulation over the chunked head's, 100,000 identities, batch 64."""
    embeddings, labels = inputs(64, 100_000, "cpu")
    names = ("insightface's formulation", "facezoo chunked")
    steps = {name: step_of(HEADS[name].build(100_000), embeddings, labels) for name in names}
    seconds = seconds_in_turn(steps, repeats=5)
    where = {"identities": 100_000, "batch": 64}
    there = committed("head_cpu", "ms (median)", where | {"head": names[0]}, where | {"head": names[1]})
    return ratio_of_medians(seconds[names[0]], seconds[names[1]]), there


def inference() -> tuple[Ratio, float]:
    """Images per second of facezoo over timm's, ResNet-50, as shipped."""
    images = torch.randn(16, 3, 112, 112)
    models = {label: build().eval() for label, build in same_network("resnet50", num_classes=1000).items()}

    def call(label: str) -> Callable[[], object]:
        return torch.inference_mode()(lambda: models[label](images))

    seconds = seconds_in_turn({label: call(label) for label in ("facezoo", "timm")}, repeats=9)
    where = {"model": "resnet50", "kind": "inference", "form": "as shipped"}
    rows = (where | {"library": "facezoo"}, where | {"library": "timm"})
    return ratio_of_medians(seconds["timm"], seconds["facezoo"]), committed(
        "throughput_cpu_peers", "img/s (median)", *rows
    )


def main() -> int:
    print("this machine:", ", ".join(f"{key} {value}" for key, value in machine().items()))
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy := load > BUSY * (os.cpu_count() or 1):
        print(
            f"busy: load {load:.1f} before it began; what runs in threads loses most by that, so a difference may say nothing"
        )
    different = 0
    for measure in (construction, inference, head):
        (ratio, low, high), there = measure()
        agrees = low <= there * ALLOWED and high >= there / ALLOWED
        different += not agrees
        verdict = "agrees" if agrees else "DIFFERS"
        print(
            f"{verdict:8} {ratio:6.2f} ({low:.2f} to {high:.2f}), committed {there:.2f}: {measure.__doc__}", flush=True
        )
    if different and busy:
        print("something differs, on a busy machine: run it again when nothing else runs, or with OMP_NUM_THREADS=1")
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
