"""What a GPU waits for: packed images to augmented batches on the device, beside a training step. Writes results/data_gpu.{json,md}

    python benchmarks/data_gpu.py --faces DATA/cls_data/train --model iresnet50 --batch-size 128

Rows: gathering uint8 batches in one thread; augmenting whole batches on the device; both, by the loader; a training step of the
network (bf16, channels_last) on one batch; and an epoch of steps on the loader's batches. The share is of the step.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import facezoo
from common import images_per_second, seconds_in_turn, write_results
from facezoo.data import PackedFaces, PackOptions, augment_recipe, open_source, pack, packed_loader, train_transform
from facezoo.data.loader import BatchMaker


def measure(args: argparse.Namespace, packed: Path) -> list[dict[str, object]]:
    device, batch = torch.device(args.device), args.batch_size
    model = facezoo.create_model(args.model).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
    faces = PackedFaces(packed, transform=train_transform(model.preprocessing, augment_recipe(args.augment)))
    maker = BatchMaker(faces, faces.transform, device=device)
    loader = packed_loader(packed, batch, args.augment, device, threads=args.threads)
    args.batches = min(args.batches, len(loader))
    order = np.random.default_rng(0).permutation(len(faces))[: args.batches * batch].reshape(-1, batch)
    prepared = [maker.prepare(block, 0) for block in order]
    images = maker.finish(*prepared[0])[0].contiguous(memory_format=torch.channels_last)

    def step(images: torch.Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(images).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def gathering() -> None:
        for block in order:
            faces.gather(block)

    def augmenting() -> None:
        for one in prepared:
            maker.finish(*one)

    epochs = itertools.count()

    def loading() -> None:
        loader.set_epoch(next(epochs))  # in the same one it would go on, and soon be at its end
        for _ in zip(range(len(order)), loader, strict=False):
            pass

    def training() -> None:
        for _ in order:
            step(images)

    def both() -> None:
        loader.set_epoch(next(epochs))
        for _, (own, _) in zip(range(len(order)), loader, strict=False):
            step(own.contiguous(memory_format=torch.channels_last))

    calls: dict[str, Callable[[], None]] = {
        "uint8 batches gathered, one thread": gathering,
        f"{args.augment} on the device": augmenting,
        f"the loader, {args.threads} threads": loading,
        "training step, one batch on the device": training,
        "training steps on the loader's batches": both,
    }
    seconds = seconds_in_turn(calls, repeats=args.repeats, warmup=2, device=args.device)
    steps = sorted(seconds["training step, one batch on the device"])[args.repeats // 2]
    rows = []
    for name, values in seconds.items():
        middle = sorted(values)[args.repeats // 2]
        row: dict[str, object] = {"what": name, "ms per batch": 1000 * middle / len(order)}
        rows.append({**row, **images_per_second(order.size, values), "share of a step": middle / steps})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder with a folder per identity, 112x112")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="iresnet50")
    parser.add_argument("--augment", default="standard")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=40, help="of each measurement")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pack(open_source(args.faces), Path(folder) / "packed", PackOptions())
        rows = measure(args, Path(folder) / "packed")
    write_results(
        "data_gpu",
        f"Batches on the device beside a training step of {args.model}",
        rows,
        note=f"Batch {args.batch_size}.",
    )


if __name__ == "__main__":
    main()
