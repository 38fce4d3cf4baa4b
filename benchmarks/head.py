"""Margin head: forward + backward + SGD step, facezoo's engines against what people use. Writes results/head_<device>.{json,md}.

    python benchmarks/head.py --batch-sizes 64 256 --classes 100000

Time: all candidates interleaved in one process. Peak memory: each candidate in a process of its own, over what weights, gradient
and momentum take. Before anything is timed, all candidates must agree on the loss.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import facezoo
from common import time_interleaved, write_results

DIM, SCALE, MARGIN = 512, 64.0, 0.5


class ScatteredMargin(nn.Module):
    """ArcFace over all N × C cosines at once, as training codes write it: normalise, product, clamp, scatter."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, DIM) * 0.01)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(embeddings), F.normalize(self.weight)).clamp(-1 + 1e-7, 1 - 1e-7)
        own = cosine.gather(1, labels[:, None])
        moved = torch.cos(torch.arccos(own) + MARGIN)
        moved = torch.where(own > math.cos(math.pi - MARGIN), moved, own - math.sin(math.pi - MARGIN) * MARGIN)
        return F.cross_entropy(cosine.scatter(1, labels[:, None], moved) * SCALE, labels)


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


def build(candidate: str, classes: int) -> nn.Module:
    if candidate.startswith("facezoo "):
        engine = candidate.removeprefix("facezoo ")
        return facezoo.create_margin(
            "arcface", embedding_dim=DIM, num_classes=classes, scale=SCALE, margin=MARGIN, engine=engine
        )
    return ScatteredMargin(classes) if candidate == "scattered margin" else MetricLearningPeer(classes)


CANDIDATES = ("facezoo chunked", "facezoo dense", "scattered margin", "pytorch-metric-learning")


def inputs(batch_size: int, classes: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch_size, DIM, generator=generator)
    return embeddings.to(device), torch.randint(classes, (batch_size,), generator=generator).to(device)


def step_of(head: nn.Module, embeddings: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
    leaf = embeddings.clone().requires_grad_()

    def step() -> None:
        head(leaf, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        leaf.grad = None

    return step


def assert_agreement(heads: dict[str, nn.Module], embeddings: Tensor, labels: Tensor) -> None:
    reference = next(iter(heads.values()))
    losses = {}
    with torch.no_grad():
        for name, head in heads.items():
            head.weight.copy_(reference.weight)
            losses[name] = float(head(embeddings, labels))
    if max(losses.values()) - min(losses.values()) > 1e-3 * max(losses.values()):
        raise AssertionError(f"the candidates do not compute the same loss: {losses}")


def peak_over_state(candidate: str, batch_size: int, classes: int, device: str) -> float:
    """Extra MiB of a step over weights, gradient and momentum, measured in this (fresh) process."""
    head = build(candidate, classes).to(device)
    step = step_of(head, *inputs(batch_size, classes, device))
    state = 3 * classes * DIM * 4 / 2**20
    if device.startswith("cuda"):
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20 - state
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - state / 3  # the weights are there already
    step()
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before - state


def peak_in_own_process(candidate: str, batch_size: int, classes: int, device: str) -> float | None:
    arguments = [
        "--peak-of",
        candidate,
        "--batch-sizes",
        str(batch_size),
        "--classes",
        str(classes),
        "--device",
        device,
    ]
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    return None if done.returncode else float(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--classes", type=int, nargs="+", default=[100_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--tf32", action="store_true", help="let CUDA round the factors of float32 products, for all candidates"
    )
    parser.add_argument("--peak-of", choices=CANDIDATES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    if args.peak_of:
        print(json.dumps(peak_over_state(args.peak_of, args.batch_sizes[0], args.classes[0], args.device)))
        return
    rows = []
    for classes in args.classes:
        for batch_size in args.batch_sizes:
            embeddings, labels = inputs(batch_size, classes, args.device)
            heads = {name: build(name, classes).to(args.device) for name in CANDIDATES}
            assert_agreement(heads, embeddings, labels)
            steps = {name: step_of(head, embeddings, labels) for name, head in heads.items()}
            seconds = time_interleaved(steps, repeats=args.repeats, warmup=2, device=args.device)
            del heads, steps
            fastest_peer = min(seconds[name]["median"] for name in CANDIDATES if not name.startswith("facezoo"))
            for name in CANDIDATES:
                peak = peak_in_own_process(name, batch_size, classes, args.device)
                rows.append(
                    {
                        "identities": classes,
                        "batch": batch_size,
                        "head": name,
                        "ms (median)": 1000 * seconds[name]["median"],
                        "ms (min)": 1000 * seconds[name]["min"],
                        "ms (max)": 1000 * seconds[name]["max"],
                        "speed over the fastest peer": fastest_peer / seconds[name]["median"],
                        "extra peak MiB": "did not fit" if peak is None else round(peak),
                    }
                )
    write_results(
        f"head_{args.device.split(':')[0]}",
        "ArcFace head: forward, backward and SGD step",
        rows,
        note=f"D = {DIM}, float32{' with TF32 products' if args.tf32 else ''}. "
        "Extra peak: over weights, gradient and momentum, each head in its own process.",
    )


if __name__ == "__main__":
    main()
