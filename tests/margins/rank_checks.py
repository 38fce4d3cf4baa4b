"""What each of four gloo ranks checks for test_class_parallel.py: a class-parallel head against one that holds all classes."""

from __future__ import annotations

import copy
import inspect
import json
import traceback
import warnings
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from facezoo.margins import BackwardAdamW, BackwardSGD
from paper_references import CASES
from test_catalog import make_batch, make_head
from told import create_margin

RANKS = 4
C, D, N = 11, 6, 8
CHECKS = {}


def check(function):
    CHECKS[function.__name__] = function
    return function


def run_all(rank, folder):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "TypedStorage is deprecated")  # torch 2.6 is warned by itself
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS, timeout=timedelta(seconds=900)
    )
    failures, names = {}, list(CHECKS)
    for index, name in enumerate(names):
        try:
            CHECKS[name](rank, Path(folder))
        except Exception:  # ranks that are out of step cannot go on
            failures = dict.fromkeys(names[index + 1 :], f"not reached: {name} failed")
            failures[name] = traceback.format_exc()
            break
    Path(folder, f"{rank}.json").write_text(json.dumps(failures))
    dist.destroy_process_group()


# -- a whole head and its parts ----------------------------------------------------------------------------------------------------


def shares(samples=N):
    own = samples // RANKS
    return [slice(rank * own, (rank + 1) * own) for rank in range(RANKS)]


def parallel_twin(head, **options):
    """The same head with this rank's classes only, the state of ``head`` included."""
    twin = create_margin(
        head.name,
        embedding_dim=head.embedding_dim,
        num_classes=head.num_classes,
        process_group=dist.group.WORLD,
        label_smoothing=head.label_smoothing,
        block_size=2,
        **{**head.options, **options},
    ).to(head.weight.dtype)
    twin.load_state_dict(head.state_dict(), strict=not options)
    return twin


def same(got, expected, rtol=1e-9):
    """Relative to the length of the whole tensor: in float32 a small element of a large one has large neighbors' rounding."""
    assert got.shape == expected.shape
    error = (got.detach().double() - expected.detach().double()).norm()
    assert error <= rtol * (expected.detach().double().norm() + 1e-3), f"off by {error}, {got} instead of {expected}"


def compare(head, twin, x, labels, *, steps=2, rtol=1e-9):
    """Losses, gradients and state of some training steps."""
    rows, share = twin.shard.rows, shares(len(x))[dist.get_rank()]
    for step in range(steps):
        torch.manual_seed(step)
        whole = x.clone().requires_grad_()
        expected = head(whole, labels)
        expected.backward()
        torch.manual_seed(step)
        own = x[share].clone().requires_grad_()
        loss = twin(own, labels[share])
        loss.backward()
        same(loss.detach(), expected.detach(), rtol)
        # The scaling rule: what averaging over ranks divides by their number.
        same(own.grad, whole.grad[share] * RANKS, rtol)
        for name, parameter in head.named_parameters():
            gradient = parameter.grad[rows] if name in twin.sharded else parameter.grad
            same(dict(twin.named_parameters())[name].grad, gradient, rtol)
        for module in (head, twin):
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter -= 0.05 * parameter.grad
                    parameter.grad = None
    own_state, state = twin.state_dict(), head.state_dict()
    for name, value in state.items():
        value = value[rows] if name in twin.sharded else value
        got = own_state[name].to_local() if name in twin.sharded else own_state[name]
        same(got, value, rtol)


@check
def every_margin_equals_one_process(rank, folder):
    for name, options in CASES:
        batch = make_batch(name, options)
        try:
            head = make_head(name, options, batch)
            compare(head, parallel_twin(head), batch.x, batch.labels)
        except AssertionError as error:
            raise AssertionError(f"{name} {options}: {error}") from error


@check
def head_options_equal_one_process(rank, folder):
    for name, options, head_options in (
        ("arcface", {}, {"label_smoothing": 0.1}),
        ("linear", {}, {"label_smoothing": 0.1}),
        ("curricularface", {}, {"label_smoothing": 0.2}),
        ("cosface", {"scale": 100.0}, {}),  # no fixed shift: the running maximum is exchanged
    ):
        batch = make_batch(name, options)
        head = make_head(name, options, batch, **head_options)
        compare(head, parallel_twin(head), batch.x, batch.labels)


