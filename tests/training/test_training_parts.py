from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from facezoo.data import AUGMENT_RECIPES
from facezoo.losses import JointLoss
from facezoo.margins import create_margin
from facezoo.training import (
    Objective,
    TrainConfig,
    Trainer,
    WeightAverage,
    linear_ramp,
    parameter_groups,
    require_all_parameters,
    warmup_cosine,
)
from facezoo.training.config import all_options
from facezoo.training.distill import DISTILLATIONS
from facezoo.training.distributed import Distributed, resolve_device
from facezoo.training.errors import data_error
from facezoo.training.loading import TrainingBatches
from facezoo.training.loggers import LOGGERS, CsvLog
from facezoo.training.optimizers import OPTIMIZERS, require_gradients
from facezoo.training.schedules import SCHEDULES
from facezoo.training.validation import known_value, possible_metric, selection_value

# -- config --------------------------------------------------------------------------------------------------------------------


def test_config_round_trip(tmp_path):
    config = TrainConfig.from_options(data="faces", lr=1, margin_options={"scale": 30.0}, joint={"center": 0.003})
    assert isinstance(config.optimization.lr, float)
    config.save(tmp_path / "config.json")
    assert TrainConfig.load(tmp_path / "config.json") == config
    assert TrainConfig.from_dict({"optimization": {"lr": 0.3}}) == TrainConfig.from_dict({"lr": 0.3})
    assert TrainConfig.from_dict({"lr": 0.3}) == TrainConfig.from_options(lr=0.3)
    assert config.replace(lr=0.5).differences(config) == {"lr": (0.5, 1.0)}
    assert config.replace(num_workers=7, out="elsewhere", device="cpu", data="moved").differences(config) == {}


def test_every_field_is_documented():
    names = [name for name, _, _ in all_options()]
    assert len(set(names)) == len(names)
    for name, _, field in all_options():
        assert field.metadata["help"], name


@pytest.mark.parametrize(
    ("option", "registry"),
    [
        ("augment", AUGMENT_RECIPES),
        ("schedule", SCHEDULES),
        ("optimizer", OPTIMIZERS),
        ("distill", DISTILLATIONS),
        ("loggers", LOGGERS),
    ],
)
def test_the_help_names_every_entry_of_a_registry(option, registry):
    """The texts are written out, because the registries need torch and the help does not."""
    text = next(field.metadata["help"] for name, _, field in all_options() if name == option)
    assert [name for name in registry.list() if not re.search(rf"\b{name}\b", text, re.IGNORECASE)] == []


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr must be above 0; got 0.0"),
        ({"lr": float("nan")}, ValueError, "lr must be finite"),
        ({"lr": "0.1"}, TypeError, "lr must be a float; got '0.1'"),
        ({"epochs": 2.5}, TypeError, "epochs must be an int; got 2.5"),
        ({"epochs": True}, TypeError, "epochs must be an int"),
        ({"amp": "fp8"}, ValueError, "amp must be one of none, bf16, fp16; got 'fp8'"),
        ({"warmup_epochs": 30.0}, ValueError, r"warmup_epochs must be at most epochs \(25\)"),
        (
            {"batch_size": 10, "accumulation": 4},
            ValueError,
            r"batch_size must be a multiple of accumulation \(4\); got 10",
        ),
        ({"nesterov": True, "momentum": 0.0}, ValueError, "nesterov"),
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing must be in \[0, 1\)"),
        ({"init_head": "checkpoint"}, ValueError, "init_checkpoint"),
        ({"joint": {"center": -1}}, ValueError, r"joint\['center'\].*above 0; got -1"),
        ({"joint": {"center": True}}, ValueError, r"joint\['center'\].*above 0; got True"),
        ({"joint": {"center": 0}}, ValueError, "leave out losses of weight 0"),
        ({"joint": {"center": {"warmup": 5}}}, ValueError, r"joint\['center'\].*above 0; got None"),
        ({"joint": {"center": {"weight": 1, "warm_up": 5}}}, ValueError, "did you mean 'warmup'"),
        ({"joint": {"center": {"weight": 1, "warmup": 2.5}}}, ValueError, r"joint\['center'\]: warmup .*; got 2.5"),
        ({"joint": {"center": {"weight": 1, "shape": "sine"}}}, ValueError, r"joint\['center'\]: unknown shape 'sine'"),
        ({"joint": {"supcon": {"weight": 1, "memory": 0}}}, ValueError, "memory is a number of embeddings"),
        ({"joint": {"supcon": {"weight": 1, "memory_delay": 3}}}, ValueError, "memory_delay but no memory"),
        ({"joint": {"supcon": {"weight": 1, "memory": 9}}, "mixup_alpha": 0.2}, ValueError, "turn off mixup"),
        ({"joint_options": {"triplet": {}}}, ValueError, "joint_options names 'triplet'"),
        ({"sampler": "random"}, ValueError, "sampler must be one of shuffle, pk"),
        (
            {"sampler": "pk", "batch_size": 126},
            ValueError,
            r"batch_size must be .*images_per_identity \(1 x 4\); got 126",
        ),
        ({"images_per_identity": 0}, ValueError, "images_per_identity must be at least 1"),
        ({"margin_options": {"scale": object()}}, TypeError, "margin_options must be JSON-able"),
    ],
)
def test_config_refuses(fields, error, message):
    with pytest.raises(error, match=message):
        TrainConfig.from_options(**fields)


