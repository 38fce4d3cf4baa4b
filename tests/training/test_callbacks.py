from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from facezoo.training import (
    Callback,
    Trainer,
    join_distributed,
    list_loggers,
    list_optimizers,
    list_schedules,
    register_logger,
    register_optimizer,
    register_schedule,
)
from facezoo.training.loggers import LOGGERS
from facezoo.training.optimizers import OPTIMIZERS
from facezoo.training.schedules import SCHEDULES


class Watcher(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, object]] = []

    def on_start(self, run):
        self.seen.append(("start", run.updates))

    def on_update(self, row):
        self.seen.append(("update", row["update"]))

    def on_epoch(self, row):
        self.seen.append(("epoch", row["epoch"]))
        assert 0 <= row["eer"] <= 1

    def on_end(self):
        self.seen.append(("end", None))


def test_callbacks_see_every_row(config):
    watcher = Watcher()
    Trainer(config(log_interval=3), callbacks=[watcher]).fit()
    updates = [("update", number) for number in (3, 5, 6, 9, 10)]
    epochs = [("epoch", 1), ("epoch", 2)]
    assert watcher.seen == [("start", 0), *updates[:2], epochs[0], *updates[2:], epochs[1], ("end", None)]


def test_an_epoch_shorter_than_the_log_interval_has_its_figures(config):
    result = Trainer(config(log_interval=1000)).fit()
    assert all(0 <= row["train_accuracy"] <= 1 for row in result.history)
    steps = (result.folder / "steps.csv").read_text().split()
    assert [line.split(",")[0] for line in steps] == ["update", "5", "10"]


def test_a_plugin_adds_an_optimizer_a_schedule_and_a_logger(config):
    """Without a line in facezoo."""
    rows = []

    @register_logger("mine")
    class Mine(Callback):
        def on_epoch(self, row):
            rows.append(row)

    @register_schedule("square_root")
    def square_root(at):
        return (1 - at.progress) ** 0.5

    @register_optimizer("half_sgd")
    def half_sgd(groups, options):
        return torch.optim.SGD(groups, lr=options.lr, momentum=options.momentum / 2)

    try:
        assert {"mine", "csv", "tensorboard", "wandb"} <= set(list_loggers())
        assert "square_root" in list_schedules()
        assert {"half_sgd", "sgd", "adamw", "muon", "radam"} <= set(list_optimizers())
        own = {"optimizer": "half_sgd", "schedule": "square_root", "loggers": ["mine"], "warmup_epochs": 0}
        trainer = Trainer(config(epochs=1, **own))
        assert trainer.optimizer.defaults["momentum"] == 0.45
        trainer.fit()
        assert rows[0]["lr"] == pytest.approx(0.05 * 0.2**0.5)
    finally:
        for registry, name in ((LOGGERS, "mine"), (SCHEDULES, "square_root"), (OPTIMIZERS, "half_sgd")):
            registry.unregister(name)


def test_weights_and_biases_get_the_key_of_the_course(config, monkeypatch):
    logged, begun = [], []
    run = SimpleNamespace(log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end"))

    def init(**options):
        begun.append(options)
        return run

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    Trainer(config(loggers=["wandb"], stop_after=5)).fit()
    Trainer(config(loggers=["wandb"])).fit(resume=True)
    assert begun[0]["id"] == begun[1]["id"]
    epochs = [entry for entry in logged if entry != "end" and "EER" in entry[1]]
    assert [step for step, _ in epochs] == [5, 10]
    assert all(values["EER"] == values["eer"] for _, values in epochs)
    assert logged.count("end") == 2


def test_wandb_that_is_not_installed_is_said_before_the_training(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(RuntimeError, match=r"facezoo\[wandb\]"):
        Trainer(config(loggers=["wandb"])).fit()
    with pytest.raises(ValueError, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        Trainer(config(loggers=["tensorbord"]))


def test_the_constructor_joins_no_process_group(config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(RuntimeError, match="one of 2 processes of torchrun"):
        Trainer(config())
    assert not torch.distributed.is_initialized()
    monkeypatch.undo()
    with join_distributed("cpu") as process:
        assert (process.rank, process.world_size) == (0, 1)
        assert Trainer(config(), process=process).state.updates == 0  # the state is there from the beginning