@check
def float32_and_more_ranks_than_some_need(rank, folder):
    """Five classes over four ranks are 2, 2, 1 and 0."""
    for name in ("arcface", "curricularface", "sphereface2", "linear", "subcenter_arcface", "vpl"):
        torch.manual_seed(0)
        head = create_margin(name, embedding_dim=D, num_classes=5, **({"start": 0} if name == "vpl" else {}))
        twin = parallel_twin(head)
        assert len(twin.weight) == [2, 2, 1, 0][rank]
        compare(head, twin, torch.randn(N, D), torch.tensor([0, 4, 2, 2, 1, 3, 0, 4]), steps=1, rtol=1e-5)


@check
def logits_and_initial_centers(rank, folder):
    torch.manual_seed(0)
    x, labels, linear = torch.randn(12, D), torch.arange(12) % 5, nn.Linear(D, 5)
    for name in ("arcface", "linear", "subcenter_arcface", "sphereface"):
        head = create_margin(name, embedding_dim=D, num_classes=5)
        twin = parallel_twin(head)
        for initialize in (
            lambda h: None,
            lambda h: h.init_from_linear(linear),
            lambda h: h.init_from_embeddings(x[:8], labels[:8]),
        ):
            assert initialize(head) == initialize(twin)
            share = shares(12)[rank]
            same(twin.logits(x[share]), head.logits(x)[share].detach(), 1e-5)
            assert torch.equal(twin.weight, head.weight[twin.shard.rows])


@check
def unequal_batches_are_refused(rank, folder):
    head = create_margin("arcface", embedding_dim=D, num_classes=C, process_group=dist.group.WORLD)
    samples = 2 if rank else 3
    with pytest.raises(ValueError, match=r"\[3, 2, 2, 2\] samples; they must be equal"):
        head(torch.randn(samples, D), torch.zeros(samples, dtype=torch.int64))


@check
def copies_and_foreign_groups(rank, folder):
    head = create_margin("arcface", embedding_dim=D, num_classes=C, process_group=dist.group.WORLD)
    twin = copy.deepcopy(head)
    assert twin.shard.group is head.shard.group
    assert twin.weight is not head.weight
    group = dist.new_group([0, 1])
    if rank < 2:
        head = create_margin("arcface", embedding_dim=D, num_classes=C, process_group=group)
        assert len(head.weight) == [6, 5][rank]
        torch.manual_seed(0)
        x, labels = torch.randn(4, D), torch.arange(4)
        loss = head(x[rank * 2 :][:2], labels[rank * 2 :][:2])
        torch.manual_seed(0)
        # Both ranks have drawn the same numbers or not: the loss is that of whatever centers they hold.
        whole = create_margin("arcface", embedding_dim=D, num_classes=C)
        gathered = [torch.empty(6 - r, D) for r in range(2)]
        for source, part in enumerate(gathered):
            part.copy_(head.weight.detach()) if source == rank else None
            dist.broadcast(part, src=source, group=group)
        whole.weight.data.copy_(torch.cat(gathered))
        same(loss.detach(), whole(x, labels).detach(), 1e-5)


# -- with DistributedDataParallel and FSDP2 ----------------------------------------------------------------------------------------


def backbone():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, D)).double()


@check
def averaged_gradients_are_those_of_the_whole_batch(rank, folder):
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(C, (N,), generator=generator)
    share = shares()[rank]
    for name in ("magface", "uniface"):  # one with a gradient through the norm, one with a replicated parameter
        torch.manual_seed(5)
        head = create_margin(name, embedding_dim=D, num_classes=C).double()
        alone = nn.Sequential(backbone())
        head(alone(x), labels).backward()

        class Everything(nn.Module):
            def __init__(self):
                super().__init__()
                self.model, self.head = backbone(), parallel_twin(head)  # noqa: B023

            def forward(self, x, labels):
                return self.head(self.model(x), labels)

        everything = Everything()
        names = [f"head.{name}" for name in everything.head.sharded]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(everything, names)
        network = DistributedDataParallel(everything)
        network(x[share], labels[share]).backward()
        for own, expected in zip(everything.model.parameters(), alone.parameters(), strict=True):
            same(own.grad, expected.grad)
        same(everything.head.weight.grad, head.weight.grad[everything.head.shard.rows])
        if head.offset is not None:
            same(everything.head.offset.grad, head.offset.grad)

        if torch.__version__ < (2, 7):  # its FSDP2 wants a GPU
            continue
        model, twin = backbone(), parallel_twin(head)
        fully_shard(model)
        twin(model(x[share]), labels[share]).backward()
        for own, expected in zip(model.parameters(), alone.parameters(), strict=True):
            same(own.grad.full_tensor(), expected.grad)
        same(twin.weight.grad, head.weight.grad[twin.shard.rows])


