"""Faults that were found in use, each as a kind: what is wrong is said at the start, by name, and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from facezoo.cli import build_parser, main
from facezoo.data import ImageFolder, eval_transform, train_transform
from facezoo.evaluation import embed_images
from facezoo.models import Preprocessing, create_model
from facezoo.training import NonFiniteLossError, TrainConfig, Trainer, load_trained
from facezoo.training.checkpoint import TrainState, load_training_checkpoint, save_training_checkpoint
from facezoo.training.errors import data_error, is_data_error
from facezoo.training.loggers import EPOCH_COLUMNS, STEP_COLUMNS, CsvLog
from facezoo.training.machine import has_fast_bfloat16
from facezoo.training.run_folder import RunLock
from facezoo.training.signals import StopRequest
from facezoo.weights import CheckpointError, read_file, save_file_atomic, save_pretrained
from facezoo.weights.run_format import NetworkRecord

TINY = ["--model", "tiny_face", "--img-size", "16", "--embedding-dim", "8", "--augment", "none", "--epochs", "2"]
TINY += ["--batch-size", "8", "--num-workers", "0", "--device", "cpu", "--no-progress", "--margin-options", "scale=16"]


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# -- centers of the right people -----------------------------------------------------------------------------------------------


def test_class_means_are_those_of_the_data_that_is_trained_on(config, faces):
    """And without the augmentation, where facezoo knows how to leave it out."""
    people = ImageFolder(faces / "cls_data" / "train", train_transform(Preprocessing(img_size=(16, 16))))
    some = torch.utils.data.Subset(people, [index for index, (_, label) in enumerate(people.samples) if label != 3])
    other = str(faces / "nowhere")  # what the settings name is not looked at
    trainer = Trainer(config(data=other, init_head="class_means"), data=some)
    random = Trainer(config(data=other), data=some)
    images = ImageFolder(faces / "cls_data" / "train", eval_transform(Preprocessing(img_size=(16, 16))))
    embeddings = embed_images(trainer.objective.model, torch.utils.data.Subset(images, some.indices))
    labels = trainer.data.labels
    assert labels.unique().tolist() == [0, 1, 2, 4]
    for identity in (0, 1, 2, 4):
        mean = embeddings[labels == identity].mean(0)
        assert torch.cosine_similarity(trainer.objective.head.weight[identity], mean, dim=0) > 0.9999
    assert torch.equal(trainer.objective.head.weight[3], random.objective.head.weight[3])


@pytest.mark.parametrize("margin", ["arcface", "linear"])
def test_centers_of_a_checkpoint_go_by_the_name_of_the_identity(config, faces, tmp_path, margin):
    options = {"margin": margin, "margin_options": {"scale": 16.0} if margin == "arcface" else {}}
    first = Trainer(config(**options, epochs=1, out=str(tmp_path / "first"))).fit()
    others = tmp_path / "others"
    shutil.copytree(faces, others)
    for split in ("train", "dev", "test"):  # id0 leaves, so all move up; zza comes, id4 becomes zzz
        shutil.rmtree(others / "cls_data" / split / "id0")
        shutil.copytree(others / "cls_data" / split / "id1", others / "cls_data" / split / "zza")
        (others / "cls_data" / split / "id4").rename(others / "cls_data" / split / "zzz")
    start = {**options, "data": str(others), "init_checkpoint": str(first.best)}
    trainer = Trainer(config(**start, init_head="checkpoint"))
    means = Trainer(config(**start, init_head="class_means"))
    assert trainer.data.classes == ("id1", "id2", "id3", "zza", "zzz")
    old = dict(load_trained(first.best).head.named_parameters())
    for name, parameter in trainer.objective.head.named_parameters():
        assert torch.equal(parameter[:3], old[name][1:4]), name
        assert torch.equal(parameter[3:], means.objective.head.get_parameter(name)[3:]), name
    for split in ("train", "dev", "test"):
        for name in ("id1", "id2", "id3"):
            (others / "cls_data" / split / name).rename(others / "cls_data" / split / f"new{name}")
    with pytest.raises(CheckpointError, match=r"none of the 5 identities \('newid1', ...\) .*init_head='class_means'"):
        Trainer(config(**start, init_head="checkpoint"))


# -- going on ------------------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_from_any_folder_and_with_moved_data(faces, tmp_path, monkeypatch, capsys):
    shutil.copytree(faces, tmp_path / "here" / "faces")
    monkeypatch.chdir(tmp_path / "here")
    assert main(["train", "faces", *TINY, "--out", "run", "--stop-after", "3"]) == 0
    assert json.loads(Path("run/config.json").read_text())["data"]["path"] == str(tmp_path / "here" / "faces")
    assert main(["train", "./faces", "--resume", "--out", "run", "--stop-after", "4"]) == 0
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "--out", "here/run", "--stop-after", "5"]) == 0
    (tmp_path / "here").rename(tmp_path / "there")
    assert main(["train", "there/faces", "--resume", "--out", "there/run", "--stop-after", "none"]) == 0
    capsys.readouterr()
    assert load_trained(tmp_path / "there" / "run").classes == tuple(f"id{index}" for index in range(5))


def test_whatever_folder_a_run_was_started_from_with_its_files(config, tmp_path, monkeypatch):
    """A saved network as the model and as the teacher, its file as the start, all named from the folder of the start."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_pretrained(create_model("tiny_face", img_size=16, embedding_dim=8), "saved", license="unknown")
    own = {"model": "local-dir:saved", "teacher": "local-dir:saved", "distill": {"cosine": 1.0}}
    Trainer(config(**own, stop_after=3)).fit()
    settings = TrainConfig.load(tmp_path / "run" / "config.json")
    assert settings.model.name == settings.model.teacher == f"local-dir:{tmp_path / 'here' / 'saved'}"
    Trainer(config(**own, stop_after=4)).fit(resume=True)  # the same, written as before
    monkeypatch.chdir(tmp_path)
    for kept in (tmp_path / "run").glob("teacher-*"):
        kept.unlink()
    assert Trainer(settings.replace(stop_after=5)).fit(resume=True).updates == 5
    for gone in ("gone", "local-dir:saved"):
        new = {**own, "model": "tiny_face", "teacher": gone, "out": str(tmp_path / "new")}
        with pytest.raises((ValueError, CheckpointError), match=rf"the teacher \S*{gone[-5:]} cannot be opened: .*"):
            Trainer(config(**new))


