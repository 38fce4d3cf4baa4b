"""Tables of trainings on a folder of faces, some at once, on a GPU or the processor. Writes results/training_<table>.{json,md}

    python benchmarks/training_runs.py FACES --tables ablation hour distillation course --seeds 3 --at-once 3

FACES has cls_data/, ver_data/ and val_pairs.txt (View 1 of LFW). The figures are those of the last epoch; each run has as many
epochs as its row says, so how long it took does not matter, and the runs may share the machine. Where a row stands for minutes of
a processor, its epochs are those that benchmarks/quality.py counted there. The figures of every run are kept beside the table, and
the same command goes on where it was stopped.

ablation      one piece of tiny-cpu exchanged at a time, without the 100 people of quality_left_out.txt: their pairs, and View 1
hour          plain loop, tiny-cpu-long, and the same with larger images or a wider network, each with the epochs of 60 minutes on
              one core with AVX2 kernels, all people
distillation  tiny-cpu-long alone, taught by a network that is trained here, and taught by someone else's (--teacher FILE);
              tiny-cpu-long for an hour of one core with AVX2 kernels, and tiny-cpu taught by such a run (--teacher FOLDER, as
              --runs keeps it), the same one for all seeds
course        the recipes hw2p2*, all people: both of the course's tasks
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import facezoo
from common import RESULTS, where, write_results
from facezoo.data import PackedFaces, PackOptions, eval_transform, open_face_data, open_source, pack
from facezoo.devices import resolve_device
from facezoo.evaluation import classification_accuracy, embed_images
from facezoo.preprocessing import Preprocessing
from facezoo.training import Trainer, load_trained
from facezoo.training.recipes import get_recipe
from facezoo.training.run_comparison import mean_interval
from facezoo.training.validation import selection_value
from facezoo.training.wccn import fold, within_class_map
from finetune import warmed
from quality import error_rates, train_plain, tuning_folder

Figures = dict[str, float]


@dataclass(frozen=True)
class Run:
    """One row: a recipe with options over it.

    Attributes:
        label: what the row is called.
        recipe: name of the recipe, or ``plain`` for the loop that students write.
        epochs: of the training; None for the recipe's own.
        options: of ``facezoo train``, over the recipe.
        ends: options after the last epoch, by label: rows that take this one's training and end it otherwise, by WCCN. They stand
            before it.
        after: a run that is trained first; this one starts from its network.
        teacher: a run that is trained first, or a file: what it says of the training images teaches this one.
    """

    label: str
    recipe: str = "tiny-cpu"
    epochs: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    ends: dict[str, dict[str, Any]] = field(default_factory=dict)
    after: Run | None = None
    teacher: Run | Path | None = None


NO_WCCN: dict[str, Any] = {"wccn": None, "wccn_between": None, "wccn_offset": None}


def ablation(epochs: int) -> list[Run]:
    margin = {
        "margin": "arcface",
        "margin_options": {"scale": 32.0, "margin": 0.3},
        "label_smoothing": 0.0,
        **NO_WCCN,
    }
    three = {
        **margin,
        "margin": "subcenter_arcface",
        "margin_options": {"scale": 32.0, "margin": 0.3, "sub_centers": 3},
    }
    sgd = {
        "optimizer": "sgd",
        "optimizer_options": {},
        "lr": 0.1,
        "head_lr_scale": 1.0,
        "weight_decay": 5e-4,
        "nesterov": True,
    }
    adamw = {"optimizer": "adamw", "optimizer_options": {}, "lr": 0.002, "head_lr_scale": 1.0, "weight_decay": 0.05}
    ends = {
        "tiny-cpu": {},
        "no offset": {"wccn_offset": None},
        "WCCN without weights": {"wccn_between": None, "wccn_offset": None},
    }
    changes: dict[str, dict[str, Any]] = {
        "the flip alone": {"augment_options": {}},
        "no augmentation": {"augment": "none", "augment_options": {}},
        "colors, gray and erasing too": {"augment_options": get_recipe("tiny-cpu-long").config().augmentation.options},
        "no smoothing": {"label_smoothing": 0.0},
        "ArcFace (s 32, m .3), no WCCN": margin,
        "ArcFace, three sub-centers, no WCCN": three,
        "no warm-up": {"warmup_epochs": 0.0},
        "SGD (.1, Nesterov)": sgd,
        "AdamW (.002)": adamw,
        "64 pixels": {"img_size": 64},
        "112 pixels": {"img_size": 112},
        "no WCCN, but a moving average (.99)": {**NO_WCCN, "ema_decay": 0.99},
        "full width (resnet18)": {"model": "resnet18"},
    }
    first = Run("no WCCN", epochs=epochs, options=NO_WCCN, ends=ends)
    return [first, *(Run(label, epochs=epochs, options=options) for label, options in changes.items())]


def hour(plain: int, recipe: int, large: int, wide: int) -> list[Run]:
    return [
        Run("plain loop", "plain", plain),
        Run("tiny-cpu-long", "tiny-cpu-long", recipe),
        Run("tiny-cpu-long, 112 pixels", "tiny-cpu-long", large, {"img_size": 112}),
        Run("tiny-cpu-long, full width (resnet18)", "tiny-cpu-long", wide, {"model": "resnet18"}),
    ]


def distillation(epochs: int, teacher_epochs: int, given: Path | None) -> list[Run]:
    """Students have their teacher's dimension, so that its cosines are what they learn, and no WCCN, which would change them."""
    teacher = {"model": "resnet18", "img_size": 112, "amp": "bf16"}
    own = Run("the teacher: full width, 112 pixels", "tiny-cpu-long", teacher_epochs, teacher)
    taught: dict[str, Any] = {"distill": {"cosine": 10.0}, **NO_WCCN}
    rows = [
        Run("tiny-cpu-long", "tiny-cpu-long", epochs),
        own,
        Run("the same, cosine 10 to the teacher trained here, no WCCN", "tiny-cpu-long", epochs, taught, teacher=own),
    ]
    rows.append(Run("tiny-cpu-long, 80 pixels, an hour of one AVX2 core", "tiny-cpu-long", 27, {"img_size": 80}))
    if given is not None and given.is_dir():
        label = f"tiny-cpu, cosine 10 to one network ({given.name}), no WCCN"
        rows.append(Run(label, "tiny-cpu", None, taught, teacher=given))
    elif given is not None:
        label = f"the same, 128-d, cosine 10 to {given.stem} (someone else's, of millions of other faces), no WCCN"
        rows.append(Run(label, "tiny-cpu-long", epochs, {**taught, "embedding_dim": 128}, teacher=given))
    return rows


