from __future__ import annotations

import csv
import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny_faces
from facezoo.cli import main
from facezoo.training import NonFiniteLossError, Trainer, TrainingDataError, TrainingInterrupted, load_trained
from facezoo.training.distributed import Distributed
from facezoo.training.trainer import Trainer as TrainerClass
from facezoo.training.validation import validate
from facezoo.weights import CheckpointError, read_file
from ranks import command_on_ranks, free_port

GOLDEN = Path(__file__).with_name("golden_curve.json")


def losses(folder: Path) -> list[tuple[int, str, str]]:
    """(update, loss, learning rate) of every row of steps.csv; as text, so that a comparison is bit for bit."""
    with (folder / "steps.csv").open() as file:
        return [(int(row["update"]), row["loss"], row["lr"]) for row in csv.DictReader(file)]


def same_tensors(first: Path, second: Path) -> None:
    (a, meta_a), (b, meta_b) = read_file(first), read_file(second)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    state_a, state_b = json.loads(meta_a["state"]), json.loads(meta_b["state"])
    assert {**state_a, "seconds": 0} == {**state_b, "seconds": 0}


# -- what a run leaves behind --------------------------------------------------------------------------------------------------


def test_learns_and_leaves_a_usable_run(config):
    settings = config(epochs=10, lr=0.01, ema_decay=0.5, channels_last=True)
    result = Trainer(settings).fit()
    assert result.finished
    assert (result.epochs, result.updates) == (10, 50)
    assert result.history[-1]["train_loss"] < 0.5 * result.history[0]["train_loss"]
    assert result.history[-1]["dev_accuracy"] >= 0.8  # chance: 0.2
    assert result.best_metric == "eer"
    assert result.best_value == pytest.approx(min(row["eer"] for row in result.history))
    assert result.best_value == pytest.approx(result.history[result.best_epoch - 1]["eer"])
    assert json.loads((result.folder / "config.json").read_text()) == settings.to_dict()
    network = load_trained(result.folder)
    assert network.path == result.best
    assert network.classes == tuple(f"id{index}" for index in range(5))
    assert network.metrics["eer"] == pytest.approx(result.best_value)
    assert not network.model.training
    assert network.head.logits(network.model(torch.zeros(2, 3, 16, 16))).shape == (2, 5)


def test_best_holds_the_averaged_weights_and_last_both(config):
    result = Trainer(config(ema_decay=0.5, best_metric="last")).fit()
    best, _ = read_file(result.best)
    last, _ = read_file(result.last)
    name = "model.head.embedding.weight" if "model.head.embedding.weight" in last else next(iter(best))
    assert torch.equal(best[name], last[f"average.{name}"])
    assert not torch.equal(best[name], last[name])
    assert not any(key.startswith("optimizer.") for key in best)
    trained = load_trained(result.last)
    key = name.removeprefix("model.")
    assert torch.equal(trained.model.state_dict()[key], last[f"average.{name}"])