def test_config_file_errors(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        TrainConfig.from_dict({"epoch": 3})
    for content in ("{", "[]"):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json"):
            TrainConfig.load(tmp_path / "config.json")


# -- schedules -----------------------------------------------------------------------------------------------------------------


def test_warmup_cosine_values():
    factors = [warmup_cosine(update, total=104, warmup=4, final=0.1) for update in range(104)]
    assert factors[:4] == [0.2, 0.4, 0.6, 0.8]
    assert factors[4] == 1.0
    assert factors[54] == pytest.approx(0.55)
    assert factors[-1] == pytest.approx(0.1, abs=1e-3)
    assert warmup_cosine(1000, total=104, warmup=4, final=0.1) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="warmup"):
        warmup_cosine(0, total=3, warmup=4)


@given(total=st.integers(1, 500), share=st.floats(0, 1), final=st.floats(0, 1))
def test_warmup_cosine_rises_then_falls(total, share, final):
    warmup = int(share * total)
    factors = [warmup_cosine(update, total=total, warmup=warmup, final=final) for update in range(total + 2)]
    assert all(0 < factor <= 1 for factor in factors[:warmup])
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert min(factors[warmup:]) >= final - 1e-12


def test_linear_ramp():
    assert [linear_ramp(update, total=5) for update in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert linear_ramp(0, total=1) == 0.0


# -- moving average ------------------------------------------------------------------------------------------------------------


def test_weight_average_against_the_formula():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(module, 0.3)
    expected = module[0].weight.detach().double().clone()
    for updates in range(1, 6):
        with torch.no_grad():
            module[0].weight.normal_()
        module(torch.randn(4, 3))
        average.update(module, updates)
        decay = min(0.3, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * module[0].weight.detach().double()
    torch.testing.assert_close(average.tensors["0.weight"].double(), expected, rtol=1e-6, atol=1e-7)
    assert average.tensors["1.num_batches_tracked"] == 5
    assert not torch.equal(average.tensors["1.running_mean"], module[1].running_mean)
    own = module[0].weight.detach().clone()
    with average.applied_to(module):
        torch.testing.assert_close(module[0].weight.detach(), average.tensors["0.weight"])
    assert torch.equal(module[0].weight, own)


def test_the_average_of_half_precision_is_kept_in_float32():
    module = nn.Linear(3, 2, dtype=torch.bfloat16)
    average = WeightAverage(module, 0.9)
    assert {value.dtype for value in average.tensors.values()} == {torch.float32}


def test_weight_average_of_another_network():
    average = WeightAverage(nn.Linear(3, 2), 0.9)
    with pytest.raises(ValueError, match="another network"):
        average.load({"weight": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="decay"):
        WeightAverage(nn.Linear(3, 2), 1.0)


# -- optimizer -----------------------------------------------------------------------------------------------------------------


def objective() -> Objective:
    return Objective(
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), create_margin("linear", embedding_dim=3, num_classes=5)
    )


def test_groups_sum_to_the_whole_and_spare_vectors():
    module = objective()
    groups = parameter_groups(module.model, module.head, weight_decay=0.1, head_weight_decay=0.2, head_lr_scale=3.0)
    require_all_parameters(groups, module)
    decay = {id(p): (group["weight_decay"], group["lr_scale"]) for group in groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in module.named_parameters()} == {
        "model.0.weight": (0.1, 1.0),
        "model.0.bias": (0.0, 1.0),
        "model.1.weight": (0.0, 1.0),
        "model.1.bias": (0.0, 1.0),
        "head.weight": (0.2, 3.0),
        "head.bias": (0.0, 3.0),
    }


def test_centers_that_the_optimizer_never_saw():
    module = objective()
    backbone_only = [{"params": list(module.model.parameters())}]
    with pytest.raises(ValueError, match=r"never sees 2 trainable parameter\(s\): head\.weight, head\.bias"):
        require_all_parameters(backbone_only, module)
    with pytest.raises(ValueError, match=r"more than one group.*: head\.weight"):
        require_all_parameters([{"params": [*module.parameters(), module.head.weight]}], module)
    with pytest.raises(ValueError, match="1 parameter"):
        require_all_parameters([{"params": [*module.parameters(), nn.Parameter(torch.zeros(1))]}], module)
    module.head.requires_grad_(False)
    require_all_parameters(backbone_only, module)


def test_parameters_without_gradient():
    module = objective()
    module.model(torch.randn(4, 4)).sum().backward()
    with pytest.raises(RuntimeError, match=r"got no gradient: head\.weight, head\.bias"):
        require_gradients(module)


# -- objective -----------------------------------------------------------------------------------------------------------------


def test_objective_sums_and_mixes():
    class Mean(nn.Module):
        def forward(self, embeddings, labels):
            assert embeddings.dtype == torch.float32
            return (embeddings.mean(dim=1) * labels).mean()

    head = create_margin("linear", embedding_dim=3, num_classes=5)
    module = Objective(nn.Linear(4, 3), head, JointLoss([Mean()], weights=[0.25], names=["mean"]))
    images, first, second = torch.randn(6, 4), torch.arange(6) % 5, torch.arange(6).flip(0) % 5
    embeddings = module.model(images)

    def single(labels):
        return module.head(embeddings, labels) + 0.25 * (embeddings.mean(dim=1) * labels).mean()

    torch.testing.assert_close(module(images, first)[0], single(first))
    loss, detached = module(images, first, second, 0.3)
    torch.testing.assert_close(loss, 0.3 * single(first) + 0.7 * single(second))
    assert not detached.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(images, first)[0].dtype == torch.float32
    torch.testing.assert_close(Objective(module.model, head)(images, first)[0], head(embeddings, first))


# -- batches -------------------------------------------------------------------------------------------------------------------


class RandomItems(torch.utils.data.Dataset):
    """Item i is (i, a random number): order and augmentation can be told apart."""

    def __len__(self):
        return 23

    def __getitem__(self, index):
        return torch.tensor([float(index), torch.rand(()).item()]), index

    samples = tuple((f"{index}.jpg", index % 6) for index in range(23))


def epoch_of(epoch: int, position: int = 0, *, rank: int = 0, world: int = 1, **fields) -> list[torch.Tensor]:
    config = TrainConfig.from_options(batch_size=8, num_workers=0, **fields)
    batches = TrainingBatches(RandomItems(), config, Distributed(rank, world, torch.device("cpu")))
    return [torch.cat([images for images, _ in update]) for update in batches.updates(epoch, position)]


def test_every_epoch_has_its_own_order_and_augmentation():
    first, second = torch.cat(epoch_of(0)), torch.cat(epoch_of(1))
    assert not torch.equal(first[:, 0], second[:, 0])
    augmented = [{int(index): value.item() for index, value in epoch} for epoch in (first, second)]
    assert all(augmented[0][index] != augmented[1][index] for index in augmented[0].keys() & augmented[1].keys())


def test_an_epoch_goes_on_where_it_was():
    torch.testing.assert_close(epoch_of(3, 8), epoch_of(3)[1:], rtol=0, atol=0)


@pytest.mark.parametrize("fields", [{}, {"accumulation": 4}, {"accumulation": 2, "drop_last": False}])
def test_updates_see_the_same_images_on_any_number_of_ranks(fields):
    alone = epoch_of(2, **fields)
    ranks = [epoch_of(2, rank=rank, world=2, **fields) for rank in range(2)]
    assert len(ranks[0]) == len(ranks[1]) == len(alone) == (3 if "drop_last" in fields else 2)
    for update, (left, right) in enumerate(zip(*ranks, strict=True)):
        assert len(left) == len(right)
        together = {tuple(row) for row in torch.cat([left, right]).tolist()}
        own = {tuple(row) for row in alone[update].tolist()}
        # 23 images on two ranks: the first of the epoch fills up the last update.
        assert own <= together
        assert together - own <= {tuple(row) for row in alone[0].tolist()}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_batches_of_identities(accumulation):
    """20 of 23 images make groups of 2 (6 identities with 3 or 4): 2 batches of 4 identities, and again elsewhere."""
    fields = {"sampler": "pk", "images_per_identity": 2, "accumulation": accumulation}
    alone = epoch_of(1, **fields)
    assert [len(update) for update in alone] == [8, 8]
    ranks = [epoch_of(1, rank=rank, world=2, **fields) for rank in range(2)]
    for update, own in enumerate(alone):
        identities = [(ranks[rank][update][:, 0] % 6).tolist() for rank in range(2)]
        assert [len(set(side)) for side in identities] == [2, 2]
        assert not set(identities[0]) & set(identities[1])
        assert torch.equal(torch.cat([ranks[rank][update] for rank in range(2)]), own)
    torch.testing.assert_close(epoch_of(1, 8, **fields), alone[1:], rtol=0, atol=0)
    assert not torch.equal(torch.cat(epoch_of(2, **fields)), torch.cat(alone))


def test_batches_that_cannot_be_dealt_out():
    with pytest.raises(ValueError, match=r"ranks x accumulation x images_per_identity \(4 x 1 x 4\)"):
        epoch_of(0, world=4, sampler="pk")
    with pytest.raises(ValueError, match=r"batch_size \(8\) must be a multiple of ranks x accumulation \(3 x 1\)"):
        epoch_of(0, world=3)


# -- logs, selection, errors ---------------------------------------------------------------------------------------------------


def test_csv_log_survives_half_a_row(tmp_path):
    log = CsvLog(tmp_path / "log.csv", ("update", "loss"))
    for update in range(1, 5):
        log.write({"update": update, "loss": update / 10})
    with log.path.open("a") as file:
        file.write("5")
    again = CsvLog(tmp_path / "log.csv", ("update", "loss"))
    assert [row["update"] for row in again.read()] == ["1", "2", "3", "4"]
    again.truncate(2)
    again.write({"update": 3, "loss": 7.0})
    assert log.path.read_text().split() == ["update,loss", "1,0.1", "2,0.2", "3,7.0"]
    with pytest.raises(ValueError, match="fields"):
        again.write({"updates": 3})


def test_selection():
    figures = {"dev_accuracy": 0.8, "eer": 0.1}
    assert selection_value("eer", figures) == 0.9
    assert selection_value("accuracy", figures) == 0.8
    assert selection_value("combined", figures) == pytest.approx(0.85)
    assert selection_value("last", {}) == math.inf
    assert known_value("eer", selection_value("eer", figures)) == pytest.approx(0.1)
    assert known_value("accuracy", 0.8) == 0.8
    assert known_value("last", math.inf) is None
    with pytest.raises(ValueError, match="'combined' needs eer"):
        selection_value("combined", {"dev_accuracy": 0.8})


@pytest.mark.parametrize(
    ("dev", "pairs", "expected"),
    [(True, True, "combined"), (True, False, "accuracy"), (False, True, "eer"), (False, False, "last")],
)
def test_metric_that_the_data_can_give(dev, pairs, expected):
    from types import SimpleNamespace

    labeled = SimpleNamespace(labels=torch.tensor([True]))
    data = SimpleNamespace(dev=[1] if dev else None, val_pairs=labeled if pairs else None)
    assert possible_metric("combined", data) == expected


def test_worker_errors_become_one_line(tmp_path):
    lines = (
        "Caught ImageDecodeError in worker process 0.",
        "Original Traceback ...",
        "facezoo.data.ImageDecodeError: a.jpg: cut: off",
    )
    text = "\n".join(lines)
    (tmp_path / "last.safetensors").touch()
    message = str(data_error(RuntimeError(text), tmp_path / "last.safetensors", "runs/a"))
    assert message.startswith("a.jpg: cut: off. Progress")
    assert str(data_error(RuntimeError(text), tmp_path / "none.safetensors", "runs/a")) == "a.jpg: cut: off."
    assert str(data_error(ValueError("b.jpg: bad"), tmp_path, "runs/a")).startswith("b.jpg: bad. ")


def test_a_layout_that_damages_memory_is_refused(config):
    with pytest.raises(ValueError, match=r"stem.conv1.conv is a 1×1 convolution with stride 2 and 3 input channels"):
        Trainer(config(model="repvgg_a0", stem="imagenet", img_size=32, channels_last=True))
    Trainer(config(model="repvgg_a0", stem="face", img_size=32, channels_last=True))
    Trainer(config(model="repvgg_a0", stem="imagenet", img_size=32))


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    with pytest.raises(ValueError, match="gpu"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto").type == "cpu"
        with pytest.raises(ValueError, match="no CUDA device"):
            resolve_device("cuda:1")
