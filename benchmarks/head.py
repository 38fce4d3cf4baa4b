"""Margin head: forward + backward + SGD step, facezoo's engines against what people use. Writes results/head_<device>.{json,md}.

    python benchmarks/head.py --batch-sizes 64 256 --classes 100000 200000 1000000
    python benchmarks/head.py --only "facezoo chunked" "sampled 0.1" ...      a choice of heads

Time: all heads interleaved in one process, as far as they fit into memory together; beyond ``--in-turn-from`` classes each one is
timed in a process of its own, in turn. Peak memory: each head in a process of its own, over what weights, gradient and momentum
take. Before anything is timed, all heads of one formula must agree on the loss and on the gradient of the embeddings.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import facezoo
from common import steps_at_once, time_interleaved, write_results

DIM, SCALE, MARGIN = 512, 64.0, 0.5


class ScatteredMargin(nn.Module):
    """insightface's formulation: all N × C cosines, clamped; margin scattered into them in place; scaled; cross-entropy.

    The margin is detached, as it is there; no process group is needed.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, DIM) * 0.01)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(embeddings), F.normalize(self.weight)).clamp(-1, 1)
        rows = torch.arange(len(labels), device=labels.device)
        with torch.no_grad():
            own = cosine[rows, labels]
            moved = torch.cos(torch.arccos(own) + MARGIN)
            cosine[rows, labels] = torch.where(own > math.cos(math.pi - MARGIN), moved, own - math.sin(MARGIN) * MARGIN)
        return F.cross_entropy(cosine * SCALE, labels)


