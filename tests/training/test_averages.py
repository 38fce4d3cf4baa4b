"""Plain averages of weights, batch norms measured anew, one batch again and again, and the scan of learning rates."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from facezoo.cli import main
from facezoo.training import Trainer, WeightAverage, load_trained
from facezoo.training.lr_finder import find_learning_rate, smooth
from facezoo.weights import read_file


def test_the_plain_average_is_the_mean_of_the_weights_from_its_start_on():
    module = nn.Linear(3, 2)
    average, seen = WeightAverage(module, None, start=2), []
    for update in range(1, 7):
        with torch.no_grad():
            module.weight.normal_(generator=torch.Generator().manual_seed(update))
        average.update(module, update)
        if update <= 2:
            assert torch.equal(average.tensors["weight"], module.weight)
        else:
            seen.append(module.weight.detach().clone())
            torch.testing.assert_close(average.tensors["weight"], torch.stack(seen).mean(0))


def test_statistics_measured_anew_are_those_of_the_averaged_weights(config):
    """Against a loop over the same batches by hand; the weights that train keep their own."""
    settings = config(epochs=2, swa_start=2, recalibrate=3, freeze=["stem"], best_metric="last")
    trainer = Trainer(settings)
    result = trainer.fit()
    averaged = load_trained(result.best).model
    own = {name: value.clone() for name, value in averaged.state_dict().items()}
    for name, module in averaged.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not name.startswith("stem"):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for batch in list(trainer.batches.updates(1, 0))[:3]:
            averaged(batch[0][0])
    changed = 0
    for name, value in averaged.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(own[name], value, msg=name)
            changed += not torch.allclose(value, trainer.objective.model.state_dict()[name])
    assert changed


@pytest.mark.parametrize(
    "fields", [{"swa_start": 2}, {"swa_start": 2, "recalibrate": 2}, {"ema_decay": 0.8, "recalibrate": 2}]
)
def test_an_averaged_run_goes_on_exactly(config, tmp_path, fields):
    own = {"epochs": 3, "augment": "light", "checkpoint_updates": 2, **fields}
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    Trainer(config(**own, out=str(tmp_path / "parts"), stop_after=8)).fit()
    parts = Trainer(config(**own, out=str(tmp_path / "parts"))).fit(resume=True)
    for mine, theirs in ((parts.last, whole.last), (parts.best, whole.best)):
        expected, got = read_file(theirs)[0], read_file(mine)[0]
        assert [name for name, value in expected.items() if not torch.equal(value, got[name])] == []


def test_averages_that_mean_nothing(config):
    for fields, message in (
        ({"swa_start": 2, "ema_decay": 0.9}, "choose one"),
        ({"swa_start": 9}, "swa_start must be at most epochs"),
        ({"recalibrate": 2}, "is for averaged weights"),
        ({"init_pretrained": "a", "init_checkpoint": "b", "init_head": "checkpoint"}, "have no class centers"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**fields)


def test_one_batch_is_learned_by_heart(config):
    settings = config(overfit_batch=True, margin="linear", margin_options={}, epochs=12, lr=0.2, momentum=0.0)
    trainer = Trainer(settings)
    first, second = (next(trainer.batches.updates(epoch, position)) for epoch, position in ((0, 0), (1, 8)))
    assert torch.equal(first[0][0], second[0][0])
    history = trainer.fit().history
    assert history[-1]["train_loss"] < 0.1 * history[0]["train_loss"]


def test_the_scan_of_learning_rates_leaves_nothing_behind(config, tmp_path, capsys):
    settings = config(margin="linear", margin_options={}, out=str(tmp_path / "none"), epochs=1)
    scan = find_learning_rate(settings, updates=40, highest=1e3)
    assert scan.rates[0] == pytest.approx(1e-5)
    assert len(scan.rates) == len(scan.losses) == len(scan.smoothed)
    assert scan.suggestion is None or 1e-5 < scan.suggestion < 1e3
    assert not (tmp_path / "none").exists()
    settings.save(tmp_path / "settings.json")
    assert main(["train", "--config", str(tmp_path / "settings.json"), "--find-lr", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rates"]) >= 10
    with pytest.raises(ValueError, match="ten updates or more"):
        find_learning_rate(settings, updates=3)


def test_smoothing_keeps_a_constant():
    assert smooth([2.0] * 5) == pytest.approx([2.0] * 5)


def test_a_scan_on_a_parabola_finds_where_it_falls(config, monkeypatch):
    """Losses that fall around 1e-2 and rise again: the suggestion lies there."""

    def losses(self, rates):
        for rate in rates:
            yield 3.0 if rate < 3e-3 else 1.0 if rate < 1.0 else 50.0

    monkeypatch.setattr(Trainer, "try_rates", losses)
    scan = find_learning_rate(config(), updates=100)
    assert 2e-3 < scan.suggestion < 3e-2
    assert len(scan.rates) < 100
