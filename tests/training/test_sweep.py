"""Sweeps: what is tried, that it goes on, that a failing trial does not end it; several seeds of one run."""

from __future__ import annotations

import csv
import json
import random
import signal
from pathlib import Path

import pytest

from facezoo.cli import main
from facezoo.training import Trainer, TrainingInterrupted
from facezoo.training.sweep import Axis, SweepPlan, parse_axis, run_sweep


def table(root: Path) -> list[dict[str, str]]:
    with (root / "sweep.csv").open() as file:
        return list(csv.DictReader(file))


def test_axes():
    assert parse_axis("lr=0.05,0.1").values == (0.05, 0.1)
    assert parse_axis("optimizer=sgd,muon").values == ("sgd", "muon")
    assert parse_axis("ema_decay=null,0.9").values == (None, 0.9)
    wide = parse_axis("lr=0.001..1:log")
    drawn = [wide.draw(random.Random(seed)) for seed in range(400)]
    assert all(0.001 <= value <= 1 for value in drawn)
    assert 0.4 < sum(value < 0.0316 for value in drawn) / 400 < 0.6  # half of them below the geometric mean
    for text in ("lr", "lr=", "=1", "lr=1..0", "lr=0..1:log", "lr=a..b", "lr=1..2:exp"):
        with pytest.raises(ValueError, match="--vary"):
            parse_axis(text)


def test_a_grid_has_all_points_and_one_folder_each(config, tmp_path):
    plan = SweepPlan(config(epochs=1), (Axis("lr", (0.01, 0.1)), Axis("margin_options.margin", (0.1, 0.2))))
    trials = run_sweep(plan, tmp_path / "sweep")
    assert len(trials) == len(table(tmp_path / "sweep")) == 4
    settings = json.loads((tmp_path / "sweep" / "trial-003" / "config.json").read_text())
    assert settings["optimization"]["lr"] == 0.1
    assert settings["model"]["margin_options"] == {"scale": 16.0, "margin": 0.2}
    figures = [float(row["eer"]) for row in table(tmp_path / "sweep")]
    assert figures == sorted(figures)
    assert "<picture>" in (tmp_path / "sweep" / "sweep.html").read_text()


def test_it_goes_on_and_a_trial_that_fails_is_noted(config, tmp_path):
    plan = SweepPlan(config(epochs=1), (Axis("lr", (0.01, 0.1, 0.2)),), seeds=2)
    asked: list[tuple[float, int]] = []

    def train(own, device):
        asked.append((own.optimization.lr, own.optimization.seed))
        if own.optimization.lr == 0.2:
            raise RuntimeError("out of memory")
        Trainer(own).fit(resume=True)

    def interrupted(own, device):
        if own.optimization.lr == 0.1:
            raise KeyboardInterrupt
        train(own, device)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, tmp_path / "sweep", run=interrupted)
    assert asked[:2] == [(0.01, 0), (0.01, 1)]
    asked.clear()
    trials = run_sweep(plan, tmp_path / "sweep", run=train)
    assert (0.01, 0) not in asked  # done before
    assert [len(trial.values) for trial in trials] == [2, 2, 0]
    last = table(tmp_path / "sweep")[-1]
    assert (last["lr"], last["problem"]) == ("0.2", "RuntimeError: out of memory")
    assert table(tmp_path / "sweep")[0]["half of the 95 % interval"] != ""
    with pytest.raises(ValueError, match="holds another sweep"):
        run_sweep(SweepPlan(config(epochs=2), plan.axes, seeds=2), tmp_path / "sweep")