def test_whole_paths_are_those_of_files_only(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet18").mkdir()
    hub = config(data="hf-hub:a/b", init_checkpoint="hf-hub:a/b", model="hf-hub:a/b")
    assert hub.with_whole_paths() == hub
    registered = {"teacher": "resnet18", "teacher_options": {"pretrained": "imagenet"}, "distill": {"cosine": 1.0}}
    assert config(**registered).with_whole_paths() == config(**registered)  # and not the folder of that name
    files = config(init_checkpoint="a.pt", model_options={"checkpoint_path": "b.pt"})
    whole = files.with_whole_paths()
    assert whole.model.init_checkpoint == str(tmp_path / "a.pt")
    assert whole.model.options == {"checkpoint_path": str(tmp_path / "b.pt")}
    assert files.differences(whole) == {}


def test_a_start_that_is_gone_does_not_keep_a_run_from_going_on(config, tmp_path):
    first = Trainer(config(epochs=1, out=str(tmp_path / "first"))).fit()
    start = {"init_checkpoint": str(first.best), "init_head": "checkpoint"}
    Trainer(config(**start, stop_after=3)).fit()
    shutil.rmtree(tmp_path / "first")
    assert Trainer(config(**start)).fit(resume=True).finished
    with pytest.raises(CheckpointError, match="does not exist"):
        Trainer(config(**start)).fit(overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cls_data/train/id1/more.jpg", "train has changed since the run began (40 entries then, 41 entries now)"),
        ("cls_data/dev/id1/more.jpg", "dev has changed since the run began (10 entries then, 11 entries now)"),
    ],
)
def test_data_that_has_changed_is_noticed(config, faces, tmp_path, change, message):
    data = tmp_path / "faces"
    shutil.copytree(faces, data)
    settings = config(data=str(data), stop_after=2)
    Trainer(settings).fit()
    more = data / change
    shutil.copy(sorted(more.parent.glob("*.jpg"))[0], more)
    with pytest.raises(CheckpointError) as caught:
        Trainer(settings).fit(resume=True)
    assert message in str(caught.value)
    sorted(more.parent.glob("*.jpg"))[0].unlink()  # as many, but another name
    with pytest.raises(CheckpointError, match="other names or labels"):
        Trainer(settings).fit(resume=True)


