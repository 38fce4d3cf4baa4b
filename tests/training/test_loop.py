"""The loop of the trainer, detail by detail: what one line of it decides."""

from __future__ import annotations

import pytest
import torch

import facezoo
from facezoo.margins import MarginHead
from facezoo.training import Callback, NonFiniteLossError, Trainer
from facezoo.training.trainer import Trainer as TrainerClass
from facezoo.weights import CheckpointError


class Rows(Callback):
    def __init__(self, trainer=None):
        self.epochs, self.modes, self.trainer = [], set(), trainer

    def on_update(self, row):
        self.modes.add(self.trainer.objective.model.training if self.trainer else None)

    def on_epoch(self, row):
        self.epochs.append(row)


def test_the_last_epoch_is_always_evaluated_and_an_epoch_starts_its_sums_anew(config):
    rows = Rows()
    trainer = Trainer(config(epochs=3, eval_every=2), callbacks=[rows])
    trainer.fit()
    assert [row["epoch"] for row in rows.epochs if "eval_seconds" in row] == [2, 3]
    state = trainer.state
    assert (state.position, state.loss_sum, state.loss_count, state.correct, state.seen) == (0, 0.0, 0, 0.0, 0)


def test_a_network_in_evaluation_mode_is_trained_in_training_mode(config):
    settings = config(epochs=1)
    model = facezoo.create_model("tiny_face", img_size=16, embedding_dim=8).eval()
    rows = Rows()
    rows.trainer = Trainer(settings, model=model, callbacks=[rows])
    rows.trainer.fit()
    assert rows.modes == {True}


def test_of_equal_epochs_the_first_is_the_best_and_fewer_epochs_do_not_resume(config):
    settings = {"schedule": "constant", "warmup_epochs": 0.0, "best_metric": "accuracy"}
    trainer = Trainer(config(**settings))
    result = trainer.fit()
    kept = (trainer.state.best, trainer.state.best_epoch)
    row: dict[str, float] = {"train_loss": 1.0}
    trainer._choose(row, {"dev_accuracy": trainer.state.best})
    assert (row["best"], trainer.state.best, trainer.state.best_epoch) == (0, *kept)
    with pytest.raises(CheckpointError, match="epochs: 2 in the run, 1 asked for"):
        Trainer(config(**settings, epochs=1)).fit(resume=True)
    assert Trainer(config(**settings, epochs=3)).fit(resume=True).epochs == result.epochs + 1


def test_weights_that_the_last_update_of_an_epoch_breaks_are_not_evaluated(config, monkeypatch):
    own = TrainerClass._update

    def update(self, micro_batches):
        loss = own(self, micro_batches)
        if self.state.updates + 1 == self.batches.updates_per_epoch:
            with torch.no_grad():
                self.objective.head.weight[0, 0] = float("nan")
        return loss

    monkeypatch.setattr(TrainerClass, "_update", update)
    with pytest.raises(NonFiniteLossError, match=r"NaN or infinity in 1 weights, first of them head\.weight"):
        Trainer(config(epochs=1)).fit()


def test_heads_are_told_the_update_in_every_micro_batch(config, monkeypatch):
    seen, own = [], MarginHead.set_step

    def set_step(self, step):
        seen.append(step)
        own(self, step)

    monkeypatch.setattr(MarginHead, "set_step", set_step)
    Trainer(config(epochs=1, accumulation=2)).fit()
    assert seen == []  # nothing in ArcFace depends on the step
    warmed = config(epochs=1, accumulation=2, margin_options={"warmup_steps": 3})
    result = Trainer(warmed).fit(overwrite=True)
    assert seen == [update for update in range(result.updates) for _ in range(2)]
