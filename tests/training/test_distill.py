"""Distillation: its forms against their formulas, every kind of teacher, and a run that goes on exactly."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import facezoo
from facezoo.cli import main
from facezoo.data import ImageFolder, eval_transform, open_face_data
from facezoo.evaluation import embed_images
from facezoo.models import Preprocessing
from facezoo.training import Trainer, load_trained
from facezoo.training.distill import (
    DISTILLATIONS,
    Distillation,
    TeacherSpace,
    build_distillations,
    class_means,
    list_distillations,
    register_distillation,
)
from facezoo.weights import CheckpointError, read_file
from ranks import command_on_ranks


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def teacher(config, tmp_path):
    """A run that has learned a little."""
    return Trainer(config(epochs=3, out=str(tmp_path / "teacher"), embedding_dim=12)).fit().folder


# -- the forms -------------------------------------------------------------------------------------------------------------------


def test_class_means_against_numpy():
    table, labels = random(20, 6), torch.arange(20) % 3
    means, angle = class_means(table, labels, 4)
    rows = table.numpy() / np.linalg.norm(table.numpy(), axis=1, keepdims=True)
    angles = []
    for label in range(3):
        own = rows[labels.numpy() == label]
        mean = own.mean(0) / np.linalg.norm(own.mean(0))
        np.testing.assert_allclose(means[label].numpy(), mean, atol=1e-6)
        angles += np.arccos(own @ mean).tolist()
    assert angle == pytest.approx(max(angles), abs=1e-5)
    assert means[3].abs().sum() == 0  # nobody there


def test_forms_against_their_formulas():
    student, teacher, labels = random(5, 6, seed=1), random(5, 6, seed=2), torch.tensor([0, 1, 2, 0, 1])
    space = TeacherSpace(F.normalize(random(3, 6, seed=3), dim=1), 2.0)
    head = facezoo.create_margin("arcface", embedding_dim=6, num_classes=3, scale=16.0)

    def loss(name: str, **options: float) -> float:
        return float(DISTILLATIONS[name](space, 6, **options)(student, labels, teacher, head).detach())

    s, t, centers = student.numpy(), teacher.numpy(), space.centers.numpy()
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (s, t)]
    assert loss("cosine") == pytest.approx(1 - (unit[0] * unit[1]).sum(1).mean(), abs=1e-6)
    assert loss("l2") == pytest.approx(((s - t) ** 2).mean(), rel=1e-6)

    def softmax(logits: np.ndarray) -> np.ndarray:
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    own, theirs = softmax(head.logits(student).detach().numpy() / 2), softmax(20 * unit[1] @ centers.T / 2)
    divergence = (theirs * np.log(theirs / own)).sum(1).mean()
    assert loss("logit", temperature=2.0, scale=20.0) == pytest.approx(4 * divergence, rel=1e-4)

    angles = np.arccos((unit[1] * centers[labels]).sum(1))
    margins = 0.6 + (0.1 - 0.6) * np.clip(angles / 2.0, 0, 1)
    logits = unit[0] @ centers.T
    rows = np.arange(5)
    logits[rows, labels] = np.cos(np.minimum(np.arccos(logits[rows, labels]) + margins, math.pi))
    expected = -np.log(softmax(10 * logits)[rows, labels]).mean()
    assert loss("margin", scale=10.0, least=0.1, most=0.6) == pytest.approx(expected, rel=1e-5)


def test_a_student_equal_to_its_teacher_loses_nothing():
    teacher, labels = random(8, 6), torch.arange(8) % 2
    means, _ = class_means(teacher, labels, 2)
    head = facezoo.create_margin("arcface", embedding_dim=6, num_classes=2, scale=32.0)
    head.weight.data.copy_(means)
    for name in ("cosine", "l2", "logit"):
        form = build_distillations({name: 2.0}, teacher, labels, classes=2, student_dim=6, seed=0)
        assert float(form(teacher, labels, teacher, head).detach()) == pytest.approx(0, abs=1e-5)


def test_dimensions_that_differ_get_a_projection_that_is_trained():
    teacher, labels = random(8, 6), torch.arange(8) % 2
    parts = build_distillations({"cosine": 1, "margin": 1, "l2": 1}, teacher, labels, classes=2, student_dim=4, seed=0)
    assert {name: tuple(p.shape) for name, p in parts.named_parameters()} == {
        f"parts.{name}.projection.weight": (6, 4) for name in ("cosine", "margin", "l2")
    }
    assert not list(build_distillations({"cosine": 1}, teacher, labels, classes=2, student_dim=6, seed=0).parameters())


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"cosin": 1}, "did you mean 'cosine'"),
        ({"cosine": 0}, "needs a weight above 0"),
        ({"cosine": True}, "needs a weight above 0"),
        ({"cosine": {"projection": False, "weight": 1}}, "the student's embedding has 4 numbers, the teacher's 6"),
        ({"cosine": {"temperature": 1, "weight": 1}}, "has no option 'temperature'; it has weight, projection"),
        ({"logit": {"temperature": 0, "weight": 1}}, "temperature must be above 0"),
        ({"margin": {"least": 1.0, "weight": 1}}, "0 <= least <= most < pi"),
    ],
)
def test_what_is_wrong_is_said(wanted, message):
    with pytest.raises(ValueError, match=message):
        build_distillations(wanted, random(8, 6), torch.arange(8) % 2, classes=2, student_dim=4, seed=0)


def test_a_form_of_ones_own(config, teacher):
    @register_distillation("angles")
    class Angles(Distillation):
        def __init__(self, teacher: TeacherSpace, student_dim: int) -> None:
            super().__init__()

        def forward(
            self, embeddings: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor, head: nn.Module
        ) -> torch.Tensor:
            own, theirs = (F.normalize(rows, dim=1) for rows in (embeddings, teacher))
            return F.mse_loss(own @ own.T, theirs @ theirs.T)

    try:
        assert "angles" in list_distillations()
        assert Trainer(config(epochs=1, teacher=str(teacher), distill={"angles": 1.0})).fit().finished
    finally:
        DISTILLATIONS.unregister("angles")


# -- teachers --------------------------------------------------------------------------------------------------------------------


def expected_table(faces: Path, model: nn.Module, preprocessing: Preprocessing) -> torch.Tensor:
    images = ImageFolder(faces / "cls_data" / "train", eval_transform(preprocessing))
    return embed_images(model, images, flip="sum", normalize=False) / 2


def test_every_kind_of_teacher_says_the_same(config, faces, tmp_path, teacher):
    """A run, its checkpoint, what save_pretrained writes, a weight file, an ONNX file, and files of embeddings."""
    trained = load_trained(teacher)
    wanted = expected_table(faces, trained.model, trained.preprocessing)
    from facezoo.weights import save_pretrained

    save_pretrained(trained.model, tmp_path / "saved", license="unknown")
    facezoo.export(trained.model, tmp_path / "teacher.onnx")
    torch.save(trained.model.state_dict(), tmp_path / "weights.pt")
    names = ImageFolder(faces / "cls_data" / "train").names
    order = np.random.default_rng(0).permutation(len(names))
    np.savez(tmp_path / "table.npz", embeddings=wanted.numpy()[order], names=[names[index] for index in order])
    kinds: list[tuple[str, dict[str, object]]] = [
        (str(teacher), {}),
        (str(teacher / "best.safetensors"), {}),
        (f"local-dir:{tmp_path / 'saved'}", {}),
        (str(tmp_path / "weights.pt"), {"model": "tiny_face", "img_size": 16, "embedding_dim": 12}),
        (str(tmp_path / "teacher.onnx"), {}),
        (str(tmp_path / "table.npz"), {}),
    ]
    for index, (name, options) in enumerate(kinds):
        settings = config(
            teacher=name, teacher_options=options, distill={"cosine": 1.0}, out=str(tmp_path / f"s{index}")
        )
        trainer = Trainer(settings)
        torch.testing.assert_close(trainer.teacher.embeddings, wanted, rtol=1e-4, atol=1e-5, msg=name)
        assert len(list((tmp_path / f"s{index}").glob("teacher-*.safetensors"))) == 1


def test_rows_follow_their_images(config, teacher):
    """What a batch has as its teacher's rows are those of its images, in every epoch and from any position."""
    trainer = Trainer(config(teacher=str(teacher), distill={"cosine": 1.0}, sampler="pk", images_per_identity=2))
    table = trainer.teacher.embeddings
    images = {trainer.data.train[index][0].numpy().tobytes(): index for index in range(len(table))}
    seen = 0
    for epoch, position in ((0, 0), (1, 16)):
        for micro_batches in trainer.batches.updates(epoch, position):
            for pictures, labels, rows in micro_batches:
                chosen = [images[picture.numpy().tobytes()] for picture in pictures]
                assert torch.equal(rows, table[chosen])
                assert torch.equal(labels, trainer.data.labels[chosen])
                seen += len(chosen)
    assert seen > 40


