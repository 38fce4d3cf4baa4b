"""Sampled classes (PartialFC), and the optimizer step inside the backward pass, in one process."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from facezoo.margins import BackwardAdamW, BackwardSGD, list_margins, margin_class
from facezoo.margins.sampling import ClassSampler
from facezoo.ops.row_steps import adamw_step_, sgd_step_
from told import create_margin

C, D, N = 40, 6, 8


def batch(seed=0, classes=C, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=generator, dtype=dtype)
    return x, torch.randint(classes, (N,), generator=generator)


def build(name="arcface", seed=0, classes=C, dtype=torch.float64, **options):
    torch.manual_seed(seed)
    if margin_class(name)().stored is not None:
        options["start"] = 0
    return create_margin(name, embedding_dim=D, num_classes=classes, block_size=7, **options).to(dtype)


def relative_error(got, expected):
    return float((got - expected).norm() / expected.norm())


# -- which classes are drawn -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(1, 200),
    samples=st.integers(1, 20),
    rate=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_draw_has_every_label_once_and_the_promised_number(classes, samples, rate, seed, data):
    labels = torch.tensor(data.draw(st.lists(st.integers(-1, classes - 1), min_size=samples, max_size=samples)))
    torch.manual_seed(seed)
    sampler = ClassSampler(rate)
    rows, positions = sampler.draw(labels, classes=classes, first=data.draw(st.integers(0, 10**7)))
    assert len(rows) == sampler.count(classes, samples) == min(classes, max(math.ceil(rate * classes), samples))
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert rows[0] >= 0
    assert rows[-1] < classes
    for label, position in zip(labels.tolist(), positions.tolist(), strict=True):
        assert position == -1 if label == -1 else rows[position] == label


def test_draws_are_fair_and_independent():
    """600 draws of 20 of 100: each class, and each pair of neighbors, as often as chance has it."""
    torch.manual_seed(0)
    sampler = ClassSampler(0.2)
    drawn = torch.zeros(600, 100)
    for step in range(600):
        drawn[step, sampler.draw(torch.tensor([-1]), classes=100)[0]] = 1.0
    assert ((drawn.mean(0) - 0.2).abs() < 5 * math.sqrt(0.2 * 0.8 / 600)).all()
    together = (drawn[:, :-1] * drawn[:, 1:]).mean(0)
    expected = 0.2 * 19 / 99
    assert ((together - expected).abs() < 5 * math.sqrt(expected / 600)).all()
    again = (drawn[1:] * drawn[:-1]).sum(1).mean()  # of the classes of the step before
    assert again.item() == pytest.approx(4.0, abs=5 * math.sqrt(2.6 / 600))


def test_a_drawn_sequence_is_a_function_of_the_buffers():
    torch.manual_seed(0)
    first, labels = ClassSampler(0.3), torch.tensor([3, 1])
    first.draw(labels, classes=30)
    second = ClassSampler(0.3)
    assert second.seed != first.seed
    second.load_state_dict(first.state_dict())
    draws = [[s.draw(labels, classes=30)[0].tolist() for _ in range(3)] for s in (first, second)]
    assert draws[0] == draws[1]
    assert draws[0][0] != draws[0][1]


# -- losses over the classes drawn -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list_margins())
def test_all_classes_drawn_is_the_exact_loss(name):
    """A rate that rounds up to all classes takes the sampled way, and gives what the exact way gives."""
    x, labels = batch()
    results = []
    for options in ({"engine": "dense"}, {"sample_rate": 0.99}, {"sample_rate": 0.99, "engine": "dense"}):
        head, own = build(name, **options), x.clone().requires_grad_()
        losses = []
        for step in range(2):
            torch.manual_seed(step)
            losses.append(head(own, labels))
            losses[-1].backward()
        gradients = [p.grad for p in head.parameters() if p.grad is not None]
        results.append([torch.stack(losses).detach(), own.grad, *gradients])
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", ["dense", "chunked"])
def test_only_drawn_rows_have_a_gradient(engine):
    head = build(sample_rate=0.25, engine=engine)
    x, labels = batch()
    head(x, labels).backward()
    rows = head.weight.grad.abs().sum(1) > 0
    assert int(rows.sum()) == 10
    assert rows[labels].all()
    few = create_margin("arcface", embedding_dim=D, num_classes=10).double()
    few.weight.data.copy_(head.weight.data[rows])
    few(x, (rows.cumsum(0) - 1)[labels]).backward()
    torch.testing.assert_close(head.weight.grad[rows], few.weight.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("engine", ["dense", "chunked"])
@pytest.mark.parametrize("name", ["linear", "subcenter_arcface", "vpl", "unitsface"])
def test_all_that_is_kept_of_a_class_is_drawn_with_it(name, engine):
    head = build(name, sample_rate=0.25, engine=engine)
    x, labels = batch()
    rows, positions = copy.deepcopy(head.class_sampler).draw(labels, classes=C)
    few = build(name, classes=len(rows), engine="dense")
    state = {
        "weight": torch.randn_like(head.weight),
        "bias": torch.randn(C),
        "memory": F.normalize(torch.randn(C, D), dim=1),
    }
    state["memory_written"] = torch.arange(C) % 3 - 1
    for key, value in state.items():
        if getattr(head, key, None) is not None:
            getattr(head, key).data.copy_(value)
            getattr(few, key).data.copy_(value[rows])
    for own in (head, few) if margin_class(name)().stored else ():
        own.memory_steps.fill_(1)
    if head.offset is not None:
        few.offset.data.copy_(head.offset)
    torch.testing.assert_close(head(x, labels), few(x, positions), rtol=1e-9, atol=0.0)


def test_evaluation_is_over_all_classes():
    head = build(sample_rate=0.25).eval()
    exact = build().eval()
    x, labels = batch()
    assert head(x, labels).item() == exact(x, labels).item()
    assert head.class_sampler.step == 0
    assert torch.equal(head.logits(x), exact.logits(x))


@pytest.mark.parametrize("rate", [0.0, 1.1, -0.5, math.nan, True, "0.1"])
def test_rates_that_are_no_share(rate):
    with pytest.raises(ValueError, match="sample_rate is a share"):
        build(sample_rate=rate)


# -- steps of rows ---------------------------------------------------------------------------------------------------------------

SGD = [
    {"lr": 0.1},
    {"lr": 0.1, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True},
]
ADAMW = [{"lr": 0.01}, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.2}]
SETTINGS = [(BackwardSGD, torch.optim.SGD, o) for o in SGD] + [(BackwardAdamW, torch.optim.AdamW, o) for o in ADAMW]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("settings", "optimizer", "options"), SETTINGS)
def test_row_steps_are_those_of_torch(settings, optimizer, options, dtype):
    torch.manual_seed(0)
    weight = torch.randn(5, 3, dtype=dtype)
    beside = weight.clone().requires_grad_()
    expected = optimizer([beside], **options)
    state = [torch.zeros_like(weight), torch.zeros_like(weight), torch.zeros(5)]
    for _ in range(4):
        gradient = torch.randn(5, 3, dtype=dtype)
        beside.grad = gradient.clone()
        expected.step()
        if settings is BackwardSGD:
            sgd_step_(weight, gradient, state[0] if "momentum" in options else None, **options)
        else:
            adamw_step_(weight, gradient, *state, **options)
    torch.testing.assert_close(weight, beside.detach())


@pytest.mark.parametrize("name", ["arcface", "subcenter_arcface", "linear", "vpl", "sphereface2"])
@pytest.mark.parametrize(("settings", "optimizer", "options"), SETTINGS)
def test_training_equals_the_optimizer_beside_it(settings, optimizer, options, name):
    """With a schedule; all that is not a center is stepped by an optimizer of torch in both."""
    inside, beside = build(name, optimizer_in_backward=settings(**options)), build(name, engine="chunked")
    others = [torch.optim.SGD(head.parameters(), lr=0.01) for head in (inside, beside)]
    others[1].param_groups[0]["params"] = [p for p in beside.parameters() if p is not beside.weight]
    expected = optimizer([beside.weight], **options)
    for step in range(5):
        lr = options["lr"] / (1 + step)
        inside.backward_optimizer.lr = expected.param_groups[0]["lr"] = lr
        x, labels = batch(step)
        embeddings = [x.clone().requires_grad_(), x.clone().requires_grad_()]
        losses = [head(own, labels) for head, own in zip((inside, beside), embeddings, strict=True)]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)
        for head, loss, other in zip((inside, beside), losses, others, strict=True):
            head.zero_grad()
            loss.backward()
            other.step()
        expected.step()
        torch.testing.assert_close(embeddings[0].grad, embeddings[1].grad, rtol=1e-9, atol=1e-11)
    assert inside.weight.grad is None
    assert relative_error(inside.weight, beside.weight.detach()) < 1e-9
    if settings is BackwardSGD and "momentum" in options:
        buffer = expected.state[beside.weight]["momentum_buffer"]
        assert relative_error(inside.backward_optimizer.momentum, buffer) < 1e-9


def test_float32_training_equals_the_optimizer_beside_it():
    options = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}
    inside = build(optimizer_in_backward=BackwardSGD(**options), dtype=torch.float32)
    beside = build(engine="chunked", dtype=torch.float32)
    expected = torch.optim.SGD([beside.weight], **options)
    for step in range(3):
        x, labels = batch(step, dtype=torch.float32)
        inside(x, labels).backward()
        expected.zero_grad()
        beside(x, labels).backward()
        expected.step()
    assert relative_error(inside.weight, beside.weight.detach()) < 1e-6


@pytest.mark.parametrize("settings", [BackwardSGD(0.1, momentum=0.9, weight_decay=0.1), BackwardAdamW(0.01)])
@pytest.mark.parametrize("name", ["arcface", "subcenter_arcface"])
def test_rows_that_are_not_drawn_stay_and_the_others_have_a_state_of_their_own(name, settings):
    """Each row is as an optimizer of torch would have left it that was called in the row's own steps only."""
    head = build(name, sample_rate=0.3, optimizer_in_backward=settings)
    optimizer = torch.optim.SGD if isinstance(settings, BackwardSGD) else torch.optim.AdamW
    alone = [head.weight[row].clone().requires_grad_() for row in range(C)]
    optimizers = [optimizer([row], **vars(settings)) for row in alone]
    for step in range(6):
        x, labels = batch(step)
        twin = copy.deepcopy(head)
        twin.backward_optimizer = None  # the same draw, with a gradient
        twin.weight.requires_grad_()
        twin(x, labels).backward()
        before = head.weight.clone()
        head(x, labels).backward()
        drawn = twin.weight.grad.flatten(1).abs().sum(1) > 0
        assert 0 < int(drawn.sum()) < C
        moved = (head.weight != before).flatten(1).any(1)
        assert torch.equal(moved, drawn)
        for row in drawn.nonzero()[:, 0].tolist():
            alone[row].grad = twin.weight.grad[row].clone()
            optimizers[row].step()
    torch.testing.assert_close(head.weight.detach(), torch.stack(alone).detach(), rtol=1e-9, atol=1e-11)