def test_average_is_told_the_number_of_updates(config, monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr("facezoo.training.ema.WeightAverage.update", lambda self, module, updates: seen.append(updates))
    Trainer(config(epochs=1, ema_decay=0.9)).fit()
    assert seen == [1, 2, 3, 4, 5]


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16")
@pytest.mark.parametrize(
    "fields",
    [
        {"margin": "linear", "margin_options": {}, "optimizer": "adamw", "lr": 1e-3, "label_smoothing": 0.1},
        {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "clip_grad_norm": 1.0, "amp": "bf16"},
        {"margin": "vpl", "margin_options": {"scale": 16.0, "start": 1}, "mixup_alpha": 0.4, "accumulation": 2},
        {"joint": {"center": 0.01, "triplet": 0.1}, "nesterov": True, "best_metric": "combined"},
        {"model": "tiny_convnext", "drop_path_rate": 0.2, "drop_rate": 0.1, "grad_checkpointing": True},
    ],
)
def test_options_train(config, fields):
    result = Trainer(config(epochs=1, **fields)).fit()
    assert math.isfinite(result.history[0]["train_loss"])
    assert 0 <= result.history[0]["train_accuracy"] <= 1


def test_golden_curve(config):
    """The losses of a fixed training. A refactoring must reproduce them; a change on purpose writes new ones (see the assert)."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.randn(4, 3, 16, 16, generator=generator)
    labels = torch.arange(40) % 4
    images = patterns[labels] + 0.3 * torch.randn(40, 3, 16, 16, generator=generator)

    class Faces(torch.utils.data.Dataset):
        samples = tuple((f"{index}.jpg", int(label)) for index, label in enumerate(labels))

        def __len__(self):
            return len(labels)

        def __getitem__(self, index):
            return images[index], int(labels[index])

    data = SimpleNamespace(train=Faces(), dev=None, val_pairs=None, classes=("a", "b", "c", "d"))
    settings = config(epochs=4, weight_decay=1e-3, clip_grad_norm=5.0, best_metric="last")
    result = Trainer(settings, data=data).fit()
    curve = [float(loss) for _, loss, _ in losses(result.folder)]
    assert len(curve) == 20
    if os.environ.get("FACEZOO_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps([round(loss, 6) for loss in curve], indent=1) + "\n")
    assert curve == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-3, abs=1e-3)


# -- going on ------------------------------------------------------------------------------------------------------------------

EVERYTHING = {
    "augment": "strong",
    "mixup_alpha": 0.2,
    "ema_decay": 0.9,
    "drop_rate": 0.2,
    "checkpoint_updates": 3,
    "epochs": 3,
    "joint": {"cosface": {"weight": 0.5, "lr_scale": 0.5}},
    "freeze": ["stem"],
    "unfreeze": {"stem": 2},
    "schedule": "wsd",
}


def test_killed_in_the_middle_of_an_epoch_and_resumed_gives_the_same_curve(config, environment, tmp_path):
    whole = Trainer(config(**EVERYTHING, out=str(tmp_path / "whole"))).fit()
    settings = config(**EVERYTHING, out=str(tmp_path / "killed"), num_workers=1)
    settings.save(tmp_path / "settings.json")
    command = [
        sys.executable,
        "-m",
        "facezoo",
        "--import",
        "tiny_faces",
        "train",
        "--config",
        str(tmp_path / "settings.json"),
    ]
    killed = subprocess.run(command, env={**environment, "FACEZOO_TEST_KILL_AT": "8"}, capture_output=True, timeout=900)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert [update for update, _, _ in losses(tmp_path / "killed")] == list(range(1, 8))
    _, metadata = read_file(tmp_path / "killed" / "last.safetensors")
    state = json.loads(metadata["state"])
    assert (state["updates"], state["epoch"], state["position"]) == (6, 1, 8)  # in the middle of the second epoch
    resumed = Trainer(settings.replace(num_workers=0)).fit(resume=True)
    assert losses(resumed.folder) == losses(whole.folder)
    same_tensors(resumed.last, whole.last)
    same_tensors(resumed.best, whole.best)
    different = ("train_seconds", "eval_seconds", "images_per_second")
    for mine, theirs in zip(resumed.history, whole.history, strict=True):
        assert {k: v for k, v in mine.items() if k not in different} == {
            k: v for k, v in theirs.items() if k not in different
        }


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_says_how_to_resume(config, monkeypatch, number):
    monkeypatch.setattr(TrainerClass, "_after_update", TrainerClass._after_update)  # undo what send_signal_at does
    tiny_faces.send_signal_at(7, number)
    handler = signal.getsignal(number)
    settings = config(checkpoint_minutes=None)
    with pytest.raises(TrainingInterrupted, match="facezoo train --resume --out") as caught:
        Trainer(settings).fit()
    assert caught.value.signal == number
    assert signal.getsignal(number) is handler
    _, metadata = read_file(Path(settings.output.folder) / "last.safetensors")
    assert json.loads(metadata["state"])["updates"] == 7


PK = {
    "sampler": "pk",
    "images_per_identity": 2,
    "joint": {
        "triplet": {"weight": 0.5, "warmup": 6},
        "contrastive": {"weight": 0.1, "memory": 21, "memory_delay": 2, "delay": 3, "initial": 0.05, "shape": "cosine"},
        "center": 0.01,
        "soft_triple": 0.1,
    },
    "joint_options": {"triplet": {"mining": "distance_weighted"}},
    "augment": "light",
    "ema_decay": 0.9,
    "accumulation": 2,
}


@pytest.mark.parametrize("fields", [{}, PK], ids=["shuffle", "pk"])
def test_stop_after_is_resumable(config, tmp_path, fields):
    whole = Trainer(config(**fields, out=str(tmp_path / "whole"))).fit()
    first = Trainer(config(**fields, stop_after=7)).fit()
    assert (first.finished, first.epochs, first.updates) == (False, 1, 7)
    second = Trainer(config(**fields)).fit(resume=True)
    assert second.finished
    assert losses(second.folder) == losses(whole.folder)
    same_tensors(second.last, whole.last)


def test_resume_of_a_finished_run_trains_nothing(config):
    first = Trainer(config(epochs=1)).fit()
    before = first.last.read_bytes()
    again = Trainer(config(epochs=1)).fit(resume=True)
    assert again.updates == first.updates
    assert again.last.read_bytes() == before


def test_resume_with_other_settings_names_them(config):
    Trainer(config(stop_after=2)).fit()
    with pytest.raises(CheckpointError, match=r"lr: 0.05 in the run, 0.2 asked for; .*momentum: 0.9 in the run, 0.5"):
        Trainer(config(lr=0.2, momentum=0.5, num_workers=0, log_interval=7)).fit(resume=True)


def test_resume_with_other_classes_is_refused(config, faces, tmp_path):
    other = tmp_path / "faces"
    shutil.copytree(faces, other)
    settings = config(data=str(other), stop_after=2)
    Trainer(settings).fit()
    for split in ("train", "dev", "test"):
        (other / "cls_data" / split / "id0").rename(other / "cls_data" / split / "someone")
    with pytest.raises(CheckpointError, match=r"it was trained on \d+ classes that are not"):
        Trainer(settings).fit(resume=True)


def test_a_run_is_never_overwritten_by_accident(config):
    first = Trainer(config(epochs=1)).fit()
    before = first.last.read_bytes()
    with pytest.raises(FileExistsError, match=r"--resume.*--overwrite.*--out"):
        Trainer(config(epochs=1)).fit()
    assert first.last.read_bytes() == before
    (first.folder / "notes.txt").write_text("mine")
    Trainer(config(epochs=1, seed=1)).fit(overwrite=True)
    assert first.last.read_bytes() != before
    assert (first.folder / "notes.txt").read_text() == "mine"


# -- what goes wrong -----------------------------------------------------------------------------------------------------------


def test_nan_stops_and_leaves_last_alone(config, monkeypatch):
    own = TrainerClass._forward

    def forward(self, images, labels, generator):
        loss = own(self, images, labels, generator)
        return loss * float("nan") if self.state.updates == 6 else loss

    monkeypatch.setattr(TrainerClass, "_forward", forward)
    settings = config(log_interval=4, epochs=3)
    with pytest.raises(
        NonFiniteLossError, match=r"loss is nan at update 7 \(epoch 2, learning rate .*last.safetensors"
    ):
        Trainer(settings).fit()
    tensors, metadata = read_file(Path(settings.output.folder) / "last.safetensors")
    assert json.loads(metadata["state"])["updates"] == 5
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_nan_that_a_gradient_left_in_the_weights(config, monkeypatch):
    own = TrainerClass._update

    def update(self, micro_batches):
        if self.state.updates == 6:
            with torch.no_grad():
                next(self.objective.model.parameters()).fill_(float("nan"))
        return own(self, micro_batches)

    monkeypatch.setattr(TrainerClass, "_update", update)
    with pytest.raises(
        NonFiniteLossError, match=r"loss is nan at update 7 .*NaN in the embeddings, row 0.*last.safetensors"
    ):
        Trainer(config(log_interval=4, epochs=3)).fit()


def test_weights_that_are_not_finite_are_never_saved(config):
    trainer = Trainer(config(epochs=1))
    trainer.fit()
    before = trainer.last.read_bytes()
    with torch.no_grad():
        trainer.objective.head.weight[0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"head\.weight"):
        trainer._save_last()
    assert trainer.last.read_bytes() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_image_names_the_file_and_loses_nothing(config, faces, tmp_path, workers):
    broken = tmp_path / "faces"
    shutil.copytree(faces, broken)
    victim = broken / "cls_data" / "train" / "id2" / "id2_train_3.jpg"
    content = victim.read_bytes()
    victim.write_bytes(content[: len(content) // 2])
    settings = config(data=str(broken), num_workers=workers)
    with pytest.raises(
        TrainingDataError, match=r"id2_train_3\.jpg.*Resume with: facezoo train --resume --out"
    ) as caught:
        Trainer(settings).fit()
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    victim.write_bytes(content)
    resumed = Trainer(settings).fit(resume=True)
    whole = Trainer(config(out=str(tmp_path / "whole"))).fit()
    assert losses(resumed.folder) == losses(whole.folder)


def test_the_process_ends_after_a_truncated_image(config, faces, environment, tmp_path):
    """Workers that ignore signals must not keep the interpreter from exiting."""
    broken = tmp_path / "faces"
    shutil.copytree(faces, broken)
    victim = broken / "cls_data" / "train" / "id2" / "id2_train_3.jpg"
    victim.write_bytes(victim.read_bytes()[:200])
    config(data=str(broken), num_workers=1).save(tmp_path / "settings.json")
    command = [sys.executable, "-m", "facezoo", "--import", "tiny_faces", "train", "--config"]
    done = subprocess.run(
        [*command, str(tmp_path / "settings.json")], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 2
    assert victim.name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_image_of_the_evaluation_loses_nothing(config, faces, tmp_path, workers):
    broken = tmp_path / "faces"
    shutil.copytree(faces, broken)
    victim = sorted((broken / "cls_data" / "dev" / "id2").iterdir())[-1]
    content = victim.read_bytes()
    victim.write_bytes(content[:200])
    settings = config(data=str(broken), num_workers=workers, checkpoint_minutes=None)
    with pytest.raises(TrainingDataError, match=victim.name + r".*Resume with: facezoo train --resume --out") as caught:
        Trainer(settings).fit()
    assert "\n" not in str(caught.value)
    assert not multiprocessing.active_children()
    victim.write_bytes(content)
    trainer = Trainer(settings)
    _, metadata = read_file(tmp_path / "run" / "last.safetensors")
    assert (
        json.loads(metadata["state"])["updates"] == trainer.batches.updates_per_epoch
    )  # the epoch's training is in it
    resumed = trainer.fit(resume=True)
    whole = Trainer(config(out=str(tmp_path / "whole"))).fit()
    assert losses(resumed.folder) == losses(whole.folder)
    assert [row["eer"] for row in resumed.history] == [row["eer"] for row in whole.history]


def test_data_errors_come_before_the_training(config, faces, tmp_path):
    (tmp_path / "a").mkdir()
    shutil.copytree(faces, tmp_path / "empty")
    (tmp_path / "empty" / "cls_data" / "train" / "id9").mkdir()
    with pytest.raises(ValueError, match="id9"):
        Trainer(config(data=str(tmp_path / "empty")))
    shutil.copytree(faces, tmp_path / "pairs")
    (tmp_path / "pairs" / "ver_data" / "v3a.jpg").unlink()
    with pytest.raises(ValueError, match=r"v3a\.jpg"):
        Trainer(config(data=str(tmp_path / "pairs")))
    assert not (tmp_path / "run").exists()


def test_settings_that_do_not_fit(config):
    with pytest.raises(ValueError, match=r"parameters .*head .*exceed max_params=1,000"):
        Trainer(config(max_params=1000))
    with pytest.raises(ValueError, match="do not fill one batch of 64"):
        Trainer(config(batch_size=64))
    with pytest.raises(ValueError, match="fp16"):
        Trainer(config(amp="fp16"))
    with pytest.raises(ValueError, match="cross_entropy"):
        Trainer(config(joint={"cross_entropy": 1.0}))
    with pytest.raises(ValueError, match="needs 8 identities; there are 5 of 5"):
        Trainer(config(sampler="pk", images_per_identity=1))
    with pytest.raises(TypeError, match="ProxyNCALoss does not"):
        Trainer(config(joint={"proxy_nca": {"weight": 1, "memory": 8}}))
    with pytest.raises(ValueError, match="rotation"):
        Trainer(config(augment_options={"rotatoin": 3}))
    with pytest.raises(ValueError, match="rotation"):
        Trainer(config(augment_late_options={"rotatoin": 3}))
    with pytest.raises(ValueError, match=r"margin_options repeats \['num_classes'\]"):
        Trainer(config(margin_options={"num_classes": 3}))


def test_drop_block_ramps_up_with_the_updates(config, monkeypatch):
    trainer = Trainer(config(epochs=1))
    seen: list[float] = []
    monkeypatch.setattr(trainer.objective.model, "set_drop_block_progress", seen.append)
    object.__setattr__(trainer.config.model, "drop_block_rate", 0.1)
    monkeypatch.setattr(trainer, "_forward", lambda *_: sum(p.sum() for p in trainer.objective.parameters()) * 0.0)
    trainer.fit()
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0]


# -- fine-tuning ---------------------------------------------------------------------------------------------------------------


def test_fine_tuning_starts_from_the_checkpoint(config, tmp_path):
    first = Trainer(config(margin="linear", margin_options={}, epochs=10, lr=0.01, out=str(tmp_path / "first"))).fit()
    trainer = Trainer(config(init_checkpoint=str(first.best), init_head="checkpoint"))
    trained = load_trained(first.best)
    for name, value in trained.model.state_dict().items():
        assert torch.equal(trainer.objective.model.state_dict()[name], value), name
    assert torch.equal(trainer.objective.head.weight, trained.head.weight)
    means = Trainer(config(init_checkpoint=str(first.folder), init_head="class_means"))
    accuracy = means._evaluate()["dev_accuracy"]
    assert accuracy >= 0.8  # nearest class mean, before any update
    assert Trainer(config(init_checkpoint=str(first.best)))._evaluate()["dev_accuracy"] < accuracy  # random centers


def test_joint_and_sequential_training_from_the_command_line(faces, tmp_path):
    """The two ways: all losses at once, or one training after the other."""
    common = [str(faces), "--model", "tiny_face", "--img-size", "16", "--embedding-dim", "8", "--augment", "none"]
    common += ["--epochs", "1", "--batch-size", "8", "--num-workers", "0", "--device", "cpu", "--no-progress"]
    pairs = ["--sampler", "pk", "--images-per-identity", "2"]
    joint, sequential = str(tmp_path / "joint"), str(tmp_path / "sequential")
    schedule = 'center={"weight": 0.01, "warmup": 3}'
    assert main(["train", *common, "--margin", "linear", "--joint", schedule, "--out", joint]) == 0
    first, _ = read_file(tmp_path / "joint" / "best.safetensors")
    assert first["joint.steps"] == 4
    assert first["joint.parts.center.centers"].abs().sum() > 0
    start = ["--init-checkpoint", joint, "--init-head", "class_means", "--margin-options", "scale=16"]
    more = ["--joint", "triplet=0.1", "multi_similarity=0.1", "--lr", "1e-6"]
    assert main(["train", *common, *pairs, *start, *more, "--out", sequential]) == 0
    second, _ = read_file(tmp_path / "sequential" / "best.safetensors")
    assert load_trained(sequential).head.name == "arcface"
    weights = [name for name in first if name.startswith("model.") and name.endswith("weight")]
    torch.testing.assert_close([second[name] for name in weights], [first[name] for name in weights], atol=1e-4, rtol=0)
    turned = {}  # how far the centers are from those that the run before ended with: the same, or drawn anew
    for kind in ("checkpoint", "none"):
        start = ["--init-checkpoint", sequential, "--init-head", kind, "--margin-options", "scale=16"]
        assert main(["train", *common, *pairs, *start, *more, "--out", str(tmp_path / kind)]) == 0
        centers = read_file(tmp_path / kind / "best.safetensors")[0]["head.weight"]
        turned[kind] = 1 - torch.nn.functional.cosine_similarity(centers, second["head.weight"])
    assert turned["checkpoint"].max() < 1e-3 < 0.1 < turned["none"].max()


def test_class_sizes_are_those_of_the_own_training_set(config, faces, tmp_path):
    """Not those of the run that the centers come from."""
    few = tmp_path / "few"
    shutil.copytree(faces, few)
    train = few / "cls_data" / "train"
    for image in sorted((train / "id2").iterdir())[1:] + sorted((train / "id4").iterdir())[5:]:
        image.unlink()
    sizes = {"margin": "dyn_arcface", "margin_options": {"scale": 16.0}, "epochs": 1, "ema_decay": 0.5}
    first = Trainer(config(**sizes, out=str(tmp_path / "first"))).fit()
    assert load_trained(first.best).head.class_counts.tolist() == [8] * 5
    settings = config(
        **sizes,
        data=str(few),
        init_checkpoint=str(first.best),
        init_head="checkpoint",
        sample_rate=0.8,
        optimizer_in_backward=True,
    )
    second = Trainer(settings.replace(stop_after=1))
    assert torch.equal(second.objective.head.weight, load_trained(first.best).head.weight)
    second.fit()
    resumed = Trainer(settings)
    assert resumed.fit(resume=True).finished
    for head in (second.objective.head, resumed.objective.head, load_trained(resumed.best).head):
        assert head.class_counts.tolist() == [8, 8, 1, 8, 5]


def test_ranks_mix_alike_and_drop_out_differently(config, monkeypatch):
    """What multiplies the loss of a whole batch, and how often a head over all ranks is called, is the same on them all."""
    trainer = Trainer(config(mixup_alpha=0.4, cutmix_alpha=0.4))
    mixed, noise = [], []

    def network(images, labels_a, labels_b, lam):
        mixed.append((lam, labels_b.tolist(), images))
        noise.append(torch.rand(()).item())
        return trainer.objective(images, labels_a, labels_b, lam)

    monkeypatch.setattr(trainer, "network", network)
    monkeypatch.setattr(trainer, "_sample_accuracy", lambda *_: None)
    batch = (torch.randn(8, 3, 16, 16), torch.arange(8) % 5)
    for rank in range(2):
        monkeypatch.setattr(trainer, "dist", dataclasses.replace(trainer.dist, rank=rank, world_size=2))
        trainer._update([batch, batch])
    assert mixed[0][:2] == mixed[2][:2] != mixed[1][:2] == mixed[3][:2]
    assert torch.equal(mixed[0][2], mixed[2][2])
    assert len(set(noise)) == 4


def test_fine_tuning_from_another_network_is_refused(config, tmp_path):
    first = Trainer(config(epochs=1, out=str(tmp_path / "first"))).fit()
    with pytest.raises(CheckpointError, match=r"best\.safetensors") as caught:
        Trainer(config(model="tiny_convnext", embedding_dim=6, init_checkpoint=str(first.best)))
    assert "(on the command line, name that one with --model NAME)" in str(caught.value)
    assert 'Its header describes create_model("tiny_face", embedding_dim=8' in str(caught.value)
    assert "(on the command line --model tiny_face --embedding-dim 8" in str(caught.value)
    with pytest.raises(CheckpointError, match="does not exist"):
        Trainer(config(init_checkpoint=str(tmp_path / "none.safetensors")))


# -- batches in pieces ---------------------------------------------------------------------------------------------------------

WHOLE = {
    "model": "tiny_convnext",
    "augment": "none",
    "epochs": 2,
    "drop_last": False,
    "batch_size": 12,
}  # 40 images: 3 1/3 batches


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors, _ = read_file(folder / "last.safetensors")
    return {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}


@pytest.mark.parametrize(
    ("margin", "options"),
    [("arcface", {"scale": 16.0, "margin": 0.2}), ("sphereface", {"lambda_max": 20.0, "warmup_steps": 6})],
)
def test_accumulation_equals_one_big_batch_also_at_the_end_of_an_epoch(config, tmp_path, margin, options):
    """And schedules of the margin go by updates."""
    settings = {**WHOLE, "margin": margin, "margin_options": options}
    whole = Trainer(config(**settings, out=str(tmp_path / "whole"))).fit()
    pieces = Trainer(config(**settings, accumulation=4, out=str(tmp_path / "pieces"))).fit()
    assert whole.updates == pieces.updates == 8
    for (_, loss, _), (_, summed, _) in zip(losses(whole.folder), losses(pieces.folder), strict=True):
        assert float(summed) == pytest.approx(float(loss), rel=1e-3)
    torch.testing.assert_close(final_weights(pieces.folder), final_weights(whole.folder), rtol=1e-4, atol=1e-6)


@pytest.mark.ci
def test_two_ranks_equal_one(config, environment, tmp_path):
    """Also with a last batch that is not full (40 images in batches of 12), accumulation, a thawing part and a second head.

    In float64, where the order of the additions, which is another on two ranks, is all that may differ, and cannot be seen.
    """
    own = {**WHOLE, "freeze": ["stem"], "unfreeze": {"stem": 2}, "joint": {"cosface": 0.5}}
    own["joint_options"] = {"cosface": {"scale": 16.0, "margin": 0.2}}
    with tiny_faces.in_float64():
        whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    settings = config(**own, accumulation=2, out=str(tmp_path / "ranks"))
    settings.save(tmp_path / "settings.json")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    command += ["-m", "facezoo", "--import", "tiny_faces", "train", "--config", str(tmp_path / "settings.json")]
    wide = {**environment, "FACEZOO_TEST_FLOAT64": "1"}
    done = subprocess.run(command, env=wide, capture_output=True, timeout=900, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = final_weights(whole.folder)
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.float64}
    torch.testing.assert_close(final_weights(tmp_path / "ranks"), weights, rtol=1e-9, atol=1e-11)
    alone, together = whole.history[-1], _last_row(tmp_path / "ranks")
    assert float(together["train_loss"]) == pytest.approx(alone["train_loss"], rel=1e-6)
    assert 0.0 < alone["train_accuracy"] < 1.0
    assert float(together["train_accuracy"]) == alone["train_accuracy"]  # of the images of both
    # Scores that differ by rounding can stand in another order, so these two are compared at equal weights.
    trained = load_trained(tmp_path / "ranks" / "last.safetensors")
    figures = validate(trained.model, trained.head, Trainer(settings).data, settings, torch.device("cpu"))
    for name in ("dev_accuracy", "eer"):
        assert float(together[name]) == pytest.approx(figures[name], abs=1e-6)


def test_class_centers_spread_over_ranks_equal_one(config, tmp_path):
    """Begun on one rank, continued on two with the centers in parts (through an evaluation), ended on one."""
    margin = {"margin": "dyn_arcface", "margin_options": {"scale": 16.0}}  # which depends on the sizes of all classes
    first = Trainer(config(**{**WHOLE, **margin, "epochs": 1}, out=str(tmp_path / "first"))).fit()
    settings = {**WHOLE, "accumulation": 2, "clip_grad_norm": 0.5, "ema_decay": 0.5, "log_interval": 3, "momentum": 0.8}
    settings |= margin
    settings |= {"init_checkpoint": str(first.best), "init_head": "checkpoint"}
    whole = Trainer(config(**settings, out=str(tmp_path / "whole"))).fit()
    out = tmp_path / "parts"
    Trainer(config(**settings, out=str(out), stop_after=3)).fit()
    config(**settings, out=str(out), stop_after=6, head_parallel=True).save(tmp_path / "settings.json")
    command_on_ranks(["--import", "tiny_faces", "train", "--resume", "--config", str(tmp_path / "settings.json")], 2)
    tensors, metadata = read_file(out / "last.safetensors")
    assert json.loads(metadata["state"])["updates"] == 6
    for name in ("head.weight", "average.head.weight", "optimizer.head.weight.momentum_buffer"):
        assert tensors[name].shape == (5, 8)
    ended = Trainer(config(**settings, out=str(out))).fit(resume=True)
    torch.testing.assert_close(final_weights(out), final_weights(whole.folder), rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(ended.history, whole.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert mine["dev_accuracy"] == pytest.approx(theirs["dev_accuracy"], abs=1.01 / 10)  # one image, by rounding
        assert mine["train_accuracy"] == pytest.approx(theirs["train_accuracy"], abs=1.01 / 40)
    assert tensors["head.class_counts"].tolist() == [8] * 5
    best = load_trained(ended.best)
    assert best.head.logits(torch.zeros(2, 8)).shape == (2, 5)


# -- optimizer in the backward pass ----------------------------------------------------------------------------------------------


def test_optimizer_in_backward_on_several_ranks_needs_parted_centers(config):
    with pytest.raises(ValueError, match="on 2 processes needs head_parallel: each would step its own class centers"):
        Trainer(config(optimizer_in_backward=True), process=Distributed(0, 2, torch.device("cpu")))


@pytest.mark.parametrize("fields", [{"nesterov": True}, {"optimizer": "adamw", "lr": 1e-2}])
def test_optimizer_in_backward_equals_the_one_beside(config, tmp_path, fields):
    settings = {**WHOLE, **fields, "head_lr_scale": 0.5, "head_weight_decay": 0.01}
    beside = Trainer(config(**settings, out=str(tmp_path / "beside"))).fit()
    inside = Trainer(config(**settings, out=str(tmp_path / "inside"), optimizer_in_backward=True)).fit()
    expected, got = final_weights(beside.folder), final_weights(inside.folder)
    state = {name for name in got if ".backward_optimizer." in name}
    assert len(state) == (3 if "optimizer" in fields else 1)
    torch.testing.assert_close({n: v for n, v in got.items() if n not in state}, expected, rtol=1e-4, atol=1e-5)
    tensors, _ = read_file(inside.best)
    assert tensors.keys() == expected.keys()  # what a trained network needs
    assert load_trained(inside.last).head.backward_optimizer is None


def test_sampled_training_goes_on_exactly(config, tmp_path):
    settings = {
        **WHOLE,
        "batch_size": 2,
        "epochs": 1,
        "ema_decay": 0.5,
        "sample_rate": 0.4,
        "optimizer_in_backward": True,
    }
    whole = Trainer(config(**settings, out=str(tmp_path / "whole"))).fit()
    stopped = config(**settings, out=str(tmp_path / "parts"), stop_after=7)
    Trainer(stopped).fit()
    Trainer(stopped.replace(stop_after=None)).fit(resume=True)
    same_tensors(whole.last, tmp_path / "parts" / "last.safetensors")
    tensors, _ = read_file(whole.last)
    assert tensors["head.class_sampler.step"] == 20
    assert not any("sampler" in name for name in read_file(whole.best)[0])
    assert "average.head.backward_optimizer.momentum" not in tensors


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sample_rate": 0.0}, "sample_rate must be above 0"),
        ({"sample_rate": 0.5}, "sample_rate below 1 needs optimizer_in_backward"),
        ({"optimizer_in_backward": True, "mixup_alpha": 0.2}, "mixup_alpha must be none with optimizer_in_backward"),
        ({"optimizer_in_backward": True, "clip_grad_norm": 1.0}, "clip_grad_norm must be none"),
        ({"optimizer_in_backward": True, "accumulation": 2}, "accumulation must be 1"),
        ({"optimizer_in_backward": True, "amp": "fp16"}, "amp must be bf16 or none"),
        ({"head_parallel": True, "amp": "fp16"}, "amp must be bf16 or none"),
    ],
)
def test_settings_of_large_heads(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(**fields)


def test_options_of_large_heads_have_fields_of_their_own(config):
    with pytest.raises(ValueError, match=r"margin_options repeats \['sample_rate'\]"):
        Trainer(config(margin_options={"sample_rate": 0.5}))


def _last_row(folder: Path) -> dict[str, str]:
    with (folder / "epochs.csv").open() as file:
        return list(csv.DictReader(file))[-1]