# -- checkpoints -------------------------------------------------------------------------------------------------------------------


@check
def same_seed_same_centers(rank, folder):
    from facezoo.margins import shard

    assert shard._ROWS_PER_DRAW > 1003
    for rows in (shard._ROWS_PER_DRAW, 100):
        shard._ROWS_PER_DRAW, before = rows, shard._ROWS_PER_DRAW
        torch.manual_seed(11)
        whole = create_margin("arcface", embedding_dim=5, num_classes=1003).weight
        after = torch.rand(1)
        torch.manual_seed(11)
        part = create_margin("arcface", embedding_dim=5, num_classes=1003, process_group=dist.group.WORLD)
        assert torch.equal(part.weight, whole[part.shard.rows])
        assert torch.equal(torch.rand(1), after)
        shard._ROWS_PER_DRAW = before


def many_classes(group, **options):
    return create_margin(
        "vpl",
        embedding_dim=5,
        num_classes=1003,
        start=1,
        process_group=group,
        optimizer_in_backward=BackwardSGD(0.1, momentum=0.9),
        **options,
    )


@check
def checkpoint_of_four_ranks_loads_on_three_and_on_one(rank, folder):
    import torch.distributed.checkpoint as dcp

    torch.manual_seed(2)
    head = many_classes(dist.group.WORLD)
    generator = torch.Generator().manual_seed(7)
    for _ in range(3):
        x, labels = torch.randn(N, 5, generator=generator), torch.randint(1003, (N,), generator=generator)
        head(x[shares()[rank]], labels[shares()[rank]]).backward()
    state = head.state_dict()
    for name in head.sharded:
        assert state[name].placements[0].is_shard(0)
        assert state[name].shape[0] == 1003
    path = folder / "checkpoint"
    dcp.save(state, checkpoint_id=path)
    whole = {
        name: head.shard.gather(value.to_local()) if name in head.sharded else value for name, value in state.items()
    }
    assert (whole["weight"] is None) == (rank > 0)

    three, one = dist.new_group([0, 1, 2]), dist.new_group([0])
    if rank < 3:
        torch.manual_seed(99)
        part = many_classes(three)
        state = part.state_dict()
        dcp.load(state, checkpoint_id=path, process_group=three)
        part.load_state_dict(state)
        assert len(part.weight) == 335 - 2 * (rank == 2)
        received = [None]
        if rank == 0:
            received = [whole]
        dist.broadcast_object_list(received, src=0, group=three)
        for name, value in received[0].items():
            own = dict([*part.named_parameters(), *part.named_buffers()])[name]
            assert torch.equal(own, value[part.shard.rows] if name in part.sharded else value), name
    if rank == 0:
        alone = many_classes(None)
        state = alone.state_dict()
        # torch 2.6 cannot be told to leave the ranks alone
        without_ranks = "no_dist" in inspect.signature(dcp.load).parameters
        with warnings.catch_warnings():  # it says that it works without ranks, as it was told to
            warnings.simplefilter("ignore")
            dcp.load(state, checkpoint_id=path, **({"no_dist": True} if without_ranks else {"process_group": one}))
        alone.load_state_dict(state)
        assert alone.backward_optimizer.momentum.abs().sum() > 0
        for name, value in alone.state_dict().items():
            assert torch.equal(value, whole[name]), name
        # and its own checkpoint, a plain one, into a part
    box = [whole if rank == 0 else None]
    dist.broadcast_object_list(box, src=0)
    again = many_classes(dist.group.WORLD)
    again.load_state_dict(box[0])
    assert torch.equal(again.weight, head.weight)
    assert torch.equal(again.memory, head.memory)


# -- fewer classes, and steps in the backward pass ---------------------------------------------------------------------------------


