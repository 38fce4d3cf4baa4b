"""``facezoo demo``: synthetic faces, a small network, every figure, a submission and a report, in minutes on two CPU cores."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from facezoo.courses import write_submission
from facezoo.data import eval_transform, open_face_data, read_lfw_pairs
from facezoo.devices import usable_cores
from facezoo.evaluation import (
    ClassificationAccuracy,
    PairEvaluation,
    classification_accuracy,
    evaluate_pairs,
    write_report,
)
from facezoo.training.config import TrainConfig
from facezoo.training.recipes import get_recipe

if TYPE_CHECKING:
    from facezoo.deploy import TrainedNetwork

TRAINED, UNTRAINED = "validation pairs, trained", "validation pairs, untrained"


@dataclass(frozen=True)
class DemoPlan:
    """The size of a demo.

    Attributes:
        identities: number of people to train on.
        images: training images per person.
        pairs: verification pairs in each list.
        img_size: side of the drawn images and of the input, pixels.
        max_epochs: epochs on a fast machine.
        seconds: time for the training. A slow machine trains fewer epochs, but at least ``MIN_EPOCHS``.
        difficulty: fraction in [0, 1]; how much pose, light, expression and occlusion vary, see ``SyntheticFaces``.
        seed: seed of the drawn people and of the training.
        batch_size: images in an update; fewer make more updates of the same work.
    """

    identities: int
    images: int
    pairs: int
    img_size: int
    max_epochs: int
    seconds: float
    difficulty: float = 0.4
    seed: int = 0
    batch_size: int = 64


FULL = DemoPlan(identities=150, images=16, pairs=1000, img_size=64, max_epochs=8, seconds=180.0)
FAST = DemoPlan(
    identities=40, images=12, pairs=200, img_size=48, max_epochs=8, seconds=180.0, batch_size=16, difficulty=0.3
)  # small and easy enough that a minute's training names people of a gallery
MIN_EPOCHS = 5  # EER 11 %; with fewer it hardly learns, so a very slow machine trains for longer than planned


@dataclass(frozen=True)
class DemoResult:
    """The files of the demo, and the figures of its two networks.

    Attributes:
        faces: the synthetic data, in the HW2P2 layout.
        run: run folder with checkpoints and logs.
        submission: Kaggle file of the test pairs.
        report: the report as one HTML file.
        trained: figures of the validation pairs for the trained network; its people were never trained on.
        untrained: the same figures, computed in the same way, for the network before training.
        epochs: epochs trained.
        seconds: total time.
    """

    faces: Path
    run: Path
    submission: Path
    report: Path
    trained: PairEvaluation
    untrained: PairEvaluation
    epochs: int
    seconds: float


def run_demo(out: str | Path, *, fast: bool = False, plan: DemoPlan | None = None) -> DemoResult:
    """Run the demo. It replaces the files of an earlier demo in ``out``, but reuses its faces.

    Args:
        out: folder of all files.
        fast: a demo of about one minute, for a first look and for tests.
        plan: the size of the demo; None for ``FAST`` or ``FULL``, depending on ``fast``.

    Returns:
        The files and the figures, which are also printed.
    """
    from facezoo.deploy import load_trained
    from facezoo.training.trainer import Trainer

    started = time.monotonic()
    plan, out = plan or (FAST if fast else FULL), Path(out)
    print(f"facezoo demo: torch {torch.__version__}, {torch.get_num_threads()} threads, into {out}", flush=True)

    print(f"1. Drawing {plan.identities} synthetic people to train on, and others to verify", flush=True)
    faces = _draw(plan, out)

    config = demo_config(plan, faces, out / "run")
    print("2. Training: measuring how many epochs this machine has time for", flush=True)
    epochs = _affordable_epochs(config, plan)
    config = config.replace(epochs=epochs)
    print(f"   {config.model.name} with {config.model.margin}, {_extent(epochs, plan)}", flush=True)
    result = Trainer(config).fit(overwrite=True)

    print("3. Evaluating the trained network, and the same network before training beside it", flush=True)
    network = load_trained(result.folder)
    figures = _evaluate(network, faces, plan.seed)
    verdict = _verdict(figures)
    for name, value in {
        **figures.verification,
        "accuracy on other images of the people trained on": figures.accuracy,
    }.items():
        print(f"{name}:\n{value}")
    print(verdict, flush=True)

    print("4. Writing the submission and the report", flush=True)
    submission = out / "submission.csv"
    write_submission(submission, term="F24", scores=figures.test_scores, expected_rows=len(figures.test_scores))
    report = write_report(
        out / "report",
        title="facezoo demo on synthetic faces",
        facts=_facts(config, plan, epochs),
        verification=figures.verification,
        classification={"test": figures.accuracy},
        training_log=result.folder / "epochs.csv",
        notes=f"{verdict} Training: {_extent(epochs, plan)}. Nobody in the verification pairs was trained on. "
        "Synthetic faces: the figures say that everything works, nothing about real faces.",
    )
    trained, untrained = figures.verification[TRAINED], figures.verification[UNTRAINED]
    seconds = time.monotonic() - started
    print(
        f"Done in {seconds / 60:.1f} minutes.\n"
        f"  faces       {faces}\n  run         {result.folder}  (best.safetensors, last.safetensors, epochs.csv, steps.csv)\n"
        f"  submission  {submission}\n  report      {report.html}"
    )
    return DemoResult(faces, result.folder, submission, report.html, trained, untrained, epochs, seconds)


@dataclass(frozen=True)
class _Figures:
    """Figures of the demo's networks."""

    accuracy: ClassificationAccuracy
    verification: dict[str, PairEvaluation]
    test_scores: torch.Tensor