def test_the_teacher_is_kept_and_need_not_be_there(config, teacher, monkeypatch, tmp_path):
    settings = config(teacher=str(teacher), distill={"cosine": 1.0, "logit": 0.5}, stop_after=3)
    Trainer(settings).fit()
    calls = []
    monkeypatch.setattr("facezoo.training.teacher.embed_training_images", lambda *a, **k: calls.append(1))
    Trainer(settings.replace(stop_after=4)).fit(resume=True)
    shutil.move(teacher, tmp_path / "elsewhere")
    Trainer(settings.replace(stop_after=5)).fit(resume=True)
    assert calls == []
    with pytest.raises(ValueError, match="no file"):
        Trainer(settings.replace(out=str(tmp_path / "new")))


def test_another_teacher_under_the_same_name_is_noticed(config, teacher):
    settings = config(teacher=str(teacher), distill={"cosine": 1.0}, stop_after=3)
    Trainer(settings).fit()
    other = config(epochs=1, out=str(teacher), embedding_dim=12)
    Trainer(other).fit(overwrite=True)
    with pytest.raises(CheckpointError, match="teacher has changed since the run began"):
        Trainer(settings).fit(resume=True)


def test_packed_data_keep_it_for_the_next_run(config, faces, teacher, tmp_path, monkeypatch):
    assert main(["pack", str(faces), "--out", str(tmp_path / "packed"), "--size", "16", "--quiet"]) == 0
    own = {"data": str(tmp_path / "packed"), "teacher": str(teacher), "distill": {"cosine": 1.0}, "epochs": 1}
    first = Trainer(config(**own, out=str(tmp_path / "a")))
    assert first.teacher.path.parent == tmp_path / "packed" / "teachers"
    monkeypatch.setattr("facezoo.training.teacher.embed_training_images", lambda *a, **k: 1 / 0)
    second = Trainer(config(**own, out=str(tmp_path / "b")))
    assert torch.equal(first.teacher.embeddings, second.teacher.embeddings)
    assert second.fit().finished
    open_face_data(tmp_path / "packed").train.folder.verify()  # it takes nothing amiss


