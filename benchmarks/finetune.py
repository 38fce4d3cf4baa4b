"""From cross-entropy to a margin: EER after every epoch, by the recipe's warm-up and by a cold margin.

    python benchmarks/finetune.py FACES --seeds 0 1 2

For each seed a network with plain cross-entropy is trained first; then ArcFace goes on from it, once as the recipe hw2p2-finetune
says (class means, scale and margin warmed up, a tenth of the learning rate), once cold (random centers, scale 64, margin 0.5, the
full learning rate). EER is that of pairs of 100 people who are left out (results/quality_left_out.txt). Its interval (95 %) is of
the start, by bootstrap. FACES as for quality.py. ResNet-18 with ImageNet's stem, 64 pixels, at most --images of a person. Writes
results/finetune.{json,md,png}; what other seeds and machines gave with the same settings stays there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, where, write_results
from facezoo.evaluation import evaluate_pairs
from facezoo.training import TrainConfig, Trainer, load_trained
from facezoo.training.recipes import Recipe, get_recipe
from quality import tuning_folder


def fewer(data: Path, most: int) -> None:
    """Keep ``most`` training images of each person: links are removed, no image."""
    for person in (data / "cls_data" / "train").iterdir():
        files = sorted(person.resolve().iterdir())[:most]
        person.unlink()
        person.mkdir()
        for file in files:
            (person / file.name).symlink_to(file)


def warmed(recipe: Recipe, own: TrainConfig, updates: int) -> dict[str, Any]:
    """The margin's options for so many updates: the warm-up takes the same share of them as on the recipe's data."""
    options, published = dict(own.model.margin_options), recipe.config().optimization
    if options.get("warmup_steps"):
        share = options["warmup_steps"] / (published.epochs * (recipe.images // published.batch_size))
        options["warmup_steps"] = max(1, round(share * updates))
    return options


def arms(epochs: int, updates: int) -> dict[str, TrainConfig]:
    """The settings of both ways; the recipe's warm-up takes the same share of the training as there."""
    recipe = get_recipe("hw2p2-finetune")
    own = recipe.config()
    warm = warmed(recipe, own, epochs * updates)
    cold = {"scale": 64.0, "margin": 0.5}
    plain = own.optimization
    return {
        "recipe": TrainConfig.from_options(
            margin="arcface", margin_options=warm, init_head=own.model.init_head, lr=plain.lr,
            warmup_epochs=plain.warmup_epochs * epochs / plain.epochs, weight_decay=plain.weight_decay, nesterov=plain.nesterov,
        ),
        "cold": TrainConfig.from_options(margin="arcface", margin_options=cold, init_head="none", lr=0.1, warmup_epochs=0.0),
    }  # fmt: skip


def eer(config: TrainConfig, checkpoint: Path, bootstrap: int) -> tuple[float, float, float]:
    """EER of the pairs left out, and its interval."""
    metrics = evaluate_pairs(
        load_trained(checkpoint).model, Trainer(config).data.val_pairs, bootstrap=bootstrap
    ).metrics
    if not bootstrap:
        return metrics.eer, metrics.eer, metrics.eer
    low, high = metrics.eer_interval
    return metrics.eer, low, high


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--start-epochs", type=int, default=6, help="of cross-entropy")
    parser.add_argument("--epochs", type=int, default=4, help="with the margin")
    parser.add_argument("--images", type=int, default=12, help="of a person, at most")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--img-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--name", default="finetune", help="of the files in results")
    args = parser.parse_args()
    rows = earlier_rows(args)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = tuning_folder(args.faces, root / "tuning")
        fewer(data, args.images)
        common = {
            "data": str(data), "model": args.model, "stem": "imagenet", "img_size": args.img_size, "batch_size": args.batch_size,
            "augment": "light", "num_workers": args.workers, "progress": False, "best_metric": "last",
        }  # fmt: skip
        for seed in args.seeds:
            first = TrainConfig.from_options(
                **common, seed=seed, margin="linear", epochs=args.start_epochs, lr=0.1, out=str(root / f"ce{seed}")
            )  # fmt: skip
            trainer = Trainer(first)
            start = trainer.fit().last
            begin = eer(first, start, 1000)
            for name, config in arms(args.epochs, trainer.batches.updates_per_epoch).items():
                own = config.replace(
                    **common, seed=seed, epochs=args.epochs, init_checkpoint=str(start), out=str(root / f"{name}{seed}")
                )  # fmt: skip
                history = Trainer(own).fit().history
                values = [begin[0], *(row["eer"] for row in history)]
                row = {**describe(name, seed, values, begin[1:]), "machine": where()}
                same = ("way", "seed", "machine")
                rows = [*(old for old in rows if any(old[key] != row[key] for key in same)), row]
                report(args, sorted(rows, key=lambda row: (row["way"] == "cold", row["seed"])))


def described(args: argparse.Namespace) -> tuple[str, str]:
    """Title and note, which hold all settings."""
    title = (
        f"Equal error rate (%) by epoch, from cross-entropy to a margin: {args.model}, {args.img_size} px, pairs of 100 people "
        "left out"
    )
    note = (
        f"{args.start_epochs} epochs of cross-entropy, then {args.epochs} with the margin, batches of {args.batch_size}, at most "
        f"{args.images} images of a person. The versions above are those of the last run; the machine stands in each row."
    )
    return title, note


def earlier_rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Those of a table that was made with the same settings."""
    file = RESULTS / f"{args.name}.json"
    record = json.loads(file.read_text()) if file.exists() else {}
    return record["rows"] if (record.get("title"), record.get("note")) == described(args) else []


def report(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """After each run, so that it stays whatever comes."""
    title, note = described(args)
    write_results(args.name, title, rows, note=note)
    draw(rows, RESULTS / f"{args.name}.png")


def describe(name: str, seed: int, values: list[float], interval: tuple[float, float]) -> dict[str, object]:
    """A row: the EER at the start with its interval, after each epoch, and whether the promise of the recipe holds."""
    row: dict[str, object] = {
        "way": name,
        "seed": seed,
        "start, interval": f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}",
    }
    row |= {f"epoch {epoch}": round(100 * value, 2) for epoch, value in enumerate(values)}
    return {**row, "never above the interval": max(values) <= interval[1], "better at the end": values[-1] < values[0]}


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """One line for each run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for way, color in (("recipe", "tab:blue"), ("cold", "tab:orange")):
        for number, row in enumerate(row for row in rows if row["way"] == way):
            values = [row[key] for key in row if key.startswith("epoch ")]
            axes.plot(range(len(values)), values, color=color, marker="o", label=None if number else way)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("epoch with the margin (0: cross-entropy)")
    axes.set_ylabel("EER, %")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
