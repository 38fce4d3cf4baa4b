"""The plain loop that students write against a recipe, at equal wall time, with paired seeds. Writes results/quality.{json,md}

    python benchmarks/quality.py FACES --minutes 18 --seeds 3 --recipe tiny-cpu            # tuning, by pairs of left-out people
    python benchmarks/quality.py FACES --minutes 18 --seeds 3 --recipe tiny-cpu --final    # all people, View 1
    python benchmarks/quality.py FACES --final --view2     # View 2 of LFW too: once, when nothing is changed by it any more
    python benchmarks/quality.py FACES --set label_smoothing=0.0 --name quality_hard       # another arm: options over the recipe

FACES has cls_data/, ver_data/ and val_pairs.txt, for View 2 also lfw/ and pairs.txt. Settings are chosen by pairs made from the
images of 100 people who are left out of the training (results/quality_left_out.txt); ``--final`` trains on everybody and reports
View 1. Images are scaled once, to memory for the plain loop and to a packed folder for the recipe; that time is counted for
neither. Both arms get as many minutes of training: a probe of some updates says how many epochs come nearest, and the figures are
those of the last epoch, not of the best. Run it alone on an idle machine; where other work runs beside it, give ``--loaded``, and
the table says so.

A plain processor is imitated by ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 in the environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common import RESULTS, write_results
from facezoo.data import PackOptions, PairList, eval_transform, open_face_data, open_source, pack, read_lfw_pairs
from facezoo.evaluation import classification_accuracy, evaluate_pairs
from facezoo.preprocessing import Preprocessing
from facezoo.training import TrainConfig, Trainer, load_trained
from facezoo.training.recipes import get_recipe
from facezoo.training.run_comparison import mean_interval

Figures = tuple[float, ...]  # those of NAMES, with --view2 those of VIEW_2, seconds of training

NAMES = ("dev accuracy", "EER", "EER with mirror images")
VIEW_2 = ("View 2 error, ten-fold, mirror images", "View 2 EER, mirror images")
LEFT_OUT = RESULTS / "quality_left_out.txt"
PROBE = 12  # updates


def left_out(people: list[str], count: int = 100) -> list[str]:
    """The people who are left out; drawn once, and kept in a file."""
    if LEFT_OUT.exists():
        return [name for name in LEFT_OUT.read_text().split() if name in set(people)]
    chosen = sorted(random.Random(15).sample(people, min(count, len(people) // 2)))
    LEFT_OUT.write_text("\n".join(chosen) + "\n")
    return chosen


def tuning_folder(faces: Path, root: Path, pairs: int = 2000) -> Path:
    """The data without the people left out, and pairs of those: links only."""
    people = sorted(path.name for path in (faces / "cls_data" / "train").iterdir())
    out = set(left_out(people))
    for split in ("train", "dev"):
        (root / "cls_data" / split).mkdir(parents=True)
        for name in people:
            if name not in out:
                (root / "cls_data" / split / name).symlink_to((faces / "cls_data" / split / name).resolve())
    (root / "ver_data").mkdir()
    images = {name: sorted((faces / "cls_data" / "train" / name).iterdir()) for name in sorted(out)}
    for files in images.values():
        for file in files:
            (root / "ver_data" / file.name).symlink_to(file.resolve())
    rng, lines = random.Random(16), set()
    while len(lines) < pairs:
        same = len(lines) % 2 == 0
        first = rng.choice(sorted(images))
        second = first if same else rng.choice([name for name in images if name != first])
        one, other = rng.choice(images[first]), rng.choice(images[second])
        if one != other:
            one, other = sorted((one.name, other.name))  # each pair once
            lines.add(f"{one} {other} {int(same)}")
    (root / "val_pairs.txt").write_text("\n".join(sorted(lines)) + "\n")
    return root


def error_rates(model: nn.Module, pairs: PairList, view2: PairList | None = None, **options: Any) -> tuple[float, ...]:
    """EER of the embeddings, and of their sums with those of the mirror images; of View 2 the latter, and 1 - accuracy."""
    plain, mirrored = (evaluate_pairs(model, pairs, bootstrap=0, flip=flip, **options) for flip in ("none", "sum"))
    if view2 is None:
        return plain.metrics.eer, mirrored.metrics.eer
    final = evaluate_pairs(model, view2, bootstrap=0, flip="sum", **options)
    assert final.kfold is not None
    return plain.metrics.eer, mirrored.metrics.eer, 1 - final.kfold.mean, final.metrics.eer


# -- the plain loop --------------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A ResNet-18 for ImageNet with a linear layer, as a student takes it from timm; ``embed`` is what is before that layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        import timm

        self.net = timm.create_model("resnet18", num_classes=classes, drop_rate=0.2)

    def embed(self, images: Tensor) -> Tensor:
        return self.net.forward_head(self.net.forward_features(images), pre_logits=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def train_plain(
    data: Path,
    seed: int,
    epochs: int,
    updates: int | None = None,
    batch: int = 64,
    device: str = "cpu",
    view2: PairList | None = None,
) -> Figures:
    """Cross-entropy with smoothing, flip, SGD, one cycle, images in memory: the figures of the run."""
    torch.manual_seed(seed)
    transform = eval_transform(Preprocessing(img_size=(64, 64)))
    faces = open_face_data(data, train_transform=transform, eval_transform=transform)
    images = torch.stack([faces.train[index][0] for index in range(len(faces.train))]).to(device)
    labels = faces.train.labels.to(device)
    model = Plain(len(faces.classes)).to(device)
    per_epoch = len(images) // batch
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * per_epoch)
    start, done = time.monotonic(), 0
    for _ in range(epochs):
        model.train()
        for chosen in torch.randperm(len(images))[: per_epoch * batch].split(batch):
            x = images[chosen]
            mirrored = torch.rand(len(x), device=device) < 0.5
            x[mirrored] = x[mirrored].flip(3)
            loss = F.cross_entropy(model(x), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done == updates:
                return 0.0, 0.0, 0.0, (time.monotonic() - start) / done * per_epoch
    seconds = time.monotonic() - start
    accuracy = classification_accuracy(model, faces.dev).accuracy
    return accuracy, *error_rates(model, faces.val_pairs, view2, transform=transform), seconds


# -- the recipe ------------------------------------------------------------------------------------------------------------------


def settings_of(args: argparse.Namespace, data: Path, out: Path, seed: int) -> TrainConfig:
    options = {}
    for item in args.set:
        name, _, value = item.partition("=")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    settings = {
        "data": str(data),
        "out": str(out),
        "seed": seed,
        "progress": False,
        "num_workers": args.workers,
        **options,
    }
    return get_recipe(args.recipe).config().replace(**settings)


def train_recipe(
    args: argparse.Namespace, data: Path, out: Path, seed: int, epochs: int | None, view2: PairList | None = None
) -> Figures:
    """As :func:`train_plain`; without ``epochs`` a probe, which says the seconds of an epoch."""
    config = settings_of(args, data, out, seed)
    if epochs is None:
        trainer = Trainer(config)
        losses = trainer.try_rates([config.optimization.lr] * (PROBE + 1))
        next(losses)
        start = time.monotonic()
        list(losses)
        trainer.batches.close()
        return 0.0, 0.0, 0.0, (time.monotonic() - start) / PROBE * trainer.batches.updates_per_epoch
    warmup = min(config.optimization.warmup_epochs, epochs)
    began = time.monotonic()
    result = Trainer(config.replace(epochs=epochs, eval_every=epochs, warmup_epochs=warmup)).fit(overwrite=True)
    seconds = time.monotonic() - began - sum(row.get("eval_seconds", 0.0) for row in result.history)
    network = load_trained(result.last)
    faces = Trainer(config).data
    accuracy = classification_accuracy(network.model, faces.dev, head=network.head).accuracy
    return accuracy, *error_rates(network.model, faces.val_pairs, view2), seconds


def start(core: int | None) -> None:
    """Of a process that trains: its core, if it has one of its own, and one thread there."""
    if core is not None:
        os.sched_setaffinity(0, {core})
        torch.set_num_threads(1)


def run_arm(args: argparse.Namespace, arm: str, data: Path, out: Path, seed: int, epochs: int | None) -> Figures:
    """The figures of one run; without ``epochs`` a probe, which gives the seconds of an epoch."""
    view2 = read_lfw_pairs(args.faces / "pairs.txt", args.faces / "lfw") if args.view2 and epochs else None
    if arm == "recipe":
        return train_recipe(args, out.parent / "packed", out, seed, epochs, view2)
    return train_plain(data, seed, epochs, view2=view2) if epochs else train_plain(data, seed, 1, PROBE)


def run_all(args: argparse.Namespace, data: Path, root: Path) -> None:
    """Run each arm with each seed, and report. The arms take turns, or each has a core and they run at the same time."""
    found: dict[str, list[Figures]] = {arm: [] for arm in args.arms}
    cores = sorted(os.sched_getaffinity(0)) if args.side_by_side else [None] * len(args.arms)
    if len(cores) < len(args.arms):
        raise SystemExit("--side-by-side needs a core for each arm")
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        pools = {
            arm: stack.enter_context(ProcessPoolExecutor(1, spawn, initializer=start, initargs=(core,)))
            for arm, core in zip(args.arms, cores, strict=False)
        }

        def one_of_each(seed: int, epochs: dict[str, int] | None) -> dict[str, Figures]:
            results = {}
            for arm in args.arms:
                out = root / f"{arm}{seed}{'' if epochs else 'probe'}"
                results[arm] = pools[arm].submit(run_arm, args, arm, data, out, seed, epochs and epochs[arm])
                if not args.side_by_side:
                    results[arm].result()
            return {arm: result.result() for arm, result in results.items()}

        epochs = dict.fromkeys(args.arms, args.epochs)
        if args.epochs is None:
            one_of_each(0, None)  # the first probe warms up
            for arm, probe in one_of_each(0, None).items():
                epochs[arm] = max(1, round(args.minutes * 60 / probe[-1]))
                print(f"{arm}: {probe[-1]:.0f} s an epoch, so {epochs[arm]} epochs", flush=True)
        for seed in range(args.seeds):
            for arm, figures in one_of_each(seed, epochs).items():
                found[arm].append(figures)
                shown = [f"{name} {figure:.4f}" for name, figure in zip((*NAMES, *VIEW_2), figures[:-1], strict=False)]
                print(f"seed {seed}, {arm}: {', '.join(shown)}, {figures[-1] / 60:.1f} min", flush=True)
            report(args, epochs, found)  # after each seed: what is there stays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument(
        "--minutes", type=float, default=18.0, help="of training per run; evaluation comes on top in both arms"
    )
    parser.add_argument("--epochs", type=int, help="instead of --minutes, without a probe; for one of --arms")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipe", default="tiny-cpu")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="options of facezoo train over the recipe"
    )
    parser.add_argument("--name", default="quality", help="of the files in results")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--final", action="store_true", help="train on everybody and report View 1, once, at the end")
    parser.add_argument("--view2", action="store_true", help="with --final: View 2 too; look at it once only")
    parser.add_argument("--arms", nargs="+", choices=("plain", "recipe"), default=["plain", "recipe"])
    parser.add_argument(
        "--side-by-side", action="store_true", help="each arm on a core of its own, at the same time, one thread each"
    )
    parser.add_argument("--loaded", action="store_true", help="other work ran beside it: say so in the table")
    args = parser.parse_args()
    if args.seeds < 1:
        raise SystemExit("--seeds is at least 1")
    if args.epochs is not None and (args.epochs < 1 or len(args.arms) > 1):
        raise SystemExit("--epochs is at least 1, and goes with one arm: equal time is what both are compared by")
    if args.view2 and not args.final:
        raise SystemExit("--view2 goes with --final: nothing may be chosen by it")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = args.faces if args.final else tuning_folder(args.faces, root / "tuning")
        size = settings_of(args, data, root, 0).model.img_size
        began = time.monotonic()
        pack(open_source(data, "layout"), root / "packed", PackOptions(size=(size, size), threads=1))
        print(f"packed for the recipe in {time.monotonic() - began:.0f} s on one thread", flush=True)
        run_all(args, data, root)


def report(args: argparse.Namespace, epochs: dict[str, int], found: dict[str, list[Figures]]) -> None:
    rows = []
    names = (*NAMES, *VIEW_2) if args.view2 else NAMES
    for arm, runs in found.items():
        row: dict[str, object] = {
            "arm": arm if arm == "plain" else " ".join([args.recipe, *args.set]),
            "epochs": epochs[arm],
        }
        for index, name in enumerate(names):
            mean, half = mean_interval([run[index] for run in runs])
            row[name] = f"{mean:.2%} ± {half:.2%}" if len(runs) > 1 else f"{mean:.2%}"
        rows.append({**row, "minutes": round(sum(run[-1] for run in runs) / len(runs) / 60, 2), "seeds": len(runs)})
    if len(found) == 2:
        row = {"arm": "the recipe's over the plain loop's, paired"}
        for index, name in enumerate(names):
            both = zip(found["plain"], found["recipe"], strict=True)
            mean, half = mean_interval([recipe[index] / max(plain[index], 1e-9) for plain, recipe in both])
            row[name] = f"{mean:.3f} ± {half:.3f}" if len(found["plain"]) > 1 else f"{mean:.3f}"
        rows.append(row)
    state = "other work ran beside it" if args.loaded else "nothing else ran"
    pairs = "View 1" if args.final else "pairs of 100 people who are left out (quality_left_out.txt)"
    cores = "one core and thread each, at the same time" if args.side_by_side else "in turn, all cores"
    length = f"{args.minutes:g} minutes" if args.epochs is None else f"{args.epochs} epochs"
    title = f"{' loop and '.join(args.arms).capitalize()} at {length}, {cores}: last epoch, {pairs}; {state}"
    write_results(args.name, title, rows)


if __name__ == "__main__":
    main()
