from __future__ import annotations

import argparse
import errno
import json
import os
import runpy
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import facezoo
from facezoo.cli import build_parser, main, number, parse_pairs, train_config
from facezoo.cli.embedding_files import write_embeddings
from facezoo.cli.table import count_row, read_table
from facezoo.models import MODELS
from facezoo.models.factory import count_multiplications, count_parameters
from facezoo.training import TrainConfig
from facezoo.training.config import PLACES
from facezoo.weights import CheckpointError, read_file
from tiny_faces import write_faces

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("models", "info", "profile", "train", "evaluate", "embed", "verify", "submit", "export", "demo")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"))


TINY = [
    "--model",
    "tiny_face",
    "--img-size",
    "16",
    "--embedding-dim",
    "8",
    "--batch-size",
    "8",
    "--num-workers",
    "0",
    "--no-progress",
]


@pytest.fixture(scope="module")
def run(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["train", str(faces), "--out", str(folder), *TINY, "--epochs", "2", "--lr", "0.01", "--device", "cpu"]
    assert main([*arguments, "--margin-options", "scale=16", "margin=0.2"]) == 0
    return folder


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("facezoo: error: ")
    assert "Traceback" not in captured.err
    return captured.err


# -- parsing -------------------------------------------------------------------------------------------------------------------


def test_numbers():
    assert [number(text) for text in ("30M", "8k", "0.1", "1e6", "2G")] == [30e6, 8e3, 0.1, 1e6, 2e9]
    with pytest.raises(argparse.ArgumentTypeError, match="30M"):
        number("many")


def test_pairs_of_options():
    assert parse_pairs(["scale=64", "gradient=exact", "easy=true"], "--x") == {
        "scale": 64,
        "gradient": "exact",
        "easy": True,
    }
    assert parse_pairs(['{"scale": 64}'], "--x") == {"scale": 64}
    for bad in ("scale", "{scale"):
        with pytest.raises(ValueError, match="--x"):
            parse_pairs([bad], "--x")


def parsed(arguments: list[str]) -> TrainConfig:
    return train_config(build_parser().parse_args(["train", *arguments]))


def test_train_options_come_from_the_settings(tmp_path):
    assert parsed(["faces"]) == TrainConfig.from_options(data="faces")
    config = parsed(["faces", "--nesterov", "--max-params", "30M", "--joint", "center=0.003", "--no-drop-last"])
    assert config == TrainConfig.from_options(
        data="faces", nesterov=True, max_params=30e6, joint={"center": 0.003}, drop_last=False
    )
    saved = TrainConfig.from_options(data="faces", out=str(tmp_path), lr=0.7)
    saved.save(tmp_path / "config.json")
    assert parsed(["--resume", "--out", str(tmp_path)]) == saved
    assert parsed(["--resume", "--out", str(tmp_path), "--num-workers", "9"]) == saved.replace(num_workers=9)
    assert parsed(["--out", str(tmp_path), "faces"]).optimization == TrainConfig().optimization
    assert parsed(["--config", str(tmp_path / "config.json"), "--lr", "0.2"]) == saved.replace(lr=0.2)


def test_every_option_is_explained(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in PLACES:
        if name != "data":
            assert f"--{name.replace('_', '-')}" in text


STARTS = """
import contextlib, io, sys
from facezoo.cli import main
for arguments in {lines!r}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
print(*(name for name in {heavy!r} if name in sys.modules))
"""


def test_the_command_line_starts_without_torch():
    lines = [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS), ["models", "*resnet*"]]
    heavy = ("torch", "numpy", "torchvision", "PIL", "matplotlib", "huggingface_hub", "facezoo.models")
    done = subprocess.run(
        [sys.executable, "-c", STARTS.format(lines=lines, heavy=heavy)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, timeout=900, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


def test_both_entries_are_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["facezoo", "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("facezoo", run_name="__main__")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text == build_parser().format_help()
    for command in COMMANDS:
        assert f"\n    {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_its_defaults(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert "--quiet" in text
    assert "--json" in text
    if command in ("embed", "evaluate", "verify"):
        assert "processes that read images (default: 0)" in text


@pytest.mark.parametrize(
    ("arguments", "usage", "error"),
    [
        (["verify", "a", "b", "c", "--treshold", "1"], "usage: facezoo verify", "did you mean --threshold?"),
        (["embed", "a"], "usage: facezoo embed", "required: images"),
        (["models", "--max-params", "many"], "usage: facezoo models", "'many' is not a number"),
        (["modles"], "usage: facezoo ", "did you mean models?"),
        (["evaluate", "a", "--flip", "both"], "usage: facezoo evaluate", "invalid choice: 'both'"),
        (["models", "--num-classes", "9" * 5000 + "x"], "usage: facezoo models", "…"),
        (["models", "--num-classes", "-5"], "usage: facezoo models", "'-5' is not a whole number of at least 0"),
        (["models", "--embedding-dim", "-1"], "usage: facezoo models", "--embedding-dim: '-1' is not"),
        (["models", "--max-params", "nan"], "usage: facezoo models", "'nan' is not a number of at least 0"),
        (["models", "--max-macs=-1G"], "usage: facezoo models", "'-1G' is not a number of at least 0"),
        (["profile", "a", "--batch-size", "-4"], "usage: facezoo profile", "'-4' is not a whole number of at least 1"),
        (["profile", "a", "--num-classes", "-1"], "usage: facezoo profile", "--num-classes: '-1' is not"),
        (["profile", "a", "--embedding-dim", "1.5"], "usage: facezoo profile", "--embedding-dim: '1.5' is not"),
        (["preview", "a", "--images", "0"], "usage: facezoo preview", "'0' is not a whole number of at least 1"),
        (["preview", "a", "--variants", "-1"], "usage: facezoo preview", "--variants: '-1' is not"),
        (["preview", "a", "--seed", "-1"], "usage: facezoo preview", "--seed: '-1' is not"),
        (["doctor", "a", "--most", "0"], "usage: facezoo doctor", "--most: '0' is not"),
        (["doctor", "a", "--batch-size", "0"], "usage: facezoo doctor", "--batch-size: '0' is not"),
        (["doctor", "a", "--seconds", "inf"], "usage: facezoo doctor", "--seconds: 'inf' is not a number"),
    ],
)
def test_what_is_typed_wrongly_is_answered_by_its_own_command(arguments, usage, error, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    text = capsys.readouterr().err
    assert caught.value.code == 2
    assert text.startswith(usage)
    assert error in text.splitlines()[-1]
    assert len(text) < 2000


@pytest.mark.parametrize(
    "error",
    [
        KeyError("network"),
        AssertionError(),
        IndexError("x\ny" * 900),
        RecursionError(),
        MemoryError(),
        struct.error("s"),
    ],
)
def test_no_error_leaves_as_a_traceback(error, capsys, monkeypatch):
    def fail(options):
        raise error

    monkeypatch.setattr("facezoo.cli.models.run_info", fail)
    text = error_of(capsys, ["info", "resnet18"])
    assert text.count("\n") == 1
    assert f"resnet18: `facezoo info` failed with {type(error).__name__}" in text
    assert len(text) < 500
    with pytest.raises(type(error)):
        main(["--traceback", "info", "resnet18"])


def test_an_error_repeats_little_of_what_was_typed(capsys):
    text = error_of(capsys, ["info", "resnet" * 2000])
    assert text.count("\n") == 1
    assert len(text) < 800


def test_ctrl_c_is_answered_at_once(capfd, monkeypatch):
    before = signal.getsignal(signal.SIGINT)

    def interrupted(options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)
        finally:
            seen.append(capfd.readouterr().err)  # what was said before the end

    seen: list[str] = []
    monkeypatch.setattr("facezoo.cli.models.run_info", interrupted)
    assert main(["info", "resnet18"]) == 130
    assert "Ctrl-C: stopping" in seen[0]
    assert signal.getsignal(signal.SIGINT) is before


def test_version_and_no_command(capsys):
    assert main([]) == 0
    assert "COMMAND" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"facezoo {facezoo.__version__}"


# -- models --------------------------------------------------------------------------------------------------------------------


def test_models_within_a_budget(capsys):
    assert main(["models", "*resnet*", "--max-params", "30M", "--num-classes", "8631", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    names = [row["name"] for row in rows]
    assert "resnet18" in names
    assert "resnet101" not in names
    assert all(row["params"] <= 30e6 for row in rows)
    model = facezoo.create_model("resnet18", num_classes=8631)
    assert rows[names.index("resnet18")]["params"] == sum(p.numel() for p in model.parameters())
    assert main(["models", "mobile*"]) == 0
    assert "mobilefacenet" in capsys.readouterr().out


def test_the_table_lists_what_is_registered():
    rows = {row.name: row for row in read_table()}
    models = facezoo.list_models(exclude="tiny*")
    again = "make the table again: python -m facezoo.cli.table"
    assert list(rows) == models, again
    for name in models:
        assert rows[name].description == MODELS.describe(name), again


def check_counts(names: list[str]) -> None:
    rows = {row.name: row for row in read_table()}
    for name in names:
        assert rows[name] == count_row(name), "make the table again: python -m facezoo.cli.table"
        for form in ((0, 384), (10, 96), (10, None)):
            counted = (count_parameters(MODELS[name], *form), count_multiplications(MODELS[name], *form))
            assert rows[name].cost(*form) == counted


def test_the_table_counts_right():
    check_counts(["hw2p2_cnn", "mobilefacenet", "resnet18", "iresnet18"])


@pytest.mark.ci
@pytest.mark.parametrize("part", range(12))  # minutes together, which workers can share
def test_the_table_counts_every_model_right(part):
    check_counts(facezoo.list_models(exclude="tiny*")[part::12])


def test_unknown_names(capsys):
    assert "no model matches" in error_of(capsys, ["models", "nothing*"])
    assert "did you mean 'resnet50'" in error_of(capsys, ["info", "resnet5O"])


def test_models_within_a_budget_of_multiplications(capsys):
    assert main(["models", "mobilefacenet*", "--max-macs", "0.3G", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["macs"]) for row in rows] == [
        (name, facezoo.profile_model(name, memory=False).macs)
        for name in ("mobilefacenet_foamliu", "mobilefacenet_paper")
    ]
    assert main(["models", "mobilefacenet*", "--max-macs", "1G"]) == 0
    assert "0.438 GMACs  MobileFaceNet" in capsys.readouterr().out
    assert "within the budget" in error_of(capsys, ["models", "mobilefacenet*", "--max-macs", "1K"])


def test_info(capsys):
    record = facezoo.weights.WeightsRecord(
        model="resnet18", tag="faces", repository="me/net", revision="main", sha256="0" * 64, license="cc-by-nc-4.0",
        source="trained for this test", figures=(facezoo.weights.ReportedFigure("LFW", "accuracy", 0.99, "here"),),
    )  # fmt: skip
    assert main(["info", "tiny_face"]) == 0
    assert "weights: none are registered" in capsys.readouterr().out
    facezoo.register_weights(record)
    try:
        assert main(["info", "resnet18"]) == 0
        text = capsys.readouterr().out
        assert main(["info", "resnet18", "--json"]) == 0
        values = json.loads(capsys.readouterr().out)
    finally:
        facezoo.weights.WEIGHTS.unregister("resnet18.faces")
    assert text.startswith("resnet18: ")
    face, published = (values["profiles"][form] for form in ("face", "imagenet"))
    assert (published["params"], published["macs"]) == (11689512, 1814073344)
    assert face == json.loads(json.dumps(facezoo.profile_model("resnet18").to_dict()))
    for part in (
        *("family resnet, paper 1512.03385", "stem imagenet", "2 × basic", "512 channels", "RGB", "arcface"),
        *("11,689,512", "1,814,073,344", f"{face['params']:,}", f"{face['training_bytes'] / 2**20:.2f} MiB"),
        *("weights resnet18.faces: me/net@main, license cc-by-nc-4.0", "LFW accuracy 0.99"),
    ):
        assert part in text
    assert {entry["tag"]: entry["license"] for entry in values["weights"]}["faces"] == "cc-by-nc-4.0"


def test_profile(capsys):
    arguments = ["profile", "tiny_face", "--img-size", "16x24", "--embedding-dim", "8"]
    assert main([*arguments, "--json", "--batch-size", "4", "--grad-checkpointing"]) == 0
    values = json.loads(capsys.readouterr().out)
    profile = facezoo.profile_model("tiny_face", img_size=(16, 24), embedding_dim=8, grad_checkpointing=True)
    assert values.pop("batch_training_bytes") == profile.training_memory(4)
    assert values == json.loads(json.dumps(profile.to_dict()))
    assert main([*arguments, "--batch-size", "64"]) == 0
    text = capsys.readouterr().out
    whole = facezoo.profile_model("tiny_face", img_size=(16, 24), embedding_dim=8)
    assert str(whole) in text
    assert f"a batch of 64: {whole.training_memory(64) / 2**30:.3f} GiB" in text
    assert main(["profile", "tiny_face", "--embedding-dim", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"][-1]["output_shape"] == [16]
    with pytest.raises(SystemExit):
        main(["profile", "tiny_face", "--img-size", "16x"])
    assert "112x96" in capsys.readouterr().err


# -- the life of a run ---------------------------------------------------------------------------------------------------------


def test_train_refuses_to_overwrite_and_resumes(run, faces, capsys):
    assert "--resume" in error_of(capsys, ["train", str(faces), "--out", str(run), *TINY])
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert "finished: 2 epochs, 10 updates" in capsys.readouterr().out
    assert "lr: 0.01 in the run, 0.5 asked for" in error_of(
        capsys, ["train", "--resume", "--out", str(run), "--lr", "0.5"]
    )


def test_errors_are_one_line_and_traceback_shows_more(capsys, faces, tmp_path):
    missing = str(tmp_path / "none")
    assert "none" in error_of(capsys, ["train", missing, "--out", str(tmp_path / "run"), *TINY])
    assert "arcfase" in error_of(
        capsys, ["train", str(faces), "--margin", "arcfase", "--out", str(tmp_path / "run"), *TINY]
    )
    assert "no_such_package" in error_of(capsys, ["--import", "no_such_package", "models"])
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "train", missing, *TINY])


def test_evaluate(run, faces, capsys, tmp_path):
    assert main(["evaluate", str(run), str(faces), "--json", "--device", "cpu"]) == 0
    figures = json.loads(capsys.readouterr().out)
    network = facezoo.training.load_trained(run)
    assert figures["dev"]["accuracy"] == network.metrics["dev_accuracy"]
    assert figures["val_pairs"]["metrics"]["eer"] == pytest.approx(network.metrics["eer"])
    pairs = ["--pairs", str(faces / "val_pairs.txt"), "--image-root", str(faces / "ver_data")]
    assert (
        main(["evaluate", str(run / "last.safetensors"), *pairs, "--flip", "sum", "--report", str(tmp_path / "report")])
        == 0
    )
    assert (tmp_path / "report" / "report.html").exists()
    capsys.readouterr()
    assert "data folder or --pairs" in error_of(capsys, ["evaluate", str(run)])
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    assert "x.safetensors" in error_of(capsys, ["evaluate", str(tmp_path / "x.safetensors"), str(faces)])


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "csv"])
def test_embed(run, faces, capsys, tmp_path, suffix):
    out = tmp_path / f"embeddings.{suffix}"
    folder = faces / "cls_data" / "dev" / "id1"
    assert main(["embed", str(run), str(folder), str(faces / "ver_data" / "v0a.jpg"), "--out", str(out)]) == 0
    assert "3 embeddings of 8 dimensions" in capsys.readouterr().out
    if suffix == "safetensors":
        tensors, metadata = read_file(out)
        embeddings, names = tensors["embeddings"].numpy(), json.loads(metadata["names"])
    elif suffix == "npz":
        with np.load(out) as arrays:
            embeddings, names = arrays["embeddings"], arrays["names"].tolist()
    else:
        rows = [line.split(",") for line in out.read_text().splitlines()[1:]]
        embeddings, names = np.array([[float(cell) for cell in row[1:]] for row in rows]), [row[0] for row in rows]
    assert [Path(name).name for name in names] == ["id1_dev_0.jpg", "id1_dev_1.jpg", "v0a.jpg"]
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_embed_errors(run, faces, capsys, tmp_path):
    assert "no image" in error_of(capsys, ["embed", str(run), str(tmp_path / "a.jpg")])
    (tmp_path / "empty").mkdir()
    assert "holds no images" in error_of(capsys, ["embed", str(run), str(tmp_path / "empty")])
    image = str(faces / "ver_data" / "v0a.jpg")
    for run_or_not in (str(run), str(tmp_path / "there is no network")):  # said before anything is loaded
        assert ".npz" in error_of(capsys, ["embed", run_or_not, image, "--out", str(tmp_path / "a.txt")])
    (tmp_path / "folder.csv").mkdir()
    assert "is a folder" in error_of(capsys, ["embed", str(run), image, "--out", str(tmp_path / "folder.csv")])


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "csv"])
def test_a_full_disk_leaves_the_old_embeddings(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"embeddings.{suffix}"
    write_embeddings(path, torch.eye(3), ["a", "b", "c"])
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises((OSError, CheckpointError), match="No space left"):
        write_embeddings(path, torch.eye(4), ["a", "b", "c", "d"])
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_what_embed_and_export_say_in_json_and_quietly(run, faces, capsys, tmp_path):
    image, out = str(faces / "ver_data" / "v0a.jpg"), tmp_path / "e.csv"
    assert main(["embed", str(run), image, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(out), "images": 1, "dimensions": 8, "left_out": {}}
    assert main(["embed", str(run), image, "--out", str(out), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["export", str(run), "--out", str(tmp_path / "net.pt2"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "float32"


def test_verify(run, faces, capsys):
    image, other = str(faces / "ver_data" / "v0a.jpg"), str(faces / "ver_data" / "v1b.jpg")
    assert main(["verify", str(run), image, image, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["cosine"] == pytest.approx(1, abs=1e-5)
    assert answer["same"] is True
    assert answer["threshold"] == facezoo.training.load_trained(run).metrics["threshold"]
    assert "validation pairs" in answer["origin"]
    assert main(["verify", str(run), image, other, "--threshold", "0.9999999"]) == 0
    assert "different persons (threshold 1.000000, given with --threshold)" in capsys.readouterr().out


def test_export(run, capsys, tmp_path):
    from facezoo.deploy import ExportedNetwork
    from facezoo.training import load_trained

    assert main(["export", str(run), "--out", str(tmp_path / "net.pt2")]) == 0
    assert "max. difference" in capsys.readouterr().out
    trained = load_trained(run)
    exported = ExportedNetwork(tmp_path / "net.pt2")
    assert exported.preprocessing == trained.preprocessing
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(exported(images), trained.model(images).detach(), rtol=1e-4, atol=1e-5)
    assert "--img-size" in error_of(capsys, ["export", str(run), "--out", str(tmp_path / "a.pt2"), "--img-size", "32"])


@pytest.fixture
def published(run, tmp_path, monkeypatch):
    """The network of the run in all forms that commands take: as a folder, a bare weight file, registered weights."""
    trained = facezoo.training.load_trained(run)
    folder = tmp_path / "folder"
    config = facezoo.weights.save_pretrained(trained.model, folder, license="mit", classes=trained.classes)
    facezoo.weights.save_file_atomic(tmp_path / "bare.safetensors", trained.model.state_dict(), {})
    record = facezoo.weights.WeightsRecord(
        model="tiny_face", tag="faces", repository="me/net", revision="main", sha256=config.sha256, license="mit",
        source="this test", layout="facezoo", preprocessing=trained.preprocessing,
        model_args={key: value for key, value in config.model.items() if key != "name"},
    )  # fmt: skip
    for module in ("pretrained", "fetching", "hub"):  # the Hub, as if it had been asked before
        monkeypatch.setattr(f"facezoo.weights.{module}.download", lambda repository, file, **_: folder / file)
    facezoo.register_weights(record)
    yield {
        "run folder": [str(run)],
        "checkpoint": [str(run / "best.safetensors")],
        "local-dir": [f"local-dir:{folder}"],
        "hf-hub": ["hf-hub:me/net"],
        "registered": ["tiny_face", "--pretrained", "faces"],
    }
    facezoo.weights.WEIGHTS.unregister("tiny_face.faces")


def test_every_command_takes_every_form_of_a_network(run, published, faces, capsys, tmp_path):
    from facezoo.deploy import ExportedNetwork

    image, other = (str(faces / "ver_data" / name) for name in ("v0a.jpg", "v1b.jpg"))
    images = torch.randn(2, 3, 16, 16)
    expected = facezoo.training.load_trained(run).model(images).detach()
    cosines = set()
    for form, network in published.items():
        assert main(["export", *network, "--out", str(tmp_path / "net.pt2")]) == 0, form
        exported = ExportedNetwork(tmp_path / "net.pt2")
        torch.testing.assert_close(exported(images), expected, rtol=1e-4, atol=1e-5)
        assert "random weights" not in capsys.readouterr().err
        assert main(["verify", *network, image, other, "--threshold", "0.5", "--json", "--device", "cpu"]) == 0
        cosines.add(json.loads(capsys.readouterr().out)["cosine"])
    assert len(cosines) == 1


def test_a_bare_weight_file_needs_its_model(run, published, faces, capsys, tmp_path):
    bare, image = str(tmp_path / "bare.safetensors"), str(faces / "ver_data" / "v0a.jpg")
    assert "not a checkpoint of `facezoo train`" in error_of(capsys, ["embed", bare, image])
    assert "does not fit" in error_of(capsys, ["embed", bare, image, "--model", "resnet18"])


def test_names_of_networks_that_do_not_work(published, faces, capsys, tmp_path):
    image, out = str(faces / "ver_data" / "v0a.jpg"), ["--out", str(tmp_path / "a.pt2")]
    assert "--pretrained TAG (faces)" in error_of(capsys, ["embed", "tiny_face", image])
    assert "--pretrained TAG (none is registered)" in error_of(capsys, ["embed", "vit_t", image])
    assert "did you mean 'faces'" in error_of(capsys, ["export", "tiny_face", "--pretrained", "face", *out])
    assert "cannot be both" in error_of(
        capsys, ["export", "tiny_face", "--pretrained", "faces", "--model", "tiny_face", *out]
    )
    assert "no file resnet5O; unknown model 'resnet5O'; did you mean 'resnet50'" in error_of(
        capsys, ["export", "resnet5O", *out]
    )


def test_submit(run, faces, capsys, tmp_path):
    out = tmp_path / "submission.csv"
    message = error_of(capsys, ["submit", str(run), str(faces), "--term", "f24", "--out", str(out)])
    assert "12 rows, expected 5,000; pass expected_rows (--rows) if your test list has another length" in message
    assert not out.exists()
    assert main(["submit", str(run), str(faces), "--term", "f24", "--out", str(out), "--rows", "12"]) == 0
    lines = out.read_text().splitlines()
    assert lines[0] == "ID,Label"
    assert len(lines) == 13
    assert all(-1.001 <= float(line.split(",")[1]) <= 1.001 for line in lines[1:])
    assert "12 rows" in capsys.readouterr().out
    labels = tmp_path / "labels.csv"
    assert (
        main(["submit", str(run), str(faces), "--term", "S22", "--task", "classification", "--out", str(labels)]) == 0
    )
    assert len(labels.read_text().splitlines()) == 11
    assert "task" in error_of(capsys, ["submit", str(run), str(faces), "--term", "S22"])


def test_other_packages_are_imported_first(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_heads.py").write_text(
        "from facezoo.models import get_model_spec, register_model\nimport dataclasses\n"
        "register_model(dataclasses.replace(get_model_spec('tiny_face'), name='my_face'))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["--import", "my_heads", "models", "my_*"]) == 0
    assert "my_face" in capsys.readouterr().out
    facezoo.models.MODELS.unregister("my_face")


def test_a_module_of_the_current_folder_is_imported(tmp_path, monkeypatch, capsys):
    """``facezoo``, unlike ``python -m facezoo``, starts with the folder of the script on its path."""
    (tmp_path / "heads_beside_me.py").write_text("print('imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert main(["--import", "heads_beside_me", "models", "tiny_face"]) == 0
    assert "imported" in capsys.readouterr().out


def test_loading_draws_nothing_at_random(run):
    torch.manual_seed(1)
    first = facezoo.training.load_trained(run)
    torch.manual_seed(2)
    second = facezoo.training.load_trained(run)
    image = torch.ones(1, 3, 16, 16)
    assert torch.equal(first.model(image), second.model(image))


def test_a_warning_is_told_without_a_line_of_code(tmp_path):
    """In a process of its own: here warnings are errors."""
    faces = write_faces(tmp_path / "faces")
    person = next(path for path in (faces / "cls_data" / "train").iterdir())
    (person / "photo.heic").touch()
    options = ["--model", "resnet10_tiny", "--img-size", "16", "--device", "cpu", "--batch-size", "10000"]
    done = subprocess.run(
        [sys.executable, "-m", "facezoo", "train", str(faces), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    first, last = done.stderr.splitlines()
    assert first.startswith("facezoo: warning: ")
    assert "photos left out: 1 .heic" in first
    assert last.startswith("facezoo: error: ")