def test_it_goes_on_from_another_folder(config, tmp_path, monkeypatch):
    own = config(epochs=1)
    data = Path(own.data.path).resolve()
    monkeypatch.chdir(data.parent)
    axes, asked = (Axis("lr", (0.01,)),), []
    run_sweep(SweepPlan(own.replace(data=data.name), axes), tmp_path / "sweep")
    monkeypatch.chdir(tmp_path)
    plan = SweepPlan(own.replace(data=str(data)), axes)
    assert run_sweep(plan, "sweep", run=lambda *given: asked.append(given))[0].problem == ""
    assert asked == []
    (tmp_path / data.name).mkdir()
    with pytest.raises(ValueError, match="holds another sweep"):  # the same words, another folder
        run_sweep(SweepPlan(own.replace(data=data.name), axes), "sweep")


def test_halving_takes_the_best_to_the_end(config, tmp_path):
    plan = SweepPlan(config(epochs=4), (parse_axis("lr=0.001..0.1:log"),), method="halving", trials=4, reduction=2)
    assert plan.rungs() == [1, 2, 4]
    trials = run_sweep(plan, tmp_path / "sweep")
    assert sorted(trial.epochs for trial in trials) == [1, 1, 2, 4]
    assert trials[0].epochs == 4
    whole = Trainer(plan.config(trials[0].point).replace(out=str(tmp_path / "whole"))).fit()
    with (trials[0].folder / "epochs.csv").open() as file:  # stopping for the others changed nothing
        assert float(list(csv.DictReader(file))[-1]["train_loss"]) == whole.history[-1]["train_loss"]


