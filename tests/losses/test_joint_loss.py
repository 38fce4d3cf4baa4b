"""Several losses at once, weights that change, and the memory of former batches."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facezoo.losses import CrossBatchMemory, GatheredLoss, JointLoss, TripletLoss, WeightSchedule, create_loss
from facezoo.margins import create_margin
from facezoo.ops import gather_with_gradient


def batch(n=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator), torch.randint(4, (n,), generator=generator)


# -- schedules --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (WeightSchedule(0.5), [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        (WeightSchedule(0.8, warmup=4), [0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8]),
        (WeightSchedule(1.0, delay=2), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        (WeightSchedule(0.0, initial=1.0, delay=1, warmup=4), [1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]),
        (
            WeightSchedule(1.0, warmup=4, shape="cosine"),
            [0.0, 0.5 - math.sqrt(0.125), 0.5, 0.5 + math.sqrt(0.125), 1.0, 1.0, 1.0],
        ),
    ],
)
def test_weight_schedules(schedule, expected):
    assert [schedule.at(step).item() for step in range(7)] == pytest.approx(expected, abs=1e-7)
    assert schedule.at(torch.tensor(3)).item() == pytest.approx(expected[3], abs=1e-7)
    assert schedule.is_constant == (len(set(expected)) == 1)


@given(
    weight=st.floats(0, 10),
    initial=st.floats(0, 10),
    delay=st.integers(0, 9),
    warmup=st.integers(0, 9),
    shape=st.sampled_from(["linear", "cosine"]),
)
@settings(max_examples=60, deadline=None)
def test_weights_go_from_one_value_to_the_other(weight, initial, delay, warmup, shape):
    schedule = WeightSchedule(weight, initial=initial, delay=delay, warmup=warmup, shape=shape)
    values = [schedule.at(step).item() for step in range(delay + warmup + 2)]
    assert values[delay + warmup :] == pytest.approx([weight] * 2, rel=1e-6)
    assert values[: delay + (warmup > 0)] == pytest.approx([initial] * (delay + (warmup > 0)), rel=1e-6)
    rising = values if weight >= initial else values[::-1]
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(rising))


@pytest.mark.parametrize(
    "options",
    [
        {"weight": -1.0},
        {"weight": math.nan},
        {"weight": True},
        {"weight": 1.0, "initial": math.inf},
        {"weight": 1.0, "warmup": -1},
        {"weight": 1.0, "warmup": 2.5},
        {"weight": 1.0, "delay": True},
        {"weight": 1.0, "shape": "linaer"},
    ],
)
def test_schedules_out_of_range(options):
    with pytest.raises(ValueError, match=[*options][-1]):
        WeightSchedule(**options)


# -- joint loss -------------------------------------------------------------------------------------------------------------------


def test_joint_loss():
    torch.manual_seed(0)
    head = create_margin("linear", embedding_dim=5, num_classes=4)
    center = create_loss("center", num_classes=4, embedding_dim=5).eval()
    triplet = create_loss("triplet")
    joint = JointLoss([head, center, triplet], weights=[1.0, 0.01, 0.0], names=["softmax", "center", "triplet"])
    x, labels = batch()
    x.requires_grad_()
    loss = joint(x, labels)
    loss.backward()
    softmax, pull = head(x, labels), center(x, labels)
    torch.testing.assert_close(loss, softmax + 0.01 * pull)
    torch.testing.assert_close(x.grad, torch.autograd.grad(softmax + 0.01 * pull, x)[0])
    assert head.weight.grad is not None
    assert list(joint.last) == ["softmax", "center", "triplet"]
    torch.testing.assert_close(joint.last["center"], pull.detach())
    assert not any(value.requires_grad for value in joint.last.values())
    assert {"parts.softmax.weight", "parts.center.centers"} <= set(joint.state_dict())
    joint.weights["center"] = 0.5
    torch.testing.assert_close(joint(x, labels), softmax + 0.5 * pull)


def test_joint_loss_names_parts_itself():
    joint = JointLoss([create_margin("arcface", embedding_dim=5, num_classes=4), TripletLoss()], weights=[1, 1])
    assert list(joint.weights) == ["arcface", "TripletLoss"]
    assert JointLoss([TripletLoss()], weights=[0.0])(torch.randn(4, 3), torch.tensor([0, 0, 1, 1])).item() == 0.0


def test_schedules_follow_the_steps_and_survive_a_checkpoint():
    def build():
        torch.manual_seed(0)
        parts = [create_loss("norm"), create_loss("proxy_anchor", num_classes=4, embedding_dim=5)]
        return JointLoss(parts, weights=[1.0, WeightSchedule(1.0, warmup=4)], names=["norm", "proxies"])

    joint, (x, labels) = build(), batch()
    norm, proxies = (part(x, labels).item() for part in joint.parts.values())
    values = [joint(x, labels).item() for _ in range(3)]
    assert values == pytest.approx([norm + share * proxies for share in (0.0, 0.25, 0.5)], rel=1e-6)
    resumed = build()
    resumed.load_state_dict(joint.state_dict())
    assert resumed(x, labels).item() == joint(x, labels).item() == pytest.approx(norm + 0.75 * proxies, rel=1e-6)
    joint.eval()
    assert joint(x, labels).item() == joint(x, labels).item() == pytest.approx(norm + proxies, rel=1e-6)
    assert joint.steps == 4
    joint.set_step(2)
    assert joint(x, labels).item() == pytest.approx(norm + 0.5 * proxies, rel=1e-6)


def test_steps_that_the_caller_counts():
    joint = JointLoss([create_loss("norm")], weights=[WeightSchedule(1.0, warmup=10)], count_calls=False)
    x, labels = batch()
    assert joint(x, labels).item() == joint(x, labels).item() == 0.0
    joint.set_step(5)
    assert joint(x, labels).item() == pytest.approx(0.25 * x.square().sum(1).mean().item())


def test_a_weight_of_zero_in_a_schedule_gives_gradients_of_zero_and_the_number_zero_none():
    proxies = create_loss("proxy_anchor", num_classes=4, embedding_dim=5)
    x, labels = batch()
    x.requires_grad_()
    JointLoss([create_loss("norm"), proxies], weights=[1.0, 0.0])(x, labels).backward()
    assert proxies.proxies.grad is None
    JointLoss([create_loss("norm"), proxies], weights=[1.0, WeightSchedule(1.0, warmup=9)])(x, labels).backward()
    assert (proxies.proxies.grad == 0).all()


def test_low_precision_is_widened_once():
    class Dtype(nn.Module):
        def forward(self, embeddings, labels):
            assert not torch.is_autocast_enabled("cpu")
            return embeddings.sum() * 0 + {torch.float32: 4.0, torch.float64: 8.0}[embeddings.dtype]

    joint, (x, labels) = JointLoss([Dtype()], weights=[1.0]), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [joint(x.to(d), labels).item() for d in (torch.float16, torch.bfloat16, torch.float64)] == [
            4.0,
            4.0,
            8.0,
        ]


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([], {"weights": []}, "at least one part"),
        ([TripletLoss()], {"weights": [1.0, 2.0]}, "one weight and one name per part"),
        ([TripletLoss()], {"weights": [-1.0]}, "not negative"),
        ([TripletLoss()], {"weights": [math.nan]}, "not negative"),
        ([TripletLoss(), TripletLoss()], {"weights": [1.0, 1.0]}, "different names"),
        ([create_loss("cross_entropy")], {"weights": [1.0]}, "create_margin"),
    ],
)
def test_joint_loss_errors(parts, options, message):
    with pytest.raises(ValueError, match=message):
        JointLoss(parts, **options)


# -- memory -----------------------------------------------------------------------------------------------------------------------

PAIRWISE = ["contrastive", "triplet", "lifted_structure", "supcon", "nt_xent", "multi_similarity", "circle"]


@given(size=st.integers(1, 20), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6), delay=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_memory_holds_the_last_embeddings(size, sizes, delay):
    """Batches that do not divide it, and batches larger than it, included."""
    bare = create_loss("contrastive")
    memory = CrossBatchMemory(bare, size=size, embedding_dim=5, delay=delay)
    history, history_labels = torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
    for step, n in enumerate(sizes):
        x, labels = batch(n, seed=step)
        used = (history[-size:], history_labels[-size:]) if step >= delay and len(history) else ()
        assert memory(x, labels).item() == pytest.approx(bare(x, labels, *used).item(), rel=1e-5, abs=1e-7)
        history, history_labels = torch.cat([history, x]), torch.cat([history_labels, labels])
    assert memory.filled == min(size, len(history))
    assert memory.position == len(history) % size or sum(sizes) > size
    held = {tuple(row) for row in memory.memory[: int(memory.filled)].tolist()}
    assert held == {tuple(row) for row in history[-size:].tolist()}


@pytest.mark.parametrize("name", PAIRWISE)
def test_every_pairwise_loss_goes_on_after_a_checkpoint_as_if_nothing_had_been(name):
    memory = CrossBatchMemory(create_loss(name), size=17, embedding_dim=5, delay=1)
    for seed in range(3):
        memory(*batch(7, seed))
    resumed = CrossBatchMemory(create_loss(name), size=17, embedding_dim=5, delay=1)
    resumed.load_state_dict(memory.state_dict())
    for seed in range(3, 7):
        first, second = (leaf.requires_grad_() for leaf in (batch(7, seed)[0], batch(7, seed)[0]))
        labels = batch(7, seed)[1]
        loss = memory(first, labels)
        loss.backward()  # the memory has changed since the forward pass; the graph has not noticed
        again = resumed(second, labels)
        again.backward()
        assert torch.equal(loss, again)
        assert torch.equal(first.grad, second.grad)
        assert torch.isfinite(first.grad).all()
    assert all(torch.equal(a, b) for a, b in zip(memory.buffers(), resumed.buffers(), strict=True))


def test_the_memory_stands_still_in_evaluation():
    memory = CrossBatchMemory(create_loss("supcon"), size=8, embedding_dim=5)
    memory(*batch(6))
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    memory.eval()
    assert memory(*batch(6, 1)) == memory(*batch(6, 1)) != create_loss("supcon")(*batch(6, 1))
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())
    memory.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert memory(batch(6)[0].bfloat16(), batch(6)[1]).dtype == torch.float32


def test_memory_errors():
    with pytest.raises(TypeError, match="ProxyAnchorLoss does not"):
        CrossBatchMemory(create_loss("proxy_anchor", num_classes=4, embedding_dim=5), size=8, embedding_dim=5)
    with pytest.raises(ValueError, match="at least 1"):
        CrossBatchMemory(create_loss("supcon"), size=0, embedding_dim=5)
    with pytest.raises(ValueError, match="delay"):
        CrossBatchMemory(create_loss("supcon"), size=8, embedding_dim=5, delay=-1)
    memory = CrossBatchMemory(create_loss("supcon"), size=8, embedding_dim=6)
    with pytest.raises(ValueError, match="width 6, got 5"):
        memory(*batch())
    assert memory.filled == 0


# -- alone ------------------------------------------------------------------------------------------------------------------------


def test_without_a_process_group_nothing_is_gathered():
    x, labels = batch()
    assert gather_with_gradient(x) is x
    bare = create_loss("supcon")
    assert torch.equal(GatheredLoss(bare)(x, labels), bare(x, labels))
    assert torch.equal(JointLoss([bare], weights=[1.0], gather=True)(x, labels), bare(x, labels))
