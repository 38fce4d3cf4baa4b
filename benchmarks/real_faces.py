"""Figures of finished training runs on real faces, beside those of the same network untrained. Writes results/real_faces.*

    python benchmarks/real_faces.py FACES arcface=runs/real_arcface cross-entropy=runs/real_linear [--view2]

FACES is a folder with cls_data/, ver_data/, val_pairs.txt (View 1, for choosing a checkpoint) and, for --view2, lfw/ and pairs.txt
(View 2: run it once, at the very end; nothing may be chosen by it). Only figures and curves are written, never an image.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import torch

import facezoo
from common import RESULTS, write_results
from facezoo.data import open_face_data, read_lfw_pairs
from facezoo.evaluation import (
    PairEvaluation,
    classification_accuracy,
    evaluate_pairs,
    figure_png,
    plot_roc,
    plot_training_curves,
    read_training_log,
)
from facezoo.training import load_trained


def percent(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.2f} ({100 * interval[0]:.2f}–{100 * interval[1]:.2f})"


def pair_columns(result: PairEvaluation, name: str) -> dict[str, object]:
    metrics = result.metrics
    assert metrics is not None
    columns: dict[str, object] = {
        f"{name} EER %": percent(metrics.eer, metrics.eer_interval),
        f"{name} AUC": f"{metrics.auc:.4f}",
        f"{name} TAR@FAR=1e-2 %": percent(metrics.tar_at_far[1e-2], metrics.tar_at_far_interval[1e-2]),
    }
    if result.kfold is not None:
        columns[f"{name} 10-fold accuracy %"] = f"{100 * result.kfold.mean:.2f} ± {100 * result.kfold.std_error:.2f}"
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN", help="name of a row and its run folder")
    parser.add_argument("--view2", action="store_true")
    parser.add_argument("--flip", default="sum", choices=("none", "sum", "concat"))
    parser.add_argument("--name", default="real_faces", help="name of the result files")
    args = parser.parse_args()

    runs = {name: load_trained(folder) for name, folder in (item.split("=", 1) for item in args.runs)}
    first = next(iter(runs.values()))
    torch.manual_seed(0)
    untrained = facezoo.create_model(**first.model.config).eval()
    data = open_face_data(args.faces, eval_transform=facezoo.data.eval_transform(first.preprocessing))
    view2 = read_lfw_pairs(args.faces / "pairs.txt", args.faces / "lfw") if args.view2 else None

    rows, curves = [], {}
    networks = {"untrained": (untrained, None)} | {name: (run.model, run.head) for name, run in runs.items()}
    for name, (model, head) in networks.items():
        row: dict[str, object] = {"loss": name}
        if head is not None:
            for split, dataset in (("dev", data.dev), ("test", data.test)):
                accuracy = classification_accuracy(model, dataset, head=head, progress=True)
                row[f"{split} accuracy % ({accuracy.num_classes} identities)"] = percent(
                    accuracy.accuracy, accuracy.accuracy_interval
                )
        view1 = evaluate_pairs(model, data.val_pairs, flip=args.flip, progress=True)
        row |= pair_columns(view1, "View 1")
        if view2 is not None:
            final = evaluate_pairs(model, view2, flip=args.flip, progress=True)
            row |= pair_columns(final, "View 2")
            curves[name] = (final.scores, final.labels)
        rows.append(row)

    for item in args.runs:
        name, folder = item.split("=", 1)
        (RESULTS / f"{args.name}_{name}_epochs.csv").write_text((Path(folder) / "epochs.csv").read_text())
        figure = plot_training_curves(
            read_training_log(Path(folder) / "epochs.csv"), title=f"{name}, {first.model.spec.name}"
        )
        if figure is not None:
            (RESULTS / f"{args.name}_{name}.png").write_bytes(figure_png(figure))
    if curves:
        (RESULTS / f"{args.name}_roc.png").write_bytes(figure_png(plot_roc(curves, title="LFW View 2")))
    settings = {item.split("=", 1)[0]: _settings(Path(item.split("=", 1)[1])) for item in args.runs}
    write_results(
        args.name,
        f"{first.model.spec.name} trained from scratch on 13,216 images of 744 people",
        [
            dict(zip(["figure", *(str(row["loss"]) for row in rows)], values, strict=True))
            for values in _transposed(rows)
        ],
        note=f"95 % intervals in brackets; flip {args.flip}; the checkpoint was chosen by View 1 EER. Settings: "
        + json.dumps(settings),
    )


def _transposed(rows: list[dict[str, object]]) -> list[list[object]]:
    figures = list(dict.fromkeys(key for row in rows for key in row if key != "loss"))
    return [[figure, *(row.get(figure, "") for row in rows)] for figure in figures]


def _settings(folder: Path) -> dict[str, object]:
    """What of the run's settings is not a default, with its length and time."""
    from facezoo.training import TrainConfig
    from facezoo.training.config import all_options

    config, defaults = TrainConfig.load(folder / "config.json"), TrainConfig()
    names = [name for name, _, _ in all_options() if name not in ("data", "out")]
    changed = {name: config.option(name) for name in names if config.option(name) != defaults.option(name)}
    with (folder / "epochs.csv").open(newline="") as file:
        epochs = list(csv.DictReader(file))
    minutes = sum(float(row["train_seconds"]) + float(row["eval_seconds"] or 0) for row in epochs) / 60
    return changed | {"epochs done": len(epochs), "minutes": round(minutes, 1)}


if __name__ == "__main__":
    main()