class _Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # Views and operations in place make nothing new.
        if isinstance(out, torch.Tensor) and not any(
            isinstance(a, torch.Tensor) and a.untyped_storage().data_ptr() == out.untyped_storage().data_ptr()
            for a in args
        ):
            self.numel = max(self.numel, out.numel())
        return out


@pytest.mark.parametrize(
    "settings", [BackwardSGD(0.1, momentum=0.9, weight_decay=0.1, nesterov=True), BackwardAdamW(0.1)]
)
def test_no_gradient_of_all_centers_is_held(settings):
    x, labels = batch(classes=500)
    head = build(classes=500, optimizer_in_backward=settings)
    x.requires_grad_()
    head(x, labels).backward()  # once, for whatever is made at first use
    with _Largest() as largest:
        head(x, labels).backward()
    assert 500 <= largest.numel < 500 * D
    with _Largest() as dense:
        build(classes=500, engine="chunked")(x, labels).backward()
    assert dense.numel >= 500 * D


# -- what it refuses, and what it leaves alone -----------------------------------------------------------------------------------


def test_two_losses_of_the_same_centers_are_refused():
    head = build(optimizer_in_backward=BackwardSGD(0.1))
    x, labels = batch()
    x.requires_grad_()
    loss = head(x, labels) + head(x, labels.flip(0))
    with pytest.raises(RuntimeError, match="have been stepped since this loss was computed"):
        loss.backward()


