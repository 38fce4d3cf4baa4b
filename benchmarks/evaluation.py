"""Figures at scale: ROC of many pairs, all pairs of many embeddings, search in a big gallery; seconds and peak memory.

``python benchmarks/evaluation.py`` runs everything (some ten minutes, 8 GiB); ``--scale 0.001`` tries it out, ``--only`` runs a
part, and ``--save`` puts its rows in place of older ones of the same cases. Each measurement has a process of its own.

- roc: EER and TAR@FAR of 15.7 M and 100 M pairs; beside scikit-learn's ``roc_curve``, and the loop over 400 thresholds of
  insightface's verification script: a tenth of the thresholds is measured, times ten. (The script makes that loop twenty times, for
  ten folds and two figures; once is counted here.)
- pairs: all pairs of 100,000 embeddings, binned and exact, beside the bare matrix products of the same tiles.
- search: the ten nearest of 1,000,000 templates for 10,000 probes, beside the bare products and FAISS flat.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import RESULTS, write_results
from facezoo.evaluation.all_pairs import all_pairs, count_pairs
from facezoo.evaluation.counts import count_scores, eer_of, point_at
from facezoo.evaluation.search import nearest
from facezoo.evaluation.streaming import streamed_figures

FARS = (1e-2, 1e-3, 1e-4, 1e-5)
SHOWN = 1e-4

Scored = tuple[np.ndarray, np.ndarray]
Run = Callable[[Any], float]
"""Runs a case, and gives one figure, by which cases of one kind can be compared."""


def scored(pairs: int) -> Scored:
    """Scores float32 and labels of ``pairs`` pairs; IJB-C has 19,557 genuine ones of 15.7 million."""
    rng, scores = np.random.default_rng(0), np.empty(pairs, dtype=np.float32)
    genuine = np.arange(pairs) < max(pairs // 800, 2)
    for start in range(0, pairs, 1 << 20):
        part = slice(start, start + (1 << 20))
        drawn = rng.standard_normal(len(scores[part]), dtype=np.float32)
        scores[part] = (0.1 * drawn + np.float32(0.5) * genuine[part]).clip(-1, 1)
    order = rng.permutation(pairs)
    return scores[order], genuine[order]


def roc_in_memory(data: Scored) -> float:
    scores, genuine = data
    counts = count_scores(scores.astype(np.float64), genuine)
    eer_of(counts)
    tars = {far: counts.tp[point_at(counts, int(far * counts.num_impostor))] / counts.num_genuine for far in FARS}
    return float(tars[SHOWN])


def roc_streamed(data: Scored) -> float:
    scores, genuine = map(torch.from_numpy, data)
    batches = lambda: zip(scores.split(1 << 20), genuine.split(1 << 20), strict=True)  # noqa: E731
    return streamed_figures(batches, fars=FARS).tar_at_far[SHOWN]


def roc_sklearn(data: Scored) -> float:
    from sklearn.metrics import roc_curve

    scores, genuine = data
    far, tar, _ = roc_curve(genuine, scores, drop_intermediate=False)
    return float(tar[np.searchsorted(far, SHOWN, side="right") - 1])


def roc_loop(data: Scored) -> float:
    """The counts that insightface's ``calculate_accuracy`` makes, at every tenth of its 400 thresholds."""
    scores, genuine = data
    found = 0.0
    for threshold in np.arange(1, -1, -0.05):
        accepted = scores >= threshold
        right = np.sum(np.logical_and(accepted, genuine))
        false = np.sum(np.logical_and(accepted, np.logical_not(genuine)))
        np.sum(np.logical_and(np.logical_not(accepted), np.logical_not(genuine)))
        np.sum(np.logical_and(np.logical_not(accepted), genuine))
        if false <= SHOWN * len(scores):
            found = float(right / genuine.sum())
    return found