def test_best_never_compares_two_metrics(config, faces, tmp_path):
    data = tmp_path / "faces"
    shutil.copytree(faces, data)
    settings = config(data=str(data), stop_after=7)
    Trainer(settings).fit()
    (data / "val_pairs.txt").unlink()
    with pytest.raises(CheckpointError, match="val_pairs has changed since the run began"):
        Trainer(settings).fit(resume=True)
    tensors, metadata = read_file(tmp_path / "run" / "last.safetensors")
    from facezoo.weights import save_file_atomic

    save_file_atomic(tmp_path / "run" / "last.safetensors", tensors, {**metadata, "data": "{}"})
    with pytest.raises(
        CheckpointError, match=r"best by eer, which this data cannot give any more \(it gives accuracy\)"
    ):
        Trainer(settings).fit(resume=True)


def test_one_process_per_run_folder(config):
    settings = config(stop_after=2)
    result = Trainer(settings).fit()
    with RunLock(result.folder) as lock:
        assert lock.acquire() == ""
        before = result.last.read_bytes()
        with pytest.raises(OSError, match=rf"process {os.getpid()} on .* is training there; wait, stop it"):
            Trainer(settings.replace(stop_after=4)).fit(resume=True)
        assert result.last.read_bytes() == before
    assert Trainer(settings.replace(stop_after=4)).fit(resume=True).updates == 4


def test_what_a_killed_process_was_writing_is_removed(config):
    settings = config(stop_after=2)
    folder = Trainer(settings).fit().folder
    for name in (".last.safetensors.123-0a1b2c3d.tmp", ".epochs.csv.9-00000000.tmp"):
        (folder / name).write_text("half")
    (folder / ".mine.tmp").write_text("mine")
    Trainer(settings.replace(stop_after=3)).fit(resume=True)
    assert sorted(path.name for path in folder.glob(".*.tmp")) == [".mine.tmp"]


def test_resume_of_nothing_says_so(tmp_path, capsys):
    assert f"no run to resume in {tmp_path}" in error_of(capsys, ["train", "--resume", "--out", str(tmp_path)])
    assert "data is not set" in error_of(capsys, ["train", "--out", str(tmp_path)])


def test_a_log_that_somebody_edited_is_named(config):
    settings = config(stop_after=7)
    folder = Trainer(settings).fit().folder
    (folder / "epochs.csv").write_text("epoch,updates\none,5\n")
    with pytest.raises(ValueError, match=r"epochs\.csv, row 2: the column 'epoch' must be a whole number; got 'one'"):
        Trainer(settings).fit(resume=True)