def _draw(plan: DemoPlan, out: Path) -> Path:
    """Draw the faces of the plan to disk, with one process per core."""
    from facezoo.synthetic import write_synthetic_faces

    cores = usable_cores()
    many = plan.identities * plan.images > 1000  # for fewer images, starting processes takes longer than drawing
    return write_synthetic_faces(
        out / f"faces-{plan.identities}x{plan.images}-{plan.img_size}px-{plan.seed}",
        num_identities=plan.identities,
        images_per_identity=plan.images,
        dev_images=2,
        test_images=2,
        verification_identities=min(120, plan.pairs // 2),
        num_pairs=plan.pairs,
        lfw_images=4,
        lfw_pairs_per_fold=plan.pairs // 20,
        size=plan.img_size,
        difficulty=plan.difficulty,
        seed=plan.seed,
        num_workers=min(cores, 8) if many and cores > 1 else 0,
    )


def _evaluate(network: TrainedNetwork, faces: Path, seed: int) -> _Figures:
    """All figures of the trained network and of the same network before training, computed in the same way."""
    from facezoo.models import create_model

    transform = eval_transform(network.preprocessing)
    data = open_face_data(faces, train_transform=transform, eval_transform=transform)
    lfw = read_lfw_pairs(faces / "lfw" / "pairs.txt", faces / "lfw")
    if data.test is None or data.val_pairs is None or data.test_pairs is None:
        raise RuntimeError(f"{faces} is incomplete; remove it and start again")
    torch.manual_seed(seed)
    before = create_model(**network.model.config)
    verification = {
        f"{pairs}, {state}": evaluate_pairs(model, lists, flip="sum", progress=True)
        for pairs, lists in (("validation pairs", data.val_pairs), ("LFW-style protocol", lfw))
        for state, model in (("trained", network.model), ("untrained", before))
    }
    accuracy = classification_accuracy(network.model, data.test, head=network.head)
    scores = evaluate_pairs(network.model, data.test_pairs, flip="sum", progress=True).scores
    return _Figures(accuracy, verification, scores)


def demo_config(plan: DemoPlan, faces: Path, run: Path) -> TrainConfig:
    """The settings of the demo's training: the recipe ``tiny-cpu`` with smaller images and batches."""
    recipe: TrainConfig = get_recipe("tiny-cpu").config()
    return recipe.replace(
        data=str(faces),
        out=str(run),
        img_size=plan.img_size,
        epochs=plan.max_epochs,
        batch_size=plan.batch_size,
        best_metric="last",
        amp="bf16" if _fast_bfloat16() else "none",
        num_workers=1 if torch.get_num_threads() > 1 else 0,
        log_interval=10,
        seed=plan.seed,
    )


def _affordable_epochs(config: TrainConfig, plan: DemoPlan) -> int:
    """Number of epochs that fit into the plan's time on this machine, measured with some updates."""
    from facezoo.training.trainer import Trainer

    seconds, updates = [], (1, 7)
    probe = config.replace(out=config.output.folder + "-probe", progress=False, num_workers=0)
    try:
        for number in updates:  # the first update includes one-time costs and is not counted
            trainer = Trainer(probe.replace(stop_after=number))
            started = time.monotonic()
            trainer.fit(overwrite=True)
            seconds.append(time.monotonic() - started)
    finally:
        shutil.rmtree(probe.output.folder, ignore_errors=True)
    per_update = max(seconds[1] - seconds[0], 1e-6) / (updates[1] - updates[0])
    affordable = plan.seconds / (per_update * trainer.batches.updates_per_epoch)
    return max(min(MIN_EPOCHS, plan.max_epochs), int(min(plan.max_epochs, affordable)))


def _extent(epochs: int, plan: DemoPlan) -> str:
    """The length of the training, and whether it was cut short, in words."""
    if epochs == plan.max_epochs:
        return f"{epochs} epochs"
    return f"{epochs} of {plan.max_epochs} epochs, cut short: this machine has no time for more in {plan.seconds:.0f} s"


def _verdict(figures: _Figures) -> str:
    """One sentence on whether the training helped, from the two EERs and their intervals."""
    after, before = figures.verification[TRAINED].metrics, figures.verification[UNTRAINED].metrics
    if after is None or before is None:
        raise RuntimeError("the validation pairs have no labels")
    sentence = (
        f"EER on the validation pairs {100 * after.eer:.1f} % "
        f"({100 * after.eer_interval[0]:.1f} to {100 * after.eer_interval[1]:.1f}) after training, "
        f"{100 * before.eer:.1f} % ({100 * before.eer_interval[0]:.1f} to {100 * before.eer_interval[1]:.1f}) before."
    )
    if after.eer_interval[1] < before.eer_interval[0]:
        return sentence
    return f"{sentence} The intervals touch: this training was too short to show that the network learned."


def _facts(config: TrainConfig, plan: DemoPlan, epochs: int) -> Mapping[str, str | int]:
    return {
        "model": config.model.name,
        "head": config.model.margin,
        "identities": plan.identities,
        "training images": plan.identities * plan.images,
        "image size": f"{plan.img_size} pixels",
        "epochs": _extent(epochs, plan),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 matrices in hardware: CUDA, or a CPU with AMX or AVX-512 BF16."""
    if torch.cuda.is_available():
        return True
    flags = Path("/proc/cpuinfo")
    return flags.exists() and not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags.read_text(errors="ignore").split())
