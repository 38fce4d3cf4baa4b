from __future__ import annotations

import math

import pytest
import torch

from choosing import others_in_ci
from facezoo.training import At, Trainer, list_schedules
from facezoo.training.schedules import SCHEDULES, find_schedule, learning_rate_factor

TOTAL, EPOCH = 100, 10


def curve(name: str, *, warmup: int = 0, final: float = 0.0, history=(), **options) -> list[float]:
    def at(update: int) -> At:
        return At(update, TOTAL, warmup, EPOCH, final, history)

    schedule = find_schedule(name, options, at(0))
    return [learning_rate_factor(schedule, options, at(update)) for update in range(TOTAL)]


def of_torch(make, **options) -> list[float]:
    """The same from torch's own scheduler, as an oracle."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **options)
    factors = []
    for _ in range(TOTAL):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


torch_lr = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("name", "options", "make", "theirs"),
    [
        ("cosine", {}, torch_lr.CosineAnnealingLR, {"T_max": TOTAL}),
        ("linear", {}, torch_lr.PolynomialLR, {"total_iters": TOTAL, "power": 1.0}),
        ("polynomial", {"power": 3.0}, torch_lr.PolynomialLR, {"total_iters": TOTAL, "power": 3.0}),
        ("step", {"every": 3, "gamma": 0.5}, torch_lr.StepLR, {"step_size": 30, "gamma": 0.5}),
        ("multi_step", {"milestones": [2, 5.5]}, torch_lr.MultiStepLR, {"milestones": [20, 55]}),
        ("warm_restarts", {"first": 1, "factor": 2}, torch_lr.CosineAnnealingWarmRestarts, {"T_0": 10, "T_mult": 2}),
        ("constant", {}, torch_lr.ConstantLR, {"factor": 1.0}),
    ],
)
def test_schedules_against_torch(name, options, make, theirs):
    assert curve(name, **options) == pytest.approx(of_torch(make, **theirs), abs=1e-9)


def test_schedules_that_torch_has_otherwise():
    cycle = curve("one_cycle", rise=0.25, start=0.1, final=0.05)
    assert cycle[0] == pytest.approx(0.1)
    assert cycle[25] == max(cycle) == 1.0
    assert cycle[:26] == sorted(cycle[:26])
    assert cycle[25:] == sorted(cycle[25:], reverse=True)
    flat = curve("wsd", warmup=10, cooldown=0.5)
    assert flat[:10] == [(update + 1) / 11 for update in range(10)]
    assert flat[10:56] == [1.0] * 46
    assert flat[78] == pytest.approx(1 - math.sqrt((78 - 10) / 90 * 2 - 1))
    assert curve("plateau", history=[0.5, 0.6, 0.6, 0.6, 0.6], patience=2)[-1] == pytest.approx(0.1)
    assert curve("plateau", history=[0.5, 0.6, 0.6, 0.6], patience=2)[-1] == 1.0
    assert curve("plateau", history=[0.5] * 30, patience=0, final=0.02)[-1] == 0.02
    # it counts anew after a fall, and what is better by less than the threshold is not better
    assert curve("plateau", history=[0.5] * 5, patience=1)[-1] == pytest.approx(0.01)
    assert curve("plateau", history=[0.5, 0.505, 0.509], patience=1, threshold=0.01)[-1] == pytest.approx(0.1)
    assert curve("plateau", history=[0.5, 0.505, 0.52], patience=1, threshold=0.01)[-1] == 1.0


@pytest.mark.parametrize("name", ["cosine", "linear", "polynomial", "warm_restarts", "wsd"])
def test_every_schedule_has_the_warm_up_and_stays_above_its_end(name):
    factors = curve(name, warmup=10, final=0.1)
    assert factors[:10] == [(update + 1) / 11 for update in range(10)]
    assert factors[10] == 1.0
    assert min(factors[10:]) >= 0.1 - 1e-12


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ("step", {"evry": 3}, "unknown option of the schedule 'step' 'evry'; did you mean 'every'"),
        ("multi_step", {}, "schedule 'multi_step': .*milestones"),
        ("multi_step", {"milestones": []}, "at least one"),
        ("step", {"gamma": 2.0}, r"gamma is a factor in \(0, 1\]"),
        ("one_cycle", {}, "set warmup_epochs to 0"),
        ("wsd", {"cooldown": 0}, "cooldown"),
        ("polynomial", {"power": "two"}, "schedule 'polynomial'"),
    ],
)
def test_what_is_wrong_is_said_at_the_start(config, name, options, message):
    with pytest.raises(ValueError, match=message):
        Trainer(config(schedule=name, schedule_options=options))


OPTIONS = {"multi_step": {"milestones": [0.5, 1.5]}, "step": {"every": 0.5}, "warm_restarts": {"first": 0.6}}
OPTIONS |= {"plateau": {"patience": 0, "gamma": 0.5}}


@pytest.mark.parametrize("name", others_in_ci(list_schedules(), ("cosine", "plateau", "wsd")))
def test_every_schedule_goes_on_bit_for_bit(config, tmp_path, name):
    own = {"schedule": name, "schedule_options": OPTIONS.get(name, {}), "epochs": 3}
    own["warmup_epochs"] = 0 if name == "one_cycle" else 0.5
    whole = Trainer(config(**own, out=str(tmp_path / "whole"))).fit()
    Trainer(config(**own, stop_after=12)).fit()
    resumed = Trainer(config(**own)).fit(resume=True)
    assert (resumed.folder / "steps.csv").read_text().count("\n") == 16
    rates = [
        [line.split(",")[2:4] for line in (run.folder / "steps.csv").read_text().splitlines()]
        for run in (whole, resumed)
    ]
    assert rates[0] == rates[1]
    assert set(SCHEDULES.list()) == set(list_schedules())