@pytest.mark.parametrize("name", ["epochs.csv", "steps.csv"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("one,5", r"row 2: the column '{key}' must be a whole number; got 'one'"),
        ("9" * 5000 + ",5", r"row 2: the column '{key}' must be a whole number; got '9{{200}}'\."),
        ("-1,5", r"row 2: the column '{key}' must be a whole number; got '-1'"),
        ("1,five", r"row 2: the column '{other}' must be a number; got 'five'"),
        ("1," + "x" * 5000, r"row 2: the column '{other}' must be a number; got 'x{{200}}'\."),
        ("1," + "5" * 200_000, r" is not CSV text \(field larger than field limit"),
    ],
)
def test_a_damaged_row_of_a_log_is_named_before_the_run_goes_on(tmp_path, name, row, message):
    columns = EPOCH_COLUMNS if name == "epochs.csv" else STEP_COLUMNS
    key, other = columns[:2]
    (tmp_path / name).write_text(f"{key},{other}\n{row}\n")
    with pytest.raises(
        ValueError, match=re.escape(str(tmp_path / name)) + ",? ?" + message.format(key=key, other=other)
    ):
        CsvLog(tmp_path / name, columns).truncate(5)
    assert (tmp_path / name).read_text().endswith(f"{row}\n")  # nothing is lost


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("data", '{"train": []}', "train has changed since the run began \\(\\[\\] entries then, 8 entries now"),
        ("data", '{"train": ""}', "train has changed"),
        ("data", '{"train": null, "' + "x" * 5000 + '": 3}', "train has changed"),
        ("data", '{"' + "x" * 5000 + '": 3, "train": "8 names"}', "x{199}… has changed"),
        ("data", '{"train": "' + "x" * 5000 + '"}', "train has changed since the run began \\(x{19}… entries"),
        ("state", '{"updates": -1}', "updates is -1"),
        ("state", '{"updates": 1' + "0" * 400 + "}", "updates is 10{198}…"),
        ("state", '{"losses": ["0.5"]}', "losses is \\['0.5'\\]"),
        ("state", '{"losses": [null]}', "losses is \\[None\\]"),
        ("state", '{"history": 3}', "history is 3"),
        ("state", '{"best": 1' + "0" * 400 + "}", "best is 10{198}…"),
        ("state", '{"metric": "' + "x" * 5000 + '"}', "best by x{199}…"),
        ("state", "[" * 100_000, "what its header says about the state is damaged"),
        ("state", "1" * 10_000, "what its header says about the state is damaged"),
        ("config", '{"epochs": 25, "seed": 1' + "0" * 30 + "}", "seed"),
        ("config", '{"note": "' + "x" * 5000 + '"}', "settings in its header are damaged"),
        ("config", '{"margin": "' + "x" * 5000 + '"}', "margin: 'x{78}… in the run"),
        ("network", '{"classes": 3}', "the description of the network in its header is damaged"),
        ("optimizer", '{"model.weight.momentum_buffer": "x"}', "state of its optimizer is damaged"),
        ("optimizer", "{", "what its header says about the optimizer is damaged"),
    ],
)  # fmt: skip
def test_damaged_metadata_of_a_run_has_one_error(tmp_path, entry, text, message):
    config, data = TrainConfig.from_options(data="faces"), {"train": "8 names"}
    record = NetworkRecord({"name": "x"}, {"name": "linear", "options": {}}, {}, ("a", "b"), {})
    objective = torch.nn.ModuleDict({"model": torch.nn.Linear(3, 2), "head": torch.nn.Linear(2, 2)})
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
    path, state = tmp_path / "last.safetensors", TrainState(metric="eer")
    parts = {"objective": objective, "optimizer": optimizer, "record": record, "config": config, "data": data}
    save_training_checkpoint(path, state=state, **parts)
    assert load_training_checkpoint(path, metric="eer", **parts)[0] == state
    tensors, metadata = read_file(path)
    save_file_atomic(path, tensors, metadata | {entry: text})
    with pytest.raises(CheckpointError, match=message) as caught:
        load_training_checkpoint(path, metric="eer", **parts)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)


# -- what can be known at the start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"batch_size": 13, "drop_last": False}, {"batch_size": 4, "accumulation": 4}])
def test_a_batch_of_one_is_refused_at_the_start(config, fields):
    with pytest.raises(
        ValueError, match=r"a batch of 1 image, on which batch norm cannot train .*choose another batch_size"
    ):
        Trainer(config(**fields))
    before = Trainer(config()).objective.model.state_dict()
    trainer = Trainer(config(**fields, model="tiny_convnext"))  # no batch norm: it may
    assert trainer.fit().finished
    assert before.keys() == Trainer(config()).objective.model.state_dict().keys()