def test_what_does_not_fit_is_refused(config, teacher, tmp_path):
    with pytest.raises(ValueError, match="turn off mixup"):
        config(teacher=str(teacher), distill={"cosine": 1.0}, mixup_alpha=0.2)
    with pytest.raises(ValueError, match="a teacher needs distill"):
        config(teacher=str(teacher))
    with pytest.raises(ValueError, match="need a teacher: name"):
        Trainer(config(distill={"cosine": 1.0}))
    with pytest.raises(ValueError, match="needs all class centers"):
        config(teacher=str(teacher), distill={"logit": 1.0}, optimizer_in_backward=True)
    np.savez(tmp_path / "few.npz", embeddings=np.ones((1, 3), np.float32), names=["id0/id0_train_0.jpg"])
    with pytest.raises(ValueError, match="no embeddings have that name"):
        Trainer(config(teacher=str(tmp_path / "few.npz"), distill={"cosine": 1.0}))


# -- going on --------------------------------------------------------------------------------------------------------------------


def test_a_student_comes_nearer_to_its_teacher(config, faces, teacher, tmp_path):
    settings = config(
        teacher=str(teacher), distill={"cosine": 20.0}, embedding_dim=12, epochs=30, out=str(tmp_path / "student")
    )
    before = Trainer(settings)
    table, preprocessing = before.teacher.embeddings, before.objective.model.preprocessing

    def agreement(model: nn.Module) -> float:
        return float(F.cosine_similarity(expected_table(faces, model, preprocessing), table).mean())

    start = agreement(before.objective.model)
    result = before.fit()
    assert agreement(load_trained(result.last).model) > max(0.8, start + 0.2)


@pytest.mark.ci
def test_killed_and_resumed_gives_the_same(config, environment, teacher, tmp_path):
    own = {"teacher": str(teacher), "distill": {"cosine": 5.0, "logit": 0.1, "margin": 0.5}, "checkpoint_updates": 3}
    own |= {"augment": "light", "ema_decay": 0.9}
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    settings = config(**own, out=str(tmp_path / "killed"))
    settings.save(tmp_path / "settings.json")
    command = [sys.executable, "-m", "facezoo", "--import", "tiny_faces", "train", "--config"]
    command.append(str(tmp_path / "settings.json"))
    killed = subprocess.run(command, env={**environment, "FACEZOO_TEST_KILL_AT": "8"}, capture_output=True, timeout=900)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    resumed = Trainer(settings).fit(resume=True)
    for mine, theirs in ((resumed.last, whole.last), (resumed.best, whole.best)):
        expected, got = read_file(theirs)[0], read_file(mine)[0]
        assert expected.keys() == got.keys()
        assert [name for name, value in expected.items() if not torch.equal(value, got[name])] == []
    assert "distill.parts.cosine.projection.weight" in read_file(resumed.last)[0]


@pytest.mark.ci
def test_two_ranks_distill_as_one(config, teacher, tmp_path):
    own = {"model": "tiny_convnext", "teacher": str(teacher), "distill": {"cosine": 5.0, "margin": 0.5}, "epochs": 1}
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    config(**own, out=str(tmp_path / "ranks")).save(tmp_path / "settings.json")
    command_on_ranks(["--import", "tiny_faces", "train", "--config", str(tmp_path / "settings.json")], 2)
    expected, got = read_file(whole.last)[0], read_file(tmp_path / "ranks" / "last.safetensors")[0]
    for name in expected:
        if not name.startswith("optimizer."):
            torch.testing.assert_close(got[name], expected[name], rtol=1e-3, atol=2e-5, msg=name)


@pytest.mark.filterwarnings("ignore:this processor has no bfloat16 arithmetic")
def test_a_margin_to_the_teachers_centers_in_half_precision(config, teacher):
    """Angles need all digits, so this loss leaves autocast; the others work in it."""
    for form in ("margin", "cosine", "l2"):
        own = config(teacher=str(teacher), distill={form: 1.0}, amp="bf16", epochs=1, embedding_dim=12)
        result = Trainer(own).fit(overwrite=True)
        assert math.isfinite(result.history[-1]["train_loss"])