def faces(count: int, dim: int = 512) -> torch.Tensor:
    """Unit embeddings of people with ten photos each, cosine 0.25 on average between photos of one person."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.empty(count, dim)
    for start in range(0, count, 10_000):
        part = rows[start : start + 10_000].normal_(generator=generator)
        part *= 3**0.5
        people = torch.randn((len(part) + 9) // 10, dim, generator=generator)
        part += people.repeat_interleave(10, dim=0)[: len(part)]
        part /= part.norm(dim=1, keepdim=True)
    return rows


def pairs_bare(embeddings: torch.Tensor) -> float:
    for first in range(0, len(embeddings), 2048):
        for second in range(first, len(embeddings), 2048):
            embeddings[first : first + 2048] @ embeddings[second : second + 2048].T
    return float("nan")


def pairs_binned(embeddings: torch.Tensor) -> float:
    histogram = count_pairs(embeddings, torch.arange(len(embeddings)) // 10)
    return streamed_figures(lambda: (), exact=False, histogram=histogram).tar_at_far[SHOWN]


def pairs_exact(embeddings: torch.Tensor) -> float:
    people = torch.arange(len(embeddings)) // 10
    second = lambda: all_pairs(embeddings, people, reuse=True)  # noqa: E731
    return streamed_figures(second, histogram=count_pairs(embeddings, people)).tar_at_far[SHOWN]


Gallery = tuple[torch.Tensor, torch.Tensor]


def gallery_of(templates: int) -> Gallery:
    """Templates, and a hundredth as many probes: every hundredth template, with noise."""
    gallery = faces(templates)
    probes = gallery[::100].clone()
    noise = torch.randn(probes.shape, generator=torch.Generator().manual_seed(1))
    return gallery, torch.nn.functional.normalize(probes + 0.06 * noise, dim=1)


def search_bare(data: Gallery) -> float:
    gallery, probes = data
    for block in probes.split(1024):
        for start in range(0, len(gallery), 4096):
            block @ gallery[start : start + 4096].T
    return float("nan")


def _right(rows: torch.Tensor) -> float:
    return float((rows[:, 0] == 100 * torch.arange(len(rows))).double().mean())


def search_exact(data: Gallery) -> float:
    return _right(nearest(data[1], data[0], 10)[1])


def search_faiss_flat(data: Gallery) -> float:
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(512)
    index.add(data[0].numpy())
    return _right(torch.from_numpy(index.search(data[1].numpy(), 10)[1]))


PAIRS, MANY, TEMPLATES = (15_700_000, 100_000_000), (100_000,), (1_000_000,)
CASES: dict[str, tuple[Run, Callable[[int], Any], tuple[int, ...], str, float]] = {
    "roc, facezoo in memory": (roc_in_memory, scored, PAIRS, "TAR@FAR=1e-4", 1),
    "roc, facezoo streamed, exact": (roc_streamed, scored, PAIRS, "TAR@FAR=1e-4", 1),
    "roc, scikit-learn": (roc_sklearn, scored, PAIRS, "TAR@FAR=1e-4", 1),
    "roc, loop over 400 thresholds": (roc_loop, scored, PAIRS, "TAR@FAR=1e-4", 10),
    "pairs, bare products": (pairs_bare, faces, MANY, "", 1),
    "pairs, binned": (pairs_binned, faces, MANY, "TAR@FAR=1e-4", 1),
    "pairs, exact": (pairs_exact, faces, MANY, "TAR@FAR=1e-4", 1),
    "search, bare products": (search_bare, gallery_of, TEMPLATES, "", 1),
    "search, exact": (search_exact, gallery_of, TEMPLATES, "nearest is right", 1),
    "search, FAISS flat": (search_faiss_flat, gallery_of, TEMPLATES, "nearest is right", 1),
}
"""Name -> run, input, sizes, what the figure is, and what the seconds are multiplied by."""


def _memory(field: str) -> float:
    """MiB of a line of this process's status: ``VmRSS`` now, ``VmHWM`` the peak. NaN where there is no such file."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(field)), float("nan"))


def measure(name: str, size: int) -> dict[str, Any]:
    """Seconds without the making of the input, and MiB of the peak above the input, in this process."""
    run, make, _, label, times = CASES[name]
    run(make(1000))  # imports, threads, first allocations
    data = make(size)
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the peak begins anew
    before, start = _memory("VmRSS"), time.perf_counter()
    figure = run(data)
    seconds = (time.perf_counter() - start) * times
    shown = f"{label} {figure:.6f}" if label else ""
    return {"seconds": seconds, "peak MiB over the input": _memory("VmHWM") - before, "figure": shown}


def rows_of(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name, (_, _, sizes, _, _) in CASES.items():
        for size in (max(1000, int(size * options.scale)) for size in sizes if name.startswith(options.only)):
            if options.size and size != options.size:
                continue
            command = [sys.executable, __file__, "--threads", str(options.threads), "--one", name, str(size)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name}, {size:,}: {done.stderr[-1000:]}")
            row = {"case": name, "size": size, **json.loads(done.stdout)}
            print(
                f"{name:<32} {size:>12,}  {row['seconds']:10.2f} s  {row['peak MiB over the input']:8.0f} MiB  "
                f"{row['figure']}",
                flush=True,
            )
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the sizes")
    parser.add_argument("--size", type=int, help="this one of the sizes alone")
    parser.add_argument("--only", default="", help="cases that begin so: roc, pairs, search")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/evaluation.md and .json")
    parser.add_argument("--note", default="", help="a line about the run, such as how busy the machine was")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]))))
        return
    for row in rows_of(options):
        if options.save:
            save(row, options.note)


def save(row: dict[str, Any], note: str) -> None:
    """Put a row in the place of an older one of its case."""
    file = RESULTS / "evaluation.json"
    older = json.loads(file.read_text())["rows"] if file.exists() else []
    kept = {(old["case"], old["size"]): old for old in [*older, row]}
    order = list(CASES)
    merged = sorted(kept.values(), key=lambda one: (order.index(one["case"]), one["size"]))
    write_results("evaluation", "Evaluation at scale", merged, note=note)


if __name__ == "__main__":
    main()
