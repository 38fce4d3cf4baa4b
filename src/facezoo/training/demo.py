"""``facezoo demo``: synthetic faces, a small network, every figure, a submission and a report, in minutes on two CPU cores."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from facezoo.training.config import TrainConfig


@dataclass(frozen=True)
class DemoPlan:
    """How big a demo is.

    Attributes:
        identities: people to train on.
        images: training images of each.
        pairs: verification pairs in each list.
        img_size: side of the input, pixels.
        max_epochs: epochs where the machine is fast enough.
        seconds: time that the training may take, from which the number of epochs follows on a slow machine.
    """

    identities: int
    images: int
    pairs: int
    img_size: int
    max_epochs: int
    seconds: float


FULL = DemoPlan(identities=150, images=16, pairs=1000, img_size=112, max_epochs=20, seconds=330.0)
FAST = DemoPlan(identities=30, images=10, pairs=200, img_size=64, max_epochs=8, seconds=30.0)


@dataclass(frozen=True)
class DemoResult:
    """Where the demo's files lie.

    Attributes:
        faces: the synthetic data, in the HW2P2 layout.
        run: run folder with checkpoints and logs.
        submission: Kaggle file of the test pairs.
        report: the report as one HTML file.
        seconds: time it all took.
    """

    faces: Path
    run: Path
    submission: Path
    report: Path
    seconds: float


def run_demo(out: str | Path, *, fast: bool = False) -> DemoResult:
    """Run the demo. What is there already from an earlier one is replaced, the faces are used again.

    Args:
        out: folder for everything.
        fast: a minute's worth, for a first look and for tests.

    Returns:
        Where everything lies; the same is printed.
    """
    from facezoo.data import eval_transform, open_face_data, read_lfw_pairs
    from facezoo.data.synthetic import write_synthetic_faces
    from facezoo.evaluation import classification_accuracy, evaluate_pairs, write_report, write_submission
    from facezoo.training.checkpoint import load_trained
    from facezoo.training.trainer import Trainer

    started = time.monotonic()
    plan, out = FAST if fast else FULL, Path(out)
    print(f"facezoo demo: torch {torch.__version__}, {torch.get_num_threads()} threads, into {out}", flush=True)

    print(f"1. Drawing {plan.identities} synthetic people", flush=True)
    faces = write_synthetic_faces(
        out / f"faces-{plan.identities}x{plan.images}",
        num_identities=plan.identities,
        images_per_identity=plan.images,
        verification_identities=min(120, plan.pairs // 2),
        num_pairs=plan.pairs,
        lfw_pairs_per_fold=plan.pairs // 20,
    )

    config = demo_config(plan, faces, out / "run")
    epochs = _affordable_epochs(config, plan)
    config = config.replace(epochs=epochs)
    print(f"2. Training {config.model.name} with {config.model.margin} for {epochs} epochs", flush=True)
    result = Trainer(config).fit(overwrite=True)

    print("3. Evaluating the best checkpoint, and an untrained network beside it", flush=True)
    network = load_trained(result.folder)
    transform = eval_transform(network.preprocessing)
    data = open_face_data(faces, train_transform=transform, eval_transform=transform)
    lfw = read_lfw_pairs(faces / "lfw" / "pairs.txt", faces / "lfw")
    if data.test is None or data.val_pairs is None or data.test_pairs is None:
        raise RuntimeError(f"{faces} is incomplete; remove it and start again")
    accuracy = classification_accuracy(network.model, data.test, head=network.head)
    validation = evaluate_pairs(network.model, data.val_pairs, flip="sum")
    protocol = evaluate_pairs(network.model, lfw, flip="sum")
    torch.manual_seed(0)
    from facezoo.models import create_model

    untrained = evaluate_pairs(create_model(**network.model.config), data.val_pairs)
    print(f"accuracy on held-out images: {accuracy}")
    print(
        f"validation pairs:\n{validation}\nLFW-style protocol:\n{protocol}\nuntrained network, validation pairs:\n{untrained}"
    )

    print("4. Writing the submission and the report", flush=True)
    scores = evaluate_pairs(network.model, data.test_pairs, flip="sum").scores
    submission = out / "submission.csv"
    write_submission(submission, term="F24", scores=scores, expected_rows=len(data.test_pairs))
    report = write_report(
        out / "report",
        title="facezoo demo on synthetic faces",
        facts={
            "model": config.model.name,
            "head": config.model.margin,
            "identities": plan.identities,
            "training images": plan.identities * plan.images,
            "epochs": epochs,
            "torch": torch.__version__,
        },
        verification={
            "validation pairs": validation,
            "LFW-style protocol": protocol,
            "validation pairs, untrained": untrained,
        },
        classification={"test": accuracy},
        training_log=result.folder / "epochs.csv",
        notes="Synthetic faces: the figures say that everything works, nothing about real faces.",
    )
    demo = DemoResult(faces, result.folder, submission, report.html, time.monotonic() - started)
    print(
        f"Done in {demo.seconds / 60:.1f} minutes.\n"
        f"  faces       {demo.faces}\n  run         {demo.run}  (best.safetensors, last.safetensors, epochs.csv, steps.csv)\n"
        f"  submission  {demo.submission}\n  report      {demo.report}"
    )
    return demo


def demo_config(plan: DemoPlan, faces: Path, run: Path) -> TrainConfig:
    """The settings of the demo's training."""
    return TrainConfig.from_options(
        data=str(faces),
        out=str(run),
        model="resnet18",
        stem="imagenet",
        img_size=plan.img_size,
        embedding_dim=256,
        margin="arcface",
        margin_options={"scale": 32.0, "margin": 0.2},
        epochs=plan.max_epochs,
        batch_size=64,
        lr=0.05,
        nesterov=True,
        warmup_epochs=1.0,
        augment="light",
        amp="bf16" if _fast_bfloat16() else "none",
        channels_last=True,
        num_workers=1,
        log_interval=10,
    )


def _affordable_epochs(config: TrainConfig, plan: DemoPlan) -> int:
    """Epochs that fit into the plan's time on this machine, from the time of a few updates."""
    from facezoo.training.trainer import Trainer

    with_probe = config.replace(out=config.output.folder + "-probe", stop_after=4, progress=False, num_workers=0)
    trainer = Trainer(with_probe)
    started = time.monotonic()
    trainer.fit(overwrite=True)
    per_update = (time.monotonic() - started) / 4
    for file in Path(with_probe.output.folder).iterdir():
        file.unlink()
    Path(with_probe.output.folder).rmdir()
    epochs = int(plan.seconds / (per_update * trainer.batches.updates_per_epoch))
    return max(3, min(plan.max_epochs, epochs))


def _fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware: CUDA, or a CPU with AMX or AVX-512 BF16."""
    if torch.cuda.is_available():
        return True
    flags = Path("/proc/cpuinfo")
    return flags.exists() and not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags.read_text(errors="ignore").split())
