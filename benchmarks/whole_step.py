"""A whole training step, backbone and head together: does an exact head over millions of identities fit beside the backbone?

    python benchmarks/whole_step.py --device cuda --model iresnet50 --classes 1000000 10000000 --batch-size 1024

Writes results/whole_step_<device>.{json,md}: milliseconds per step, and the peak memory of it all. The head's optimizer runs in the
backward pass, so no gradient of the centers is held; bf16 autocast for the backbone, float32 for the head.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import facezoo
from common import time_interleaved, write_results
from facezoo.margins import BackwardSGD


def build_step(args: argparse.Namespace, classes: int) -> Callable[[], None]:
    device = torch.device(args.device)
    model = facezoo.create_model(args.model).to(device, memory_format=torch.channels_last).train()
    head = facezoo.create_margin(
        "arcface",
        embedding_dim=512,
        num_classes=classes,
        engine=args.engine,
        sample_rate=args.sample_rate,
        optimizer_in_backward=BackwardSGD(lr=0.01, momentum=0.9),
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images = torch.randn(args.batch_size, 3, 112, 112, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(classes, (args.batch_size,), device=device)
    embed = torch.compile(model.embed) if args.compile else model.embed

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = embed(images)
        head(embeddings, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(args: argparse.Namespace, classes: int) -> dict[str, object]:
    row: dict[str, object] = {"identities": classes, "backbone": args.model, "batch": args.batch_size}
    row |= {"engine": args.engine, "share of classes": args.sample_rate}
    try:
        step = build_step(args, classes)
        figures = time_interleaved({"": step}, repeats=args.repeats, warmup=3, device=args.device)[""]
    except torch.OutOfMemoryError as error:
        return row | {"ms (median)": f"out of memory: {str(error)[:60]}"}
    row |= {f"ms ({key})": 1000 * figures[key] for key in ("median", "min", "max")}
    row["img/s"] = args.batch_size / figures["median"]
    if args.device.startswith("cuda"):
        row["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="iresnet50")
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--sample-rate", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--name", default="whole_step")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    rows = []
    for classes in args.classes:
        rows.append(measure(args, classes))
        if args.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        write_results(  # after each size: a run that is cut short keeps its rows
            f"{args.name}_{args.device.split(':')[0]}",
            "Whole training step: backbone, ArcFace head, both optimizers",
            rows,
            note=f"Backbone in bf16 autocast, head in float32{' with TF32 products' if args.tf32 else ''}.",
        )


if __name__ == "__main__":
    main()