def test_a_graph_is_used_once():
    head = build(optimizer_in_backward=BackwardSGD(0.1))
    x, labels = batch()
    loss = head(x.requires_grad_(), labels)
    loss.backward(retain_graph=True)
    before = head.weight.clone()
    with pytest.raises(RuntimeError, match="have been stepped since this loss was computed"):
        loss.backward()
    assert torch.equal(head.weight, before)


def test_another_optimizer_and_evaluation_leave_the_centers_alone():
    head = build(optimizer_in_backward=BackwardSGD(0.1))
    assert not head.weight.requires_grad
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0, momentum=0.9, weight_decay=0.5)
    x, labels = batch()
    head(x, labels).backward()
    before = head.weight.clone()
    optimizer.step()
    head.eval()
    x.requires_grad_()
    head(x, labels).backward()
    assert torch.equal(head.weight, before)
    assert head.weight.grad is None
    assert x.grad.abs().sum() > 0
    with torch.no_grad():
        head.train()(x, labels)
    assert torch.equal(head.weight, before)


def test_state_is_in_the_state_dict():
    options = {"sample_rate": 0.5, "optimizer_in_backward": BackwardAdamW(0.1)}
    first, second = build(**options), build(seed=5, **options)
    for step in range(4):
        if step == 2:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        x, labels = batch(step)
        for head in (first, second):
            head(x, labels).backward()
    assert set(first.state_dict()) == {
        "weight",
        "class_sampler.step",
        "class_sampler.seed",
        "backward_optimizer.exp_avg",
        "backward_optimizer.exp_avg_sq",
        "backward_optimizer.steps",
    }
    for (name, value), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BackwardSGD(-0.1), "lr is a finite number"),
        (lambda: BackwardSGD(math.inf), "lr is a finite number"),
        (lambda: BackwardSGD(0.1, momentum=1.0), "momentum is a number from 0 up to, but not, 1"),
        (lambda: BackwardSGD(0.1, nesterov=True), "nesterov"),
        (lambda: BackwardAdamW(0.1, betas=(0.9, 1.0)), "betas"),
        (lambda: BackwardAdamW(0.1, weight_decay=-1.0), "weight_decay"),
        (lambda: build(engine="dense", optimizer_in_backward=BackwardSGD(0.1)), "engine='dense'"),
        (lambda: build("unitsface", optimizer_in_backward=BackwardSGD(0.1)), "learns no centers"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_optimizer():
    with pytest.raises(TypeError, match="BackwardSGD or a BackwardAdamW"):
        build(optimizer_in_backward=torch.optim.SGD)
    head = build(optimizer_in_backward=BackwardSGD(0.1))
    with pytest.raises(ValueError, match="lr is a finite number"):
        head.backward_optimizer.lr = -1.0


def test_it_learns():
    """A few hundred steps of sampled ArcFace with fixed embeddings: their own centers become the nearest."""
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(200, 16, generator=generator), dim=1)
    torch.manual_seed(0)
    head = create_margin(
        "arcface",
        embedding_dim=16,
        num_classes=200,
        scale=16.0,
        margin=0.1,
        sample_rate=0.2,
        optimizer_in_backward=BackwardSGD(0.01, momentum=0.9),
    )
    for step in range(300):
        labels = torch.randint(200, (32,), generator=generator)
        head(x[labels], labels).backward()
        assert math.isfinite(float(head.weight.sum())), step
    assert (head.logits(x).argmax(1) == torch.arange(200)).float().mean() > 0.95


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("settings", [BackwardSGD(1e-3, momentum=0.9), BackwardAdamW(1e-3)])
def test_gpu_draws_and_steps_like_the_cpu_and_waits_for_nothing(settings):
    torch.backends.cuda.matmul.allow_tf32 = False
    on_cpu = build(sample_rate=0.5, optimizer_in_backward=settings)
    on_gpu = copy.deepcopy(on_cpu).cuda()
    for step in range(3):
        x, labels = batch(step)
        on_cpu(x, labels).backward()
        x, labels = x.cuda(), labels.cuda()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error" if step else "default")
        try:
            on_gpu(x, labels).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(on_gpu.cpu().state_dict(), on_cpu.state_dict(), rtol=1e-9, atol=1e-11)
