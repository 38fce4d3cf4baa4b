"""What is spread over ranks: the backbone (FSDP2), class centers, and the checkpoint itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import tiny_faces  # noqa: F401  (registers the tiny networks)
from facezoo.cli import main
from facezoo.training import Trainer, load_trained
from facezoo.training.sharded_files import newest_checkpoint, read_parts, whole_checkpoint
from facezoo.weights import CheckpointError, read_file
from facezoo.weights.run_format import find_checkpoint
from ranks import command_on_ranks

WHOLE = {"model": "tiny_convnext", "augment": "none", "epochs": 2, "drop_last": False, "batch_size": 12}  # 8 updates
AVERAGED = {**WHOLE, "ema_decay": 0.5, "clip_grad_norm": 0.5, "accumulation": 2, "log_interval": 3}


def weights(path: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in read_file(path)[0].items() if not name.startswith("optimizer.")}


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"fully_shard": True, "head_parallel": True, "checkpoint_format": "sharded"}, id="both"),
        pytest.param({"fully_shard": True, "head_parallel": True}, id="both_in_one_file", marks=pytest.mark.ci),
        pytest.param({"head_parallel": True, "checkpoint_format": "sharded"}, id="class_centers", marks=pytest.mark.ci),
        pytest.param(
            {"fully_shard": True, "checkpoint_format": "sharded", "optimizer": "adamw", "lr": 0.005},
            id="fully_shard",
            marks=pytest.mark.ci,
        ),
    ],
)
def test_from_one_rank_to_two_and_back(config, tmp_path, fields):
    """The middle on two ranks, through an evaluation, equals a run on one (relative 1e-4, absolute 1e-6, float32)."""
    spread = {name: fields[name] for name in ("head_parallel", "fully_shard") if name in fields}
    settings = {**AVERAGED, **{name: value for name, value in fields.items() if name not in spread}}
    whole = Trainer(config(**{**settings, "checkpoint_format": "single"}, out=str(tmp_path / "whole"))).fit()
    out = tmp_path / "parts"
    Trainer(config(**settings, out=str(out), stop_after=3)).fit()
    config(**settings, **spread, out=str(out), stop_after=6).save(tmp_path / "settings.json")
    command_on_ranks(["--import", "tiny_faces", "train", "--resume", "--config", str(tmp_path / "settings.json")], 2)
    in_parts = fields.get("checkpoint_format") == "sharded"
    if in_parts:
        assert not (out / "last.safetensors").exists()
        header = json.loads((out / "last.json").read_text())
        files = list((out / "last.parts").glob("*/*.safetensors"))
        assert len(files) == 2  # one of each rank, and none of an older checkpoint
        assert {file.parent.name for file in files} == {header["folder"]}
        of_second = read_file(max(files))[0]
        spread_over = "head.weight" if "head_parallel" in fields else "model.head.embedding.weight"
        assert any(name == spread_over or name.startswith("optimizer.") for name in of_second)
        _require_a_hole_to_be_noticed(out, files, tmp_path / "holed")
    ended = Trainer(config(**settings, out=str(out))).fit(resume=True)
    one = whole_checkpoint(out) if in_parts else ended.last
    assert weights(one).keys() == weights(whole.last).keys()
    torch.testing.assert_close(weights(one), weights(whole.last), rtol=1e-4, atol=1e-6)
    for mine, theirs in zip(ended.history, whole.history, strict=True):
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
    assert load_trained(out).head.logits(torch.zeros(2, 8)).shape == (2, 5)


def _require_a_hole_to_be_noticed(run: Path, files: list[Path], copy: Path) -> None:
    """Rows that only the first rank wrote are gone, but the last ones, and so the size, are there."""
    shutil.copytree(run, copy)
    first, second = sorted(files)
    (copy / first.relative_to(run)).unlink()
    shapes = json.loads((run / "last.json").read_text())["shapes"]
    _edit(copy, shapes={name: shapes[name] for name in read_file(second)[0]})
    with pytest.raises(CheckpointError, match="is not there as a whole"):
        read_parts(copy / "last.json", {})


def test_parts_of_one_process_go_on_bit_for_bit_and_become_one_file(config, tmp_path, capsys):
    whole = Trainer(config(**AVERAGED, out=str(tmp_path / "whole"))).fit()
    out = tmp_path / "parts"
    settings = config(**AVERAGED, out=str(out), checkpoint_format="sharded", stop_after=3)
    Trainer(settings).fit()
    (out / "best.safetensors").unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match="its checkpoint in parts; make one file of it"):
        find_checkpoint(out)
    assert main(["train", "--out", str(out), "--one-file"]) == 0
    assert "written" in capsys.readouterr().out
    assert json.loads(read_file(out / "last.safetensors")[1]["state"])["updates"] == 3
    ended = Trainer(settings.replace(stop_after=None, checkpoint_format="single")).fit(resume=True)
    assert not (out / "last.json").exists()
    assert not (out / "last.parts").exists()
    expected, got = read_file(whole.last)[0], read_file(ended.last)[0]
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.fixture
def in_parts(config, tmp_path) -> Path:
    out = tmp_path / "run"
    Trainer(config(**WHOLE, out=str(out), checkpoint_format="sharded", stop_after=1)).fit()
    return out


def test_the_newer_of_two_is_taken(config, in_parts, tmp_path):
    assert newest_checkpoint(in_parts) == in_parts / "last.json"
    later = Trainer(config(**WHOLE, out=str(tmp_path / "later"), stop_after=2)).fit()
    shutil.copy(later.last, in_parts)  # killed before the older one was removed
    assert newest_checkpoint(in_parts) == in_parts / "last.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run, part: part.unlink(), "is not there as a whole"),
        (lambda run, part: part.write_bytes(part.read_bytes()[:100]), "cannot be read"),
        (lambda run, part: _edit(run, folder="../../elsewhere"), "folder is not a name that facezoo gives"),
        (lambda run, part: _edit(run, shapes={"head.weight": [5, 9]}), "is not there as a whole"),
        (lambda run, part: _edit(run, shapes={}), "is not one of this checkpoint's tensors"),
        (lambda run, part: (run / "last.json").write_text("{"), "the header of this checkpoint is damaged"),
    ],
)
def test_damaged_parts_have_one_error(in_parts, damage, message):
    damage(in_parts, next((in_parts / "last.parts").glob("*/*.safetensors")))
    with pytest.raises(CheckpointError, match=message) as error:
        read_parts(in_parts / "last.json", {})
    assert "\n" not in str(error.value)


def _edit(run: Path, **values: object) -> None:
    header = json.loads((run / "last.json").read_text())
    (run / "last.json").write_text(json.dumps({**header, **values}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"amp": "fp16"}, "amp must be bf16 or none with fully_shard"),
        ({"channels_last": True}, "channels_last must be false with fully_shard"),
        ({"freeze": ["stem"], "unfreeze": {"stem": 2}}, "unfreeze must be empty with fully_shard"),
        ({"optimizer": "muon"}, "optimizer must be one that steps each number by itself with fully_shard"),
    ],
)
def test_what_does_not_go_with_fully_shard(config, fields, message):
    with pytest.raises(ValueError, match=message):
        config(fully_shard=True, **fields)


def test_a_torch_without_it_says_so(config, monkeypatch):
    import torch.distributed.checkpoint as dcp

    monkeypatch.delattr(dcp, "HuggingFaceStorageWriter")
    with pytest.raises(ValueError, match=r"needs torch 2\.8 or newer.*this is .*checkpoint_format='single'"):
        Trainer(config(checkpoint_format="sharded"))
