"""Seconds to build a network with random weights, beside timm and torchvision. Writes results/construction.{json,md}.

python benchmarks/construction.py
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from tqdm import tqdm

from common import write_results
from peers import same_network

MODELS = ["resnet50", "se_resnet50", "convnext_tiny", "mobilenet_v2", "efficientnet_b0", "vit_small_patch16"]


def seconds_of(builds: dict[str, Callable[[], nn.Module]], repeats: int) -> dict[str, list[float]]:
    """Interleaved; what is built is freed outside of the time, and the first round does not count."""
    seconds: dict[str, list[float]] = {label: [] for label in builds}
    for _ in range(repeats + 1):
        for label, build in builds.items():
            gc.collect()
            start = time.perf_counter()
            model = build()
            seconds[label].append(time.perf_counter() - start)
            del model
    return {label: values[1:] for label, values in seconds.items()}


def measure(repeats: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in tqdm(MODELS, unit="model"):
        seconds = seconds_of(same_network(name, num_classes=1000), repeats)
        own = statistics.median(seconds["facezoo"])
        for label, values in seconds.items():
            row = {"model": name, "library": label, "ms (median)": 1000 * statistics.median(values)}
            row |= {"ms (min)": 1000 * min(values), "ms (max)": 1000 * max(values)}
            rows.append(row | {"facezoo is faster by": statistics.median(values) / own})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    write_results(
        "construction",
        "Construction with random weights",
        measure(arguments.repeats),
        note=f"Float32, the published ImageNet form, median of {arguments.repeats}, interleaved; equal parameters asserted first. "
        f"facezoo draws on all threads, here {arguments.threads}; the others on one.",
    )
