"""What the trainer costs beside a bare loop: the same network, batches and precision, update by update in turn.

    python benchmarks/overhead.py --model resnet18 --img-size 64 --batch-size 32 --updates 40

Writes results/overhead.{json,md}: time per update of both, on the clock and of the processor, and the ratio of medians with its
95 % interval (bootstrap of pairs). Where other work runs beside it, only the processor's time says something; take one thread then.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from types import SimpleNamespace

import torch

import facezoo
from common import ratio_of_medians, write_results
from facezoo.training import TrainConfig, Trainer, parameter_groups


class Faces(torch.utils.data.Dataset):
    """Random images in memory, so that reading costs both sides nothing."""

    def __init__(self, images: torch.Tensor, classes: int) -> None:
        self.images, self.targets = images, torch.arange(len(images)) % classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.targets[index])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--classes", type=int, default=744)
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--limit", type=float, default=200.0, help="seconds after which no further pair is begun")
    parser.add_argument("--loaded", action="store_true", help="other work ran beside it: say so in the table")
    args = parser.parse_args()
    size = args.batch_size
    faces = Faces(torch.randn(size * 4, 3, args.img_size, args.img_size), args.classes)
    data = SimpleNamespace(train=faces, dev=None, val_pairs=None, classes=tuple(map(str, range(args.classes))))
    folder = tempfile.TemporaryDirectory()
    config = TrainConfig.from_options(
        model=args.model, img_size=args.img_size, batch_size=size, epochs=10_000, warmup_epochs=0.0, best_metric="last",
        num_workers=0, progress=False, out=folder.name, margin_options={"scale": 32.0, "margin": 0.3},
    )  # fmt: skip
    trainer = Trainer(config, data=data)
    model = facezoo.create_model(args.model, img_size=args.img_size).train()
    head = facezoo.create_margin("arcface", embedding_dim=512, num_classes=args.classes, scale=32.0, margin=0.3)
    own = config.optimization
    optimizer = torch.optim.SGD(
        parameter_groups(model, head, weight_decay=own.weight_decay, head_weight_decay=own.weight_decay),
        lr=own.lr,
        momentum=own.momentum,
    )
    trained = (batches[0] for epoch in range(10_000) for batches in trainer.batches.updates(epoch, 0))
    trainer.objective.train()

    def bare(batch: tuple[torch.Tensor, ...]) -> None:
        loss = head(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def ours(batch: tuple[torch.Tensor, ...]) -> None:
        trainer._pending.append(trainer._update([batch]))
        trainer.state.updates += 1
        trainer._after_update(SimpleNamespace(update=lambda: None, set_postfix_str=lambda *a, **k: None))

    trainer._tell = lambda say: None  # no file: that is the logger's
    trainer._rates = [own.lr] * 10_000
    calls = {"bare loop": bare, "trainer": ours}
    clocks = {"clock": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in calls} for clock in clocks}
    for call in calls.values():  # warm
        call(next(trained))
    start = time.monotonic()
    for turn in range(args.updates):
        batch = next(trained)
        for name in calls if turn % 2 == 0 else reversed(calls):
            begin = {clock: read() for clock, read in clocks.items()}
            calls[name](batch)
            for clock, read in clocks.items():
                seconds[clock][name].append(read() - begin[clock])
        if time.monotonic() - start > args.limit:
            break
    rows = []
    for clock, found in seconds.items():
        ratio, low, high = ratio_of_medians(found["trainer"], found["bare loop"])
        bare, ours_ms = (round(1000 * statistics.median(found[name]), 2) for name in calls)
        row = {"time": clock, "bare loop, ms per update": bare, "trainer, ms per update": ours_ms}
        rows.append({**row, "ratio": f"{ratio:.4f} ({low:.4f}-{high:.4f})", "updates": len(found["trainer"])})
    state = "other work ran beside it" if args.loaded else "nothing else ran"
    title = f"Trainer beside a bare loop: {args.model}, {args.img_size} px, batches of {size}; {state}"
    options = f"--model {args.model} --img-size {args.img_size} --batch-size {size} --updates {args.updates}"
    command = f"python benchmarks/overhead.py {options}{' --loaded' * args.loaded}"
    write_results("overhead", title, rows, note=f"OMP_NUM_THREADS={torch.get_num_threads()} {command}")


if __name__ == "__main__":
    main()
