"""Frozen parts, learning rates by part, several heads at once."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from facezoo.cli import main
from facezoo.training import TrainConfig, Trainer
from facezoo.training.freezing import Freezing, find_part
from facezoo.weights import CheckpointError, read_file


def state_of(trainer: Trainer, part: str) -> dict[str, torch.Tensor]:
    return {
        name: value.clone() for name, value in trainer.objective.model.state_dict().items() if name.startswith(part)
    }


def test_frozen_parts_keep_weights_and_running_statistics(config):
    trainer = Trainer(config(freeze=["stem", "stages.0"], weight_decay=0.1, epochs=1))
    before = {part: state_of(trainer, part) for part in ("stem", "stages.0", "stages.1", "head")}
    assert any("running_mean" in name for name in before["stem"])
    trainer.fit()
    for part in ("stem", "stages.0"):
        after = state_of(trainer, part)
        assert [name for name, value in before[part].items() if not torch.equal(after[name], value)] == []
    for part in ("stages.1", "head"):
        after = state_of(trainer, part)
        assert [name for name, value in before[part].items() if torch.equal(after[name], value)] == []
    assert not any(name.startswith("optimizer.model.stem") for name in read_file(trainer.last)[0])


def test_a_part_begins_to_train_in_its_epoch(config, tmp_path):
    own = {"freeze": ["stem", "stages.0"], "unfreeze": {"stages.0": 2}, "epochs": 3, "ema_decay": 0.9}
    first = Trainer(config(**own, stop_after=5))
    before = state_of(first, "stages.0")
    first.fit()
    assert all(torch.equal(value, before[name]) for name, value in state_of(first, "stages.0").items())
    Trainer(config(**own, stop_after=7)).fit(resume=True)
    resumed = Trainer(config(**own))
    stem = state_of(resumed, "stem")
    resumed.fit(resume=True)
    assert not any(torch.equal(value, before[name]) for name, value in state_of(resumed, "stages.0").items())
    assert all(torch.equal(value, stem[name]) for name, value in state_of(resumed, "stem").items())
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    one, other = read_file(whole.last)[0], read_file(resumed.last)[0]
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_names_of_parts(config):
    backbone = Trainer(config()).objective.model
    assert find_part(backbone, "stages.0-1") == [backbone.stages[0], backbone.stages[1]]
    assert find_part(backbone, "stages.0-1.blocks.0") == [stage.blocks[0] for stage in backbone.stages]
    with pytest.raises(
        ValueError, match=r"no part 'stages.7'; its parts are stem, stages, head \(stages.0 to stages.1\)"
    ):
        find_part(backbone, "stages.7")
    with pytest.raises(ValueError, match="no part ''"):
        find_part(backbone, "")
    with pytest.raises(ValueError, match="smaller number to a larger"):
        find_part(backbone, "stages.2-0")
    with pytest.raises(ValueError, match="leaves nothing of the backbone"):
        Freezing(nn.Sequential(nn.Linear(2, 2)), ["0"], {})
    with pytest.raises(ValueError, match="unfreeze names 'head', which freeze does not"):
        config(freeze=["stem"], unfreeze={"head": 3})
    with pytest.raises(ValueError, match=r"unfreeze\['stem'\] must be an epoch from 2 on"):
        config(freeze=["stem"], unfreeze={"stem": 1})


def test_learning_rates_by_part(config):
    own = {"lr_scales": {"stem": 0.1, "stages.0": 0.5}, "head_lr_scale": 2.0, "lr": 0.4, "warmup_epochs": 0}
    trainer = Trainer(config(**own, joint={"arcface": {"weight": 0.5, "lr_scale": 3.0}, "center": 0.01}, margin="linear",
                             margin_options={}, joint_options={"arcface": {"scale": 16.0}}))  # fmt: skip
    trainer._move_schedules()
    names = {id(p): name for name, p in trainer.objective.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    for name, rate in rates.items():
        wanted = {"model.stem": 0.04, "model.stages.0": 0.2, "head": 0.8, "joint.parts.arcface": 2.4, "joint": 0.8}
        expected = next((value for prefix, value in wanted.items() if name.startswith(prefix)), 0.4)
        assert rate == pytest.approx(expected), name
    decayed = Trainer(config(layer_decay=0.5, lr=0.4, warmup_epochs=0))
    decayed._move_schedules()
    names = {id(p): name for name, p in decayed.objective.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in decayed.optimizer.param_groups for p in group["params"]}
    assert rates["head.weight"] == 0.4
    stem = next(rate for name, rate in rates.items() if name.startswith("model.stem"))
    assert stem == pytest.approx(0.4 * 0.5**3)
    with pytest.raises(ValueError, match="the backbone has no part 'trunk'"):
        Trainer(config(lr_scales={"trunk": 0.1}))


@pytest.mark.parametrize(
    ("schedule", "options"), [("warm_restarts", {"first": 0.5}), ("constant", {}), ("step", {"every": 1})]
)
def test_a_finished_run_goes_on_for_more_epochs_where_the_schedule_allows_it(config, tmp_path, schedule, options):
    """Then it is the longer run, bit for bit."""
    own = {"schedule": schedule, "schedule_options": options}
    whole = Trainer(config(**own, epochs=3, out=str(tmp_path / "whole"))).fit()
    assert Trainer(config(**own, epochs=2)).fit().finished
    longer = Trainer(config(**own, epochs=3)).fit(resume=True)
    assert (longer.finished, longer.updates) == (True, 15)
    one, other = read_file(whole.last)[0], read_file(longer.last)[0]
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_stable_phase_can_be_made_longer_until_it_cools_down(config):
    own = {"schedule": "wsd", "schedule_options": {"cooldown": 0.5}, "warmup_epochs": 0.2}
    Trainer(config(**own, epochs=4, stop_after=9)).fit()
    assert Trainer(config(**own, epochs=6, stop_after=20)).fit(resume=True).updates == 20
    with pytest.raises(CheckpointError, match=r"epochs: 6 in the run, 7 asked for.*--init-checkpoint"):
        Trainer(config(**own, epochs=7)).fit(resume=True)


def test_a_schedule_that_knows_its_end_cannot_be_made_longer(config):
    Trainer(config(epochs=2)).fit()
    with pytest.raises(
        CheckpointError, match=r"epochs: 2 in the run, 3 asked for.*one of more epochs from its weights"
    ):
        Trainer(config(epochs=3)).fit(resume=True)


def test_a_margin_beside_plain_softmax(config, tmp_path):
    """The sum of both losses, each with class centers, options, an engine and a learning rate of its own; it goes on exactly."""
    own = {
        "margin": "linear",
        "margin_options": {},
        "joint": {"arcface": {"weight": 1.5, "lr_scale": 0.5, "warmup": 4}, "dyn_arcface": 0.1},
        "joint_options": {"arcface": {"scale": 16.0, "margin": 0.2, "engine": "chunked"}},
    }
    trainer = Trainer(config(**own))
    joint = trainer.objective.joint.parts
    assert joint["arcface"].engine == "chunked"
    assert joint["dyn_arcface"].class_counts.tolist() == [8] * 5
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
    trainer.objective.eval()
    trainer.objective.joint.set_step(2)
    with torch.no_grad():
        total, embeddings = trainer.objective(images, labels)
        parts = trainer.objective.head(embeddings, labels), joint["arcface"](embeddings, labels)
        expected = parts[0] + 0.75 * parts[1] + 0.1 * joint["dyn_arcface"](embeddings, labels)
    torch.testing.assert_close(total, expected)
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    Trainer(config(**own, stop_after=7)).fit()
    resumed = Trainer(config(**own)).fit(resume=True)
    one, other = read_file(whole.last)[0], read_file(resumed.last)[0]
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    with pytest.raises(ValueError, match="unknown loss or margin 'arcfase'; did you mean 'arcface'"):
        Trainer(config(joint={"arcfase": 1.0}))


def test_unfreezing_that_has_no_effect_is_an_error(config):
    with pytest.raises(ValueError, match=r"unfreeze has no effect on stages\.1"):
        Trainer(config(freeze=["stages.0-1", "stages.1"], unfreeze={"stages.1": 2}))
    Trainer(config(freeze=["stages.0-1", "stages.1"], unfreeze={"stages.0-1": 2, "stages.1": 2}))


def test_trying_rates_leaves_frozen_norms_alone(config):
    trainer = Trainer(config(freeze=["stem"], epochs=4))
    before = state_of(trainer, "stem")
    assert len(list(trainer.try_rates([1e-4] * 6))) == 6
    assert [name for name, value in state_of(trainer, "stem").items() if not torch.equal(before[name], value)] == []


def test_what_was_accepted_when_a_run_went_on_is_what_it_goes_on_with(config, faces, tmp_path):
    """More epochs, and data in another place; and a stop is passed when the run goes on without one."""
    own = {"schedule": "constant", "warmup_epochs": 0.0}
    config(**own, epochs=2).save(tmp_path / "settings.json")
    run = str(tmp_path / "run")
    train = ["train", "--out", run, "--quiet"]
    assert main([*train, "--config", str(tmp_path / "settings.json"), "--stop-epoch", "1"]) == 0
    saved = TrainConfig.load(tmp_path / "run" / "config.json")
    assert (saved.optimization.epochs, saved.output.stop_epoch) == (2, None)
    moved = tmp_path / "moved"
    shutil.copytree(faces, moved)
    assert main([*train, str(moved), "--resume", "--epochs", "4", "--stop-epoch", "2"]) == 0
    saved = TrainConfig.load(tmp_path / "run" / "config.json")
    assert (saved.optimization.epochs, saved.data.path, saved.output.stop_epoch) == (4, str(moved), None)
    assert main([*train, "--resume"]) == 0
    assert len((tmp_path / "run" / "epochs.csv").read_text().splitlines()) == 5
    # a run of before, whose config.json has its stop
    config(**own, epochs=4, out=run, data=str(moved), stop_epoch=4).save(tmp_path / "run" / "config.json")
    assert main([*train, "--resume", "--epochs", "5"]) == 0
    assert len((tmp_path / "run" / "epochs.csv").read_text().splitlines()) == 6


def test_a_run_does_not_become_shorter_than_it_is(config):
    own = {"schedule": "constant", "warmup_epochs": 0.0}
    Trainer(config(**own, epochs=4, stop_epoch=2)).fit()
    with pytest.raises(CheckpointError, match=r"other settings.*epochs"):
        Trainer(config(**own, epochs=2)).fit(resume=True)


def test_several_seeds_go_on_with_their_own_settings(config, tmp_path, capsys):
    config(schedule="constant", warmup_epochs=0.0, seed=3).save(tmp_path / "settings.json")
    train = ["train", "--seeds", "2", "--out", str(tmp_path / "many"), "--quiet"]
    assert main([*train, "--config", str(tmp_path / "settings.json"), "--stop-epoch", "1"]) == 0
    assert main([*train, "--resume"]) == 0
    runs = [TrainConfig.load(tmp_path / "many" / f"seed{turn}" / "config.json") for turn in (0, 1)]
    assert [run.optimization.seed for run in runs] == [3, 4]
    assert len((tmp_path / "many" / "seed1" / "epochs.csv").read_text().splitlines()) == 3


def test_another_run_in_the_folder_has_no_recipe_of_the_first(config, tmp_path):
    run = Trainer(config(epochs=1)).fit().folder
    for name in ("recipe.json", "report.html"):
        (run / name).write_text("{}")
    Trainer(config(epochs=1)).fit(overwrite=True)
    assert not {path.name for path in run.iterdir()} & {"recipe.json", "report.html"}


def test_none_empties_a_list_on_the_command_line(config, tmp_path):
    config(freeze=["stem"], epochs=1).save(tmp_path / "settings.json")
    train = ["train", "--config", str(tmp_path / "settings.json"), "--out", str(tmp_path / "free"), "--quiet"]
    assert main([*train, "--freeze", "none"]) == 0
    assert TrainConfig.load(tmp_path / "free" / "config.json").model.freeze == ()


def test_the_result_as_json_has_no_infinity(config, tmp_path, capsys):
    config(epochs=1, best_metric="last").save(tmp_path / "settings.json")
    assert (
        main(["train", "--config", str(tmp_path / "settings.json"), "--out", str(tmp_path / "r"), "--quiet", "--json"])
        == 0
    )
    result = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(word))
    assert (result["best_metric"], result["best_value"]) == ("last", None)


def test_the_result_says_the_eer_itself(config, tmp_path, capsys):
    config(epochs=1).save(tmp_path / "settings.json")
    train = ["train", "--config", str(tmp_path / "settings.json"), "--out", str(tmp_path / "r"), "--quiet"]
    assert main([*train, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best_metric"] == "eer"
    assert result["best_value"] == pytest.approx(result["history"][0]["eer"])
    assert main([*train, "--resume"]) == 0
    assert f"(epoch 1, by eer: {result['best_value']:.2%})" in capsys.readouterr().out