@pytest.mark.parametrize("kind", [0, 1])
def test_pairs_of_one_kind_are_refused_at_the_start(config, faces, tmp_path, kind):
    data = tmp_path / "faces"
    shutil.copytree(faces, data)
    lines = [line for line in (data / "val_pairs.txt").read_text().splitlines() if line.endswith(str(kind))]
    (data / "val_pairs.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=f"all {len(lines)} validation pairs are .* pairs, so there is no EER"):
        Trainer(config(data=str(data)))


def test_a_full_disk_is_noticed_before_the_training(config, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**4))
    settings = config()
    with pytest.raises(OSError, match=r"checkpoints need about .* MiB .*only 0 MiB are free there; make room"):
        Trainer(settings).fit()
    assert not Path(settings.output.folder).exists()


def test_a_suffix_that_embed_does_not_know_is_refused_before_anything_is_read(tmp_path, capsys):
    line = error_of(capsys, ["embed", str(tmp_path / "no-network"), str(tmp_path / "no.jpg"), "--out", "x.parquet"])
    assert "embeddings are written as .safetensors, .npz, .csv; got x.parquet" in line


# -- said at once --------------------------------------------------------------------------------------------------------------


def test_slow_bfloat16_is_said(config, tmp_path):
    cpu = torch.device("cpu")
    for text, fast in (
        ("flags : fma avx2", False),
        ("flags : avx512_bf16", True),
        ("Features : bf16", True),
        ("", True),
    ):
        (tmp_path / "cpuinfo").write_text(text)
        assert has_fast_bfloat16(cpu, tmp_path / "cpuinfo") is fast
    assert has_fast_bfloat16(cpu, tmp_path / "none")
    if not has_fast_bfloat16(cpu):
        with pytest.warns(UserWarning, match="no bfloat16 arithmetic"):
            Trainer(config(amp="bf16"))


def test_ctrl_c_is_answered_at_once(capfd):
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        assert "SIGINT: stopping after this update, then saving" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_help_shows_the_defaults_as_they_are(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for default in (
        "final-lr FLOAT learning rate at the end of the schedule, fraction of lr (default: 0.0)",
        "(sgd) (default: false)",
    ):
        assert default in text
    assert "--amp {none,bf16,fp16}" in text
    assert "0: off" not in text
    assert build_parser().parse_args(["train", "x", "--max-params", "none"]).max_params is None


def test_a_killed_worker_is_said_with_the_way_out(tmp_path):
    (tmp_path / "last.safetensors").touch()
    error = RuntimeError("DataLoader worker (pid 123) is killed by signal: Killed. ")
    assert is_data_error(error)
    message = str(data_error(error, tmp_path / "last.safetensors", "runs/a"))
    assert "want of memory (lower --num-workers or --batch-size). Progress is saved in" in message
    assert message.endswith("Resume with: facezoo train --resume --out runs/a")
    assert "\n" not in message


def test_a_learning_rate_that_breaks_the_weights_is_named(config, monkeypatch):
    """The last update of an epoch: its loss was finite, the weights after it are not."""
    own = Trainer._update

    def update(self, micro_batches):
        loss = own(self, micro_batches)
        if self.state.updates == 9:
            with torch.no_grad():
                self.objective.head.weight.fill_(float("inf"))
        return loss

    monkeypatch.setattr(Trainer, "_update", update)
    settings = config(lr=0.07)
    with pytest.raises(NonFiniteLossError, match=r"update 10 \(epoch 2, learning rate .*head\.weight.*Lower lr"):
        Trainer(settings).fit()
    _, metadata = read_file(Path(settings.output.folder) / "last.safetensors")
    assert json.loads(metadata["state"])["updates"] == 5


def test_a_wild_learning_rate_names_itself(config):
    with pytest.raises(NonFiniteLossError, match=r"learning rate 1e\+06|learning rate \d"):
        Trainer(config(lr=1e30, warmup_epochs=0, epochs=3)).fit()


def test_datasets_of_one_image_per_class_need_no_samples(config):
    data = SimpleNamespace(train=torch.utils.data.Subset(_Two(), range(16)), classes=("a", "b"))
    assert Trainer(config(data=None, epochs=1), data=data).fit().finished


class _Two(torch.utils.data.Dataset):
    targets = (0, 1) * 8

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return torch.full((3, 16, 16), float(index % 2)), index % 2