def course(epochs: int | None) -> list[Run]:
    plain = Run("hw2p2", "hw2p2", epochs)
    tuned = Run("hw2p2-finetune, from hw2p2", "hw2p2-finetune", epochs and max(1, epochs // 5), after=plain)
    return [plain, tuned, Run("hw2p2-joint", "hw2p2-joint"), Run("hw2p2-early", "hw2p2-early")]


# -- one run -----------------------------------------------------------------------------------------------------------------------


def folder_of(run: Run, seed: int, root: Path) -> Path:
    return root / "runs" / f"{run.label.replace('/', '_')} {seed}"


def mark_of(data: Path) -> str:
    """Tells folders of the same name apart: --runs may have been used with other faces."""
    return hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]


def packed_of(data: Path, size: int, root: Path) -> Path:
    return root / f"{data.name}{size}-{mark_of(data)}"


def table_of(teacher: Run | Path, seed: int, size: int, root: Path) -> Path:
    """Where a teacher's embeddings of the images of this size lie."""
    own = teacher.stem if isinstance(teacher, Path) else folder_of(teacher, seed, root).name
    return root / f"{own} {size}.npz"


def settings(run: Run, data: Path, seed: int, root: Path) -> Any:
    """The settings of a run on the packed images of its size."""
    config = get_recipe(run.recipe).config().replace(**run.options)
    epochs = run.epochs or config.optimization.epochs
    size = config.model.img_size
    options: dict[str, Any] = {"init_checkpoint": str(folder_of(run.after, seed, root))} if run.after else {}
    if run.teacher is not None:
        options["teacher"] = str(table_of(run.teacher, seed, size, root))
    if resolve_device("auto").type == "cpu":
        options["amp"] = "none"
    return config.replace(
        data=str(packed_of(data, size, root)), out=str(folder_of(run, seed, root)), seed=seed, epochs=epochs, eval_every=epochs,
        warmup_epochs=min(config.optimization.warmup_epochs, epochs / 4), best_metric="last", num_workers=1, progress=False,
        **options,
    )  # fmt: skip


def train(run: Run, faces: Path, data: Path, seed: int, root: Path) -> dict[str, Figures]:
    """Train with one thread, and give the figures of the last epoch by label: the run's own, and those of its other ends."""
    torch.set_num_threads(1)
    began = time.monotonic()
    if run.recipe == "plain":
        accuracy, eer, mirrored, _ = train_plain(data, seed, run.epochs or 1, device=str(resolve_device("auto")))
        own = {"dev accuracy": accuracy, "EER": eer, "EER with mirror images": mirrored}
        return {run.label: {**own, "seconds": time.monotonic() - began}}
    config = settings(run, data, seed, root)
    trainer = Trainer(config)
    warm = warmed(get_recipe(run.recipe), config, trainer.total_updates)
    if warm != dict(config.model.margin_options):
        config = config.replace(margin_options=warm)
        trainer = Trainer(config)
    trainer.fit(overwrite=True)
    seconds = time.monotonic() - began
    found, device = {}, resolve_device("auto")
    for label, options in [*run.ends.items(), (run.label, None)]:
        network = load_trained(trainer.last)
        network.model.to(device)
        network.head.to(device)
        if options is not None:
            ending = get_recipe(run.recipe).config().replace(**options).optimization
            own = config.replace(wccn=ending.wccn, wccn_between=ending.wccn_between, wccn_offset=ending.wccn_offset)
            fold(network.model, network.head, within_class_map(network.model, trainer.data, own, device))
        found[label] = {**figures_of(network, trainer.data, faces if data != faces else None), "seconds": seconds}
        found[label]["epochs"] = config.optimization.epochs
    return found


def figures_of(network: Any, data: Any, faces: Path | None) -> Figures:
    """Both of the course's tasks; with ``faces`` also View 1, of which ``data`` has other pairs."""
    found: Figures = {
        "parameters": sum(p.numel() for part in (network.model, network.head) for p in part.parameters()),
        "dev accuracy": classification_accuracy(network.model, data.dev, head=network.head).accuracy,
    }
    found["EER"], found["EER with mirror images"] = error_rates(network.model, data.val_pairs)
    if faces is not None:
        pairs = open_face_data(faces, eval_transform=eval_transform(network.preprocessing)).val_pairs
        found["View 1, EER"], found["View 1, with mirror images"] = error_rates(network.model, pairs)
    both = {"dev_accuracy": found["dev accuracy"], "eer": found["EER with mirror images"]}
    found["combined"] = selection_value("combined", both)
    return found


def teach(teacher: Run | Path, model: torch.nn.Module, preprocessing: Any, data: Path, seed: int, root: Path) -> None:
    """Write what a network says of the training images at 112 pixels, for every size of the students."""
    transform = eval_transform(preprocessing)
    large = PackedFaces(packed_of(data, 112, root), transform=transform)
    table = embed_images(model.eval().to(resolve_device("auto")), large, flip="sum", normalize=False)
    for size in (64, 80, 112):
        if packed_of(data, size, root).exists():
            names = [str(name) for name, _ in PackedFaces(packed_of(data, size, root)).samples]
            np.savez(table_of(teacher, seed, size, root), embeddings=table.numpy(), names=np.array(names))


def chain(runs: list[Run], faces: Path, data: Path, seed: int, root: Path) -> dict[str, Figures]:
    """Runs that need each other, one after the other, by label."""
    found = {}
    for run in runs:
        try:
            found |= train(run, faces, data, seed, root)
        except Exception as error:  # what was trained before it keeps its row
            print(f"{run.label}, seed {seed}: {type(error).__name__}: {error}", flush=True)
            break
        if any(other.teacher is run for other in runs):
            network = load_trained(folder_of(run, seed, root) / "last.safetensors")
            teach(run, network.model, network.preprocessing, data, seed, root)
    return found


def chains(runs: list[Run]) -> list[list[Run]]:
    """Every run once, with those that it needs before it."""
    found: dict[int, list[Run]] = {id(run): [run] for run in runs}
    for run in runs:
        for needed in (run.after, run.teacher):
            if isinstance(needed, Run):
                found[id(needed)].append(run)
                del found[id(run)]
    return list(found.values())


def chosen(runs: list[Run], labels: list[str]) -> list[Run]:
    """The runs with these labels or ends, and those that they need."""
    own = [run for run in runs if {run.label, *run.ends} & set(labels)]
    kept = {id(one) for run in own for one in (run, run.after, run.teacher)}
    return [run for run in runs if id(run) in kept]


# -- what was trained before ------------------------------------------------------------------------------------------------------


def file_of(name: str) -> Path:
    """The figures of every run of a table, one JSON object a line; a table that was stopped goes on from there."""
    return RESULTS / f"training_{name}_runs.jsonl"


def identity(run: Run, seed: int) -> dict[str, Any]:
    """What a run's figures depend on: settings and machine. A change of either trains it again."""
    if run.recipe == "plain":
        settings: Any = {"epochs": run.epochs}
    else:
        settings = get_recipe(run.recipe).config().replace(**run.options).to_dict()
        settings |= {"epochs": run.epochs, "ends": run.ends}
    needed = [identity(one, seed) if isinstance(one, Run) else str(one) for one in (run.after, run.teacher) if one]
    text = json.dumps([settings, needed], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return {"run": run.label, "seed": seed, "settings": digest, "device": where(), "torch": torch.__version__}


def kept(name: str, run: Run, seed: int) -> dict[str, Figures]:
    """The figures of this run by label, if it was trained before; else nothing."""
    if file_of(name).exists():
        for line in reversed(file_of(name).read_text().splitlines()):
            entry = json.loads(line)
            if {key: entry[key] for key in entry if key != "figures"} == identity(run, seed):
                return entry["figures"]
    return {}


def keep(name: str, run: Run, seed: int, figures: dict[str, Figures]) -> None:
    with file_of(name).open("a") as file:
        file.write(json.dumps({**identity(run, seed), "figures": figures}) + "\n")


# -- a table -----------------------------------------------------------------------------------------------------------------------


def rows_of(runs: list[Run], found: dict[str, dict[int, Figures]]) -> list[dict[str, object]]:
    """A row for each run: mean and 95 % interval of each figure over the seeds, and the paired difference to the first run."""
    rows = []
    labels = [label for run in runs for label in (*run.ends, run.label)]
    for label in labels:
        figures = found.get(label, {})
        if not figures:
            continue
        row: dict[str, object] = {"run": label, "seeds": len(figures)}
        for name in next(iter(figures.values())):
            values = [own[name] for own in figures.values()]
            mean, half = mean_interval(values) if len(values) > 1 else (values[0], 0.0)
            if name in ("epochs", "parameters", "seconds"):
                row[name] = round(mean)
            else:
                row[name] = f"{100 * mean:.2f} ± {100 * half:.2f}" if len(values) > 1 else f"{100 * mean:.2f}"
        first = found.get(labels[0], {})
        both = [seed for seed in figures if seed in first]
        if label != labels[0] and len(both) > 1:
            name = "EER with mirror images"
            mean, half = mean_interval([figures[seed][name] - first[seed][name] for seed in both])
            row["EER with mirror images, points more than the first row"] = f"{100 * mean:+.2f} ± {100 * half:.2f}"
        rows.append(row)
    return rows


def prepare(data: Path, sizes: set[int], root: Path) -> None:
    for size in sorted(size for size in sizes if not packed_of(data, size, root).exists()):
        pack(open_source(data, "layout"), packed_of(data, size, root), PackOptions(size=(size, size)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faces", type=Path)
    tables = ("ablation", "hour", "distillation", "course")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables)
    parser.add_argument("--rows", nargs="+", help="some of the rows, by their labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument(
        "--at-once", type=int, default=2, help="runs that share the machine; more make no sense on one GPU"
    )
    parser.add_argument("--ablation-epochs", type=int, default=6, help="six minutes of one AVX-512 core alone")
    parser.add_argument("--hour-epochs", type=int, nargs=4, default=(17, 58, 23, 20), help="of the rows of that table")
    parser.add_argument("--student-epochs", type=int, default=20)
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument(
        "--course-epochs", type=int, help="of hw2p2, and five times those of hw2p2-finetune; else the recipes'"
    )
    parser.add_argument("--teacher", type=Path, help="foamliu's mobilefacenet.pt, or the folder of a run")
    parser.add_argument("--runs", type=Path, help="folder that keeps packed images and runs (default: a temporary one)")
    args = parser.parse_args()
    wanted = {
        "ablation": lambda: ablation(args.ablation_epochs),
        "hour": lambda: hour(*args.hour_epochs),
        "distillation": lambda: distillation(args.student_epochs, args.teacher_epochs, args.teacher),
        "course": lambda: course(args.course_epochs),
    }
    runs = {name: wanted[name]() for name in args.tables}
    if args.rows:
        runs = {name: chosen(own, args.rows) for name, own in runs.items()}
    with tempfile.TemporaryDirectory() if args.runs is None else contextlib.nullcontext(args.runs) as folder:
        root = Path(folder)
        data = dict.fromkeys(runs, args.faces)
        if "ablation" in runs:
            data["ablation"] = root / f"tuning-{mark_of(args.faces)}"
            if not data["ablation"].exists():
                tuning_folder(args.faces, data["ablation"])
        for own in {str(path): path for path in data.values()}.values():
            of = [run for name in runs if data[name] == own for run in runs[name] if run.recipe != "plain"]
            sizes = {get_recipe(run.recipe).config().replace(**run.options).model.img_size for run in of}
            sizes |= {112} if any(run.teacher for run in of) else set()  # what teachers see
            prepare(own, sizes, root)
        if "distillation" in runs and args.teacher is not None:
            if args.teacher.is_dir():
                network = load_trained(args.teacher / "last.safetensors")
                model, images = network.model, network.preprocessing
            else:
                model = facezoo.create_model("mobilefacenet_foamliu", embedding_dim=128)
                facezoo.load_checkpoint(model, args.teacher)
                images = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
            teach(args.teacher, model, images, args.faces, 0, root)
        run_all(args, runs, data, root)


def run_all(args: argparse.Namespace, runs: dict[str, list[Run]], data: dict[str, Path], root: Path) -> None:
    found: dict[str, dict[str, dict[int, Figures]]] = {name: {} for name in runs}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.at_once, spawn) as pool:
        jobs = {}
        for name in args.tables:
            for seed in range(args.first_seed, args.first_seed + args.seeds):
                for parts in chains(runs[name]):
                    earlier = [kept(name, run, seed) for run in parts]
                    if all(earlier):
                        for label, figures in (pair for own in earlier for pair in own.items()):
                            found[name].setdefault(label, {})[seed] = figures
                    else:
                        jobs[pool.submit(chain, parts, args.faces, data[name], seed, root)] = (name, seed, parts)
        for job in tqdm(as_completed(jobs), total=len(jobs), unit="job"):
            name, seed, parts = jobs[job]
            try:
                done = job.result()
            except Exception as error:  # the other runs go on
                print(f"{name}, {parts[0].label}, seed {seed}: {type(error).__name__}: {error}", flush=True)
                continue
            for label, figures in done.items():
                found[name].setdefault(label, {})[seed] = figures
            for run in parts:
                own = {label: done[label] for label in (*run.ends, run.label) if label in done}
                if own:
                    keep(name, run, seed, own)
            report(name, runs[name], found[name])


TITLES = {
    "ablation": "One piece of tiny-cpu exchanged at a time, last epoch, pairs of 100 people who are left out",
    "hour": "Plain loop, tiny-cpu-long and larger forms of it at the epochs of 60 minutes on one core, last epoch, View 1",
    "distillation": "tiny-cpu-long and tiny-cpu alone and with a teacher, last epoch, View 1",
    "course": "The course's two tasks, 744 people instead of 8,631, last epoch, View 1",
}


def report(name: str, runs: list[Run], found: dict[str, dict[int, Figures]]) -> None:
    note = (
        "Per cent, mean ± 95 % interval over the seeds (Student's t). Trained many at once on the machine named above, so the "
        "seconds say nothing about speed. `combined`: mean of dev accuracy and 1 − EER with mirror images."
    )
    write_results(f"training_{name}", TITLES[name], rows_of(runs, found), note=note)


if __name__ == "__main__":
    main()