def test_plans_that_mean_nothing(config):
    base, axis = config(), (Axis("lr", (0.1,)),)
    for wrong, message in (
        ({"axes": ()}, "a setting that varies"),
        ({"axes": (Axis("lrr", (1,)),)}, "did you mean 'lr'"),
        ({"axes": (Axis("lr", low=0.1, high=1.0),)}, "not a range; use --method random"),
        ({"axes": (Axis("lr.x", (1,)),)}, "not a mapping"),
        ({"method": "bayes"}, "method must be one of"),
        ({"metric": "loss"}, "metric must be one of"),
        ({"seeds": 0}, "seeds must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            SweepPlan(**{"base": base, "axes": axis, **wrong})


@pytest.mark.ci
def test_from_the_command_line_on_a_pool_of_two(config, faces, tmp_path, environment, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    config(epochs=1).save(tmp_path / "base.json")
    command = ["--import", "tiny_faces", "sweep", str(faces), "--config", str(tmp_path / "base.json"), "--quiet"]
    command += [
        "--vary",
        "lr=0.01,0.1",
        "--devices",
        "cpu",
        "cpu",
        "--set",
        "batch_size=10",
        "--out",
        str(tmp_path / "s"),
    ]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("trial,lr,epochs,seeds,eer")
    assert len(lines) == 3
    assert json.loads((tmp_path / "s" / "trial-000" / "config.json").read_text())["optimization"]["batch_size"] == 10


def test_several_seeds_of_one_run(config, tmp_path, capsys):
    config(epochs=1).save(tmp_path / "base.json")
    command = ["train", "--config", str(tmp_path / "base.json"), "--seeds", "2", "--out", str(tmp_path / "many")]
    assert main(command) == 0
    seeds = [
        json.loads(path.read_text())["optimization"]["seed"] for path in sorted(tmp_path.glob("many/*/config.json"))
    ]
    assert seeds == [0, 1]
    assert "±" in capsys.readouterr().out
    assert main([*command, "--resume", "--quiet"]) == 0
    assert "±" in capsys.readouterr().out  # the result is not silenced
    assert main([*command, "--resume", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["runs"]), found["best_epochs"]) == (2, [1, 1])
    assert main(["report", str(tmp_path / "many")]) == 2
    assert "has no config.json; it has the runs seed0, seed1: name one of them" in capsys.readouterr().err
    assert (
        main(["compare", str(tmp_path / "many"), str(tmp_path / "many" / "seed0"), "--out", str(tmp_path / "c.html")])
        == 0
    )
    assert "| many | 2 |" in capsys.readouterr().out


def test_a_signal_ends_the_sweep_and_not_only_the_trial(config, tmp_path):
    plan = SweepPlan(config(epochs=1), (Axis("lr", (0.01, 0.1)),))
    asked = []

    def signaled(own, device):
        asked.append(own.optimization.lr)
        raise TrainingInterrupted(signal.SIGTERM, tmp_path / "last", str(tmp_path))

    with pytest.raises(TrainingInterrupted):
        run_sweep(plan, tmp_path / "sweep", run=signaled)
    assert asked == [0.01]


def test_epochs_and_seeds_may_vary(config, tmp_path):
    plan = SweepPlan(config(epochs=3, schedule="cosine"), (Axis("epochs", (1, 4)), Axis("seed", (5, 9))), seeds=2)
    asked = {}

    def train(own, device):
        asked[own.output.folder] = (own.optimization.epochs, own.output.stop_epoch, own.optimization.seed)
        Path(own.output.folder).mkdir(parents=True)
        rows = "".join(f"{epoch},0.5\n" for epoch in range(1, own.optimization.epochs + 1))
        (Path(own.output.folder) / "epochs.csv").write_text(f"epoch,eer\n{rows}")

    trials = run_sweep(plan, tmp_path / "sweep", run=train)
    assert list(asked.values()) == [(e, e, s + k) for e in (1, 4) for s in (5, 9) for k in (0, 1)]
    assert sorted(trial.epochs for trial in trials) == [1, 1, 4, 4]
    for axis, method in (("epochs", "halving"), ("out", "grid"), ("stop_epoch", "grid")):
        with pytest.raises(ValueError, match=f"{axis} cannot vary in a sweep by {method}"):
            SweepPlan(config(), (Axis(axis, (1, 2)),), method=method)


def test_a_rung_compares_the_same_epoch_also_after_an_interruption(config, tmp_path):
    """The first trial is better at the rung's epoch and worse in the middle of the next one, where the sweep is killed."""
    plan = SweepPlan(config(epochs=9), (parse_axis("lr=0.01..0.1"),), method="halving", trials=3)
    curves = {0: [0.1] * 3 + [0.9] * 3 + [0.05] * 3, 1: [0.2] * 9, 2: [0.3] * 9}

    def train(own, device, until=99):
        folder = Path(own.output.folder)
        folder.mkdir(parents=True, exist_ok=True)
        done = min(own.output.stop_epoch, until)
        rows = "".join(f"{epoch + 1},{curves[int(folder.name[-1])][epoch]}\n" for epoch in range(done))
        (folder / "epochs.csv").write_text(f"epoch,eer\n{rows}")
        if done < own.output.stop_epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(plan, tmp_path / "sweep", run=lambda own, device: train(own, device, 5))
    trials = run_sweep(plan, tmp_path / "sweep", run=train)
    assert [(trial.number, trial.epochs, trial.values) for trial in trials] == [
        (0, 9, (0.05,)),
        (1, 3, (0.2,)),
        (2, 3, (0.3,)),
    ]


def test_a_metric_that_nothing_has_is_an_error(config, tmp_path):
    plan = SweepPlan(config(epochs=4, eval_every=4), (parse_axis("lr=0.01..0.1"),), method="halving", trials=3)
    with pytest.raises(ValueError, match=r"no trial has a value of eer.*eval_every=1"):
        run_sweep(plan, tmp_path / "sweep")


def test_words_mean_what_they_mean_in_train(config):
    plan = SweepPlan(
        config(), (Axis("clip_grad_norm", ("none", 5.0)), Axis("freeze", ("none", "stem")), Axis("batch_size", (12.6,)))
    )
    settings = [plan.config(point) for point in plan.points()]
    assert [one.optimization.clip_grad_norm for one in settings] == [None, None, 5.0, 5.0]
    assert [one.model.freeze for one in settings] == [(), ("stem",)] * 2
    assert settings[0].optimization.batch_size == 13