@check
def sampled_classes_are_those_of_a_head_that_has_no_others(rank, folder):
    num_classes, share = 40, shares()[rank]
    for name, smoothing in (("arcface", 0.0), ("arcface", 0.1), ("adacos", 0.0), ("linear", 0.0), ("sphereface2", 0.0)):
        torch.manual_seed(4)
        head = create_margin(name, embedding_dim=D, num_classes=num_classes, label_smoothing=smoothing).double()
        twin = parallel_twin(head, sample_rate=0.3)
        x, labels = torch.randn(N, D, dtype=torch.float64), torch.randint(num_classes, (N,))
        own = x[share].clone().requires_grad_()
        drawn = []
        draw = twin.class_sampler.draw
        twin.class_sampler.draw = lambda *args, **kw: drawn.append(draw(*args, **kw)) or drawn[-1]  # noqa: B023
        loss = twin(own, labels[share])
        loss.backward()
        ((rows, _),) = drawn
        assert len(rows) == max(3, N)
        parts = [torch.empty_like(rows) for _ in range(RANKS)]
        dist.all_gather(parts, rows + twin.shard.rows.start)
        union = torch.cat(parts)
        assert set(labels.tolist()) <= set(union.tolist())
        few = create_margin(name, embedding_dim=D, num_classes=len(union), label_smoothing=smoothing).double()
        few.load_state_dict({**few.state_dict(), "weight": head.weight[union]})
        for buffer, value in head.named_buffers():
            few.get_buffer(buffer).copy_(value)
        if few.offset is not None:
            few.offset.data.copy_(head.offset)
        whole = x.clone().requires_grad_()
        positions = (union[None] == labels[:, None]).int().argmax(1)
        expected = few(whole, positions)
        expected.backward()
        same(loss.detach(), expected.detach())
        same(own.grad, whole.grad[share] * RANKS)
        gradient = torch.zeros_like(head.weight)
        gradient[union] = few.weight.grad
        same(twin.weight.grad, gradient[twin.shard.rows])


@check
def step_in_the_backward_pass_equals_the_optimizer_beside_it(rank, folder):
    share = shares()[rank]
    for settings, optimizer in (
        (BackwardSGD(0.1, momentum=0.9, weight_decay=0.01), torch.optim.SGD),
        (BackwardAdamW(0.01, weight_decay=0.1), torch.optim.AdamW),
    ):
        batch = make_batch("arcface", {})
        head = make_head("arcface", {}, batch)
        twin = parallel_twin(head, optimizer_in_backward=settings)
        beside = optimizer([head.weight], **vars(settings))
        for _ in range(3):
            twin(batch.x[share].clone().requires_grad_(), batch.labels[share]).backward()
            beside.zero_grad()
            head(batch.x, batch.labels).backward()
            beside.step()
        assert twin.weight.grad is None
        same(twin.weight, head.weight[twin.shard.rows], 1e-8)


@check
def everything_together_goes_on_where_it_was(rank, folder):
    """Sampled, parallel, stepped in the backward pass: a state dict holds all it takes."""
    share = shares()[rank]
    generator = torch.Generator().manual_seed(9)
    batches = [(torch.randn(N, D, generator=generator), torch.randint(60, (N,), generator=generator)) for _ in range(4)]

    def build(seed):
        torch.manual_seed(seed)
        return create_margin(
            "curricularface",
            embedding_dim=D,
            num_classes=60,
            process_group=dist.group.WORLD,
            sample_rate=0.5,
            optimizer_in_backward=BackwardSGD(0.5, momentum=0.9, weight_decay=0.01),
        )

    def train(head, batches):
        for x, labels in batches:
            before = head.weight.clone()
            head(x[share].clone().requires_grad_(), labels[share]).backward()
            moved = (head.weight != before).any(1)
            assert int(moved.sum()) == 8  # ⌈0.5 · 15⌉: unsampled rows stay, whatever momentum and decay they have
        return head

    whole = train(build(0), batches)
    first = train(build(0), batches[:2])
    second = build(1)
    assert not torch.equal(second.weight, first.weight)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, batches[2:])
    for (name, value), other in zip(whole.state_dict().items(), second.state_dict().values(), strict=True):
        value, other = (v.to_local() if name in whole.sharded else v for v in (value, other))
        assert torch.equal(value, other), name