class MetricLearningPeer(nn.Module):
    """pytorch-metric-learning's ArcFaceLoss."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from pytorch_metric_learning.losses import ArcFaceLoss

        self.loss = ArcFaceLoss(classes, DIM, margin=math.degrees(MARGIN), scale=SCALE)

    @property
    def weight(self) -> Tensor:
        return self.loss.W.t()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.loss(embeddings, labels)


class LinearCrossEntropy(nn.Module):
    """torch's own linear_cross_entropy on normalized features and centers: no margin is possible there.

    Args:
        classes: C.
        chunked: the chunked path (over the batch), at the settings that torch ships.
    """

    def __init__(self, classes: int, *, chunked: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, DIM) * 0.01)
        self.options = nn.LinearCrossEntropyOptions() if chunked else None

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return F.linear_cross_entropy(
            SCALE * F.normalize(embeddings), F.normalize(self.weight), labels, options=self.options
        )


def _facezoo(classes: int, engine: str, **options: object) -> nn.Module:
    return facezoo.create_margin(
        "arcface", embedding_dim=DIM, num_classes=classes, scale=SCALE, margin=MARGIN, engine=engine, **options
    )


def _in_backward(classes: int, engine: str, **options: object) -> nn.Module:
    from facezoo.margins import BackwardSGD

    return _facezoo(classes, engine, optimizer_in_backward=BackwardSGD(lr=0.01, momentum=0.9), **options)


@dataclass(frozen=True)
class Head:
    """One candidate.

    Attributes:
        build: makes it, for a number of classes.
        formula: heads of one formula must agree (``gradient="detached"`` and ``"exact"`` have the same loss).
        state: C × D matrices that training needs besides the centers: gradient and momentum, or momentum alone.
    """

    build: Callable[[int], nn.Module]
    formula: str = "arcface"
    state: int = 2


def own_chunked(classes: int) -> nn.Module:
    return _facezoo(classes, "chunked")


def own_dense(classes: int) -> nn.Module:
    return _facezoo(classes, "dense")


def own_fused(classes: int) -> nn.Module:
    return _facezoo(classes, "fused")


def own_chunked_in_backward(classes: int) -> nn.Module:
    return _in_backward(classes, "chunked")


def own_fused_in_backward(classes: int) -> nn.Module:
    return _in_backward(classes, "fused")


def own_sampled(classes: int) -> nn.Module:
    return _in_backward(classes, "chunked", sample_rate=0.1)


HEADS: dict[str, Head] = {
    "facezoo chunked": Head(own_chunked),
    "facezoo chunked, step in backward": Head(own_chunked_in_backward, state=1),
    "facezoo dense": Head(own_dense),
    "facezoo fused": Head(own_fused),
    "facezoo fused, step in backward": Head(own_fused_in_backward, state=1),
    "facezoo sampled 0.1, step in backward": Head(own_sampled, "sampled", state=1),
    "insightface's formulation": Head(ScatteredMargin),
    "insightface's formulation, compiled": Head(lambda classes: torch.compile(ScatteredMargin(classes))),
    "pytorch-metric-learning": Head(MetricLearningPeer),
    "torch linear_cross_entropy": Head(lambda classes: LinearCrossEntropy(classes, chunked=False), "no margin"),
    "torch linear_cross_entropy, chunked": Head(lambda classes: LinearCrossEntropy(classes, chunked=True), "no margin"),
}


def built(name: str, classes: int, device: str | torch.device) -> nn.Module:
    """The head, made on the device: drawing 10 million centers on the host takes a minute."""
    with torch.device(device):
        return HEADS[name].build(classes).to(device)


def inputs(batch_size: int, classes: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch_size, DIM, generator=generator)
    return embeddings.to(device), torch.randint(classes, (batch_size,), generator=generator).to(device)


def step_of(head: nn.Module, embeddings: Tensor, labels: Tensor) -> Callable[[], None]:
    """Forward, backward, SGD with momentum (in the backward pass where the head does that itself)."""
    leaf = embeddings.clone().requires_grad_()
    own_step = getattr(head, "backward_optimizer", None) is not None
    optimizer = None if own_step else torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        head(leaf, labels).backward()
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        leaf.grad = None

    return step


def weight_of(head: nn.Module) -> Tensor:
    return getattr(head, "_orig_mod", head).weight


def assert_agreement(names: list[str], embeddings: Tensor, labels: Tensor) -> None:
    """All heads of a formula give the same loss, and those with the exact gradient the same gradient, on 2,000 classes."""
    small = labels % 2000
    centers = torch.randn(2000, DIM, generator=torch.Generator().manual_seed(1)).to(embeddings.device)
    losses: dict[str, dict[str, float]] = {}
    for name in names:
        head = built(name, 2000, embeddings.device)
        with torch.no_grad():
            weight_of(head).copy_(centers)
        leaf = embeddings.clone().requires_grad_()
        loss = head(leaf, small)
        losses.setdefault(HEADS[name].formula, {})[name] = float(loss.detach())
    for formula, values in losses.items():
        if max(values.values()) - min(values.values()) > 1e-3 * max(values.values()):
            raise AssertionError(f"the heads do not compute the same {formula} loss: {values}")


class PeakMemory:
    """Largest resident memory of this process inside the context, MiB, sampled every millisecond, over that at its beginning."""

    def __enter__(self) -> PeakMemory:
        gc.collect()
        self._start = self.peak = self._resident()
        self._running = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self.peak -= self._start

    def _watch(self) -> None:
        while self._running:
            self.peak = max(self.peak, self._resident())
            time.sleep(0.001)

    @staticmethod
    def _resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def measure_alone(name: str, batch_size: int, classes: int, device: str, repeats: int) -> dict[str, float]:
    """Extra MiB over weights, gradient and momentum, and seconds per step; in this (fresh) process."""
    head = built(name, classes, device)
    step = step_of(head, *inputs(batch_size, classes, device))
    matrix = classes * DIM * 4 / 2**20
    if device.startswith("cuda"):
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        torch.cuda.synchronize()
        extra = torch.cuda.max_memory_allocated() / 2**20 - (1 + HEADS[name].state) * matrix
    else:
        step_of(built(name, 1000, device), *inputs(batch_size, 1000, device))()  # the libraries' own memory
        own_step = getattr(head, "backward_optimizer", None) is not None
        for buffer in head.buffers():
            buffer.add_(0)  # a momentum in the head's buffers: now its pages are there too
        with PeakMemory() as memory:
            step()
            step()
        extra = memory.peak - (0 if own_step else 2) * matrix
    timed = time_interleaved({name: step}, repeats=repeats, warmup=1, device=device, at_once=steps_at_once(device))
    return {"extra": extra, **timed[name]}


def in_own_process(name: str, batch_size: int, classes: int, args: argparse.Namespace) -> dict[str, float] | None:
    command = [sys.executable, __file__, "--alone", name, "--batch-sizes", str(batch_size), "--classes", str(classes)]
    command += ["--device", args.device, "--repeats", str(args.repeats)] + ["--tf32"] * args.tf32
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{name}: {(done.stderr.strip().splitlines() or ['killed'])[-1][:200]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def seconds_together(names: list[str], batch_size: int, classes: int, args: argparse.Namespace) -> dict[str, dict]:
    embeddings, labels = inputs(batch_size, classes, args.device)
    heads = {name: built(name, classes, args.device) for name in names}
    steps = {name: step_of(head, embeddings, labels) for name, head in heads.items()}
    at_once = steps_at_once(args.device)
    return time_interleaved(steps, repeats=args.repeats, warmup=2, device=args.device, at_once=at_once)


def bare_products(batch_size: int, classes: int, device: str, repeats: int) -> float:
    """Median seconds of the three products that any exact step needs at least: logits, ∂features, ∂centers."""
    embeddings, _ = inputs(batch_size, classes, device)
    weight, logits = torch.randn(classes, DIM, device=device), torch.empty(batch_size, classes, device=device)
    gradient = torch.empty_like(weight)

    def products() -> None:
        torch.mm(embeddings, weight.T, out=logits)
        torch.mm(logits, weight)
        torch.mm(logits.T, embeddings, out=gradient)

    timed = time_interleaved({"": products}, repeats=repeats, device=device, at_once=steps_at_once(device))
    return timed[""]["median"]


def rows_of(batch_size: int, classes: int, names: list[str], args: argparse.Namespace) -> list[dict[str, object]]:
    together = classes < args.in_turn_from
    at_once = 4 if together and args.device.startswith("cuda") else 1  # several where it is for their memory alone
    with ThreadPoolExecutor(at_once) as pool:
        runs = pool.map(lambda name: in_own_process(name, batch_size, classes, args), names)
        alone = dict(zip(names, tqdm(runs, total=len(names), unit="head", leave=False), strict=True))
    seconds = {name: figures for name, figures in alone.items() if figures is not None}
    if together:
        seconds = seconds_together(list(seconds), batch_size, classes, args)
    peers = [name for name in seconds if not name.startswith("facezoo")]
    fastest = min((seconds[name]["median"] for name in peers), default=math.nan)
    fastest_peer = min(peers, key=lambda name: seconds[name]["median"], default=None)
    extra_of_fastest = alone[fastest_peer]["extra"] if fastest_peer else math.nan
    rows: list[dict[str, object]] = []
    for name in names:
        row: dict[str, object] = {"identities": classes, "batch": batch_size, "head": name}
        if name not in seconds:
            rows.append(row | {"ms (median)": "did not run"})
            continue
        figures = seconds[name]
        row |= {f"ms ({key})": 1000 * figures[key] for key in ("median", "min", "max")}
        row["speed / fastest peer"] = fastest / figures["median"]
        row["extra peak MiB"] = round(alone[name]["extra"])
        row["memory / fastest peer"] = alone[name]["extra"] / extra_of_fastest
        rows.append(row)
    products = bare_products(batch_size, classes, args.device, args.repeats)
    rows.append(
        {
            "identities": classes,
            "batch": batch_size,
            "head": "three bare products",
            "ms (median)": 1000 * products,
            "speed / fastest peer": fastest / products,
        }
    )
    return rows


def print_profile(names: list[str], batch_size: int, classes: int, device: str) -> None:
    """Where the time of a step goes: the device's kernels against the host's calls, of five steps after three others."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.startswith("cuda")
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    for name in names:
        step = step_of(built(name, classes, device), *inputs(batch_size, classes, device))
        for _ in range(3):
            step()
        with profile(activities=kinds) as found:
            for _ in range(5):
                step()
            if cuda:
                torch.cuda.synchronize()
        print(f"== {name}, {classes:,} identities, batch {batch_size}")
        order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        print(found.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000, 200_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=HEADS, metavar="HEAD", help=f"some of: {', '.join(HEADS)}")
    parser.add_argument(
        "--in-turn-from", type=int, default=500_000, help="classes from which heads are timed one by one"
    )
    parser.add_argument(
        "--tf32", action="store_true", help="let CUDA round the factors of float32 products, for all heads"
    )
    parser.add_argument("--name", default="head", help="name of the result files")
    parser.add_argument(
        "--profile", action="store_true", help="print where the time of each head goes, and write nothing"
    )
    parser.add_argument("--alone", choices=HEADS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    if args.alone:
        figures = measure_alone(args.alone, args.batch_sizes[0], args.classes[0], args.device, args.repeats)
        print(json.dumps(figures))
        return
    names = args.only or list(HEADS)
    if not args.device.startswith("cuda"):
        names = [name for name in names if "fused" not in name]
    if not hasattr(F, "linear_cross_entropy"):
        names = [name for name in names if "linear_cross_entropy" not in name]
    if args.profile:
        print_profile(names, args.batch_sizes[0], args.classes[0], args.device)
        return
    assert_agreement(names, *inputs(64, 2000, args.device))
    rows = []
    for classes in args.classes:
        for batch_size in args.batch_sizes:
            rows += rows_of(batch_size, classes, names, args)
            report(args, rows)


def report(args: argparse.Namespace, rows: list[dict[str, object]]) -> None:
    """Write the rows so far: a run that is cut short keeps them."""
    count = steps_at_once(args.device)
    at_once = f" {count} steps between two looks at the clock." if count > 1 else ""
    write_results(
        f"{args.name}_{args.device.split(':')[0]}",
        "ArcFace head: forward, backward and SGD step",
        rows,
        note=f"D = {DIM}, float32{' with TF32 products' if args.tf32 else ''}; median of {args.repeats}, heads interleaved in "
        f"one process (from {args.in_turn_from:,} identities on: one after the other, each in its own). Extra peak: over weights, "
        "gradient and momentum (no gradient where the step is in the backward pass), each head in its own process. Ratios are to "
        "the fastest head that is not facezoo's. torch's linear_cross_entropy has no margin; the sampled head computes another, "
        f"smaller loss.{at_once}",
    )


if __name__ == "__main__":
    main()
