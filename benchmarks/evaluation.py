"""Figures at scale: ROC of many pairs, all pairs of many embeddings, search in a big gallery; seconds and peak memory.

``python benchmarks/evaluation.py`` runs everything (hours, some GiB); ``--scale 0.001`` tries it out. Each measurement of memory
has a process of its own, since a peak never goes down.

- roc: EER and TAR@FAR of 15.7 M and 100 M pairs; beside scikit-learn's ``roc_curve``, and a loop over 400 thresholds as
  verification scripts have it.
- pairs: all pairs of 100,000 embeddings, binned and exact, beside the bare matrix products of the same tiles.
- search: 10,000 probes in 1,000,000 templates, beside the bare product and FAISS flat.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from common import write_results
from facezoo.evaluation.counts import count_scores, eer_of, point_at
from facezoo.evaluation.search import nearest
from facezoo.evaluation.streaming import ScoreHistogram, all_pairs, streamed_figures

FARS = (1e-2, 1e-3, 1e-4, 1e-5)


Scored = tuple[np.ndarray, np.ndarray]


def scored(pairs: int) -> Scored:
    rng = np.random.default_rng(0)
    genuine = np.arange(pairs) < max(pairs // 800, 2)  # IJB-C: 19,557 of 15.7 million
    return (rng.standard_normal(pairs, dtype=np.float32) * 0.1 + 0.5 * genuine).clip(-1, 1), genuine


def roc_in_memory(data: Scored) -> None:
    scores, genuine = data
    counts = count_scores(scores.astype(np.float64), genuine)
    eer_of(counts)
    for far in FARS:
        point_at(counts, int(far * counts.num_impostor))


def roc_streamed(data: Scored) -> None:
    block = 1 << 20

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return ((scores[i : i + block], genuine[i : i + block]) for i in range(0, len(scores), block))

    scores, genuine = map(torch.from_numpy, data)
    streamed_figures(batches, fars=FARS)


def roc_sklearn(data: Scored) -> None:
    from sklearn.metrics import roc_curve

    scores, genuine = data
    far, tar, _ = roc_curve(genuine, scores)
    np.interp(FARS, far, tar)


def roc_loop(data: Scored) -> None:
    scores, genuine = data
    for threshold in np.arange(-1, 1, 0.005):
        accepted = scores >= threshold
        np.sum(accepted & genuine), np.sum(accepted & ~genuine)


def faces(count: int, dim: int = 512) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(0)), dim=1)


def pairs_bare(embeddings: torch.Tensor) -> None:
    for first in range(0, len(embeddings), 2048):
        for second in range(first, len(embeddings), 2048):
            embeddings[first : first + 2048] @ embeddings[second : second + 2048].T


def pairs_binned(embeddings: torch.Tensor) -> None:
    histogram, people = ScoreHistogram(), torch.arange(len(embeddings)) // 10
    for scores, same in all_pairs(embeddings, people):
        histogram.add(scores, same)
    histogram.counts()


def pairs_exact(embeddings: torch.Tensor) -> None:
    people = torch.arange(len(embeddings)) // 10
    streamed_figures(lambda: all_pairs(embeddings, people), fars=FARS)


Gallery = tuple[torch.Tensor, torch.Tensor]


def gallery_of(templates: int) -> Gallery:
    return faces(templates), faces(max(templates // 100, 1))


def search_bare(data: Gallery) -> None:
    gallery, probes = data
    for block in probes.split(1024):
        for start in range(0, len(gallery), 16_384):
            block @ gallery[start : start + 16_384].T


def search_exact(data: Gallery) -> None:
    nearest(data[1], data[0], 10)


def search_faiss_flat(data: Gallery) -> None:
    import faiss

    index = faiss.IndexFlatIP(512)
    index.add(data[0].numpy())
    index.search(data[1].numpy(), 10)


CASES: dict[str, tuple[Callable[[Any], None], Callable[[int], Any], tuple[int, ...]]] = {
    "roc, facezoo in memory": (roc_in_memory, scored, (15_700_000, 100_000_000)),
    "roc, facezoo streamed, exact": (roc_streamed, scored, (15_700_000, 100_000_000)),
    "roc, scikit-learn": (roc_sklearn, scored, (15_700_000, 100_000_000)),
    "roc, loop over 400 thresholds": (roc_loop, scored, (15_700_000, 100_000_000)),
    "all pairs, bare products": (pairs_bare, faces, (100_000,)),
    "all pairs, binned": (pairs_binned, faces, (100_000,)),
    "all pairs, exact": (pairs_exact, faces, (100_000,)),
    "search, bare products": (search_bare, gallery_of, (1_000_000,)),
    "search, exact": (search_exact, gallery_of, (1_000_000,)),
    "search, FAISS flat": (search_faiss_flat, gallery_of, (1_000_000,)),
}


def measure(name: str, size: int) -> tuple[float, float]:
    """Seconds without the making of the input, and MiB of the peak above the input, in this process."""
    run, make, _ = CASES[name]
    data = make(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    run(data)
    return time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--only", default="", help="cases that begin so: roc, all pairs, search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/evaluation.md and .json")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        seconds, mebibytes = measure(options.one[0], int(options.one[1]))
        print(seconds, mebibytes)
        return
    rows = []
    for name, (_, _, sizes) in CASES.items():
        for size in (max(1000, int(size * options.scale)) for size in sizes if name.startswith(options.only)):
            command = [sys.executable, __file__, "--threads", str(options.threads), "--one", name, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds, mebibytes = map(float, done.stdout.split()) if done.returncode == 0 else (float("nan"),) * 2
            rows.append({"case": name, "size": size, "seconds": seconds, "peak MiB over the input": mebibytes})
            print(f"{name:<32} {size:>12,}  {seconds:10.2f} s  {mebibytes:10.0f} MiB", flush=True)
    if options.save:
        write_results("evaluation", "Evaluation at scale", rows)


if __name__ == "__main__":
    main()
