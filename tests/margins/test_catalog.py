"""The whole catalog against :mod:`paper_references`, in every engine."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import facezoo
from facezoo.margins import describe_margin, list_margins, margin_class, sub_center_report
from facezoo.ops import NonFiniteError
from paper_references import CASE_IDS, CASES, REFERENCES, Batch
from told import create_margin

ENGINES = [("dense", None), ("chunked", 1), ("chunked", 3), ("chunked", None)]
ENGINE_IDS = [f"{engine}-{block}" for engine, block in ENGINES]
N, C, D = 8, 11, 6


def full_options(name, options):
    return dict(margin_class(name).defaults) | options


def make_batch(name, options, seed=0):
    """Embeddings whose angles to their own center go from near 0 to near π, so that every branch is taken."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    per_class = full_options(name, options).get("sub_centers")
    w = draw(C, D) if per_class is None else draw(C, per_class, D)
    labels = torch.randint(C, (N,), generator=generator)
    labels[-1] = labels[0]  # two samples of one class: gradients of its center add up
    own = F.normalize(w[labels] if per_class is None else w[labels, 0], dim=1)
    other = draw(N, D)
    other = F.normalize(other - (other * own).sum(1, keepdim=True) * own, dim=1)
    theta = torch.linspace(0.1, math.pi - 0.1, N, dtype=torch.float64)[:, None]
    norms = (5.0, 120.0) if name in ("magface", "adaface") or options.get("feature_norm") == "soft" else (0.5, 6.0)
    x = (own * theta.cos() + other * theta.sin()) * torch.linspace(*norms, N, dtype=torch.float64)[:, None]
    # Exactly representable in float32, so that an engine is not blamed for the rounding of its input.
    x, w, memory = x.float().double(), w.float().double(), F.normalize(draw(C, D), dim=1).float().double()
    batch = Batch(x, w, labels, memory=memory)
    if name == "unitsface":
        batch.memory = F.normalize(w, dim=1).float().double()
    batch.state = {
        "class_counts": torch.arange(C) * 7 + 1,
        "norm_mean": torch.tensor(40.0, dtype=torch.float64),
        "norm_std": torch.tensor(10.0, dtype=torch.float64),
        "t": torch.tensor(0.25, dtype=torch.float64),
        "fresh": torch.arange(C) % 3 > 0,
    }
    return batch


def make_head(name, options, batch, *, engine="dense", block=None, dtype=torch.float64, **head_options):
    head = create_margin(
        name, embedding_dim=D, num_classes=C, engine=engine, block_size=block, **options, **head_options
    ).to(dtype)
    with torch.no_grad():
        head.weight.copy_(batch.memory if name == "unitsface" else batch.w)
        if head.bias is not None:
            head.bias.copy_(torch.linspace(-1, 1, C))
        for key, value in batch.state.items():
            if key in dict(head.named_buffers()):
                head.get_buffer(key).copy_(value)
        if name == "vpl":
            head.memory.copy_(batch.memory)
            head.memory_written.copy_(torch.where(batch.state["fresh"], 0, -1))
    return head


def step(head, batch, seed=0):
    """Loss and gradients of one training step: x, weight, bias, offset."""
    x = batch.x.detach().to(next(head.parameters()).dtype, copy=True).requires_grad_()
    torch.manual_seed(seed)
    loss = head(x, batch.labels)
    loss.backward()
    return loss.detach(), {"x": x.grad} | {name: p.grad for name, p in head.named_parameters()}


def reference_step(name, options, batch, head, seed=0):
    options = full_options(name, options)
    torch.manual_seed(seed)
    batch.noise = torch.randn(N, dtype=next(head.parameters()).dtype).double()
    leaves = {"x": batch.x, "weight": batch.w}
    leaves |= {
        key: getattr(head, key).detach().double() for key in ("bias", "offset") if getattr(head, key) is not None
    }
    leaves = {key: value.clone().requires_grad_() for key, value in leaves.items()}
    batch.x, batch.w = leaves["x"], leaves["weight"]
    batch.bias, batch.offset = leaves.get("bias"), leaves.get("offset")
    losses = REFERENCES[name](batch, options)
    assert losses.shape == (N,)
    losses.mean().backward()
    return losses.mean().detach(), {key: value.grad for key, value in leaves.items()}


def relative_error(got, expected):
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def test_every_margin_has_a_reference_and_every_choice_a_case():
    assert set(REFERENCES) == set(list_margins()), "a new margin needs its formula in paper_references.py"
    assert {name for name, _ in CASES} == set(list_margins())
    for name in list_margins():
        for option, default in margin_class(name).defaults.items():
            if isinstance(default, str) and option not in ("easy", "gradient"):
                seen = {full_options(name, options)[option] for case, options in CASES if case == name}
                assert len(seen) > 1, f"{name} is never tested with another {option} than {default!r}"


@pytest.mark.parametrize(("engine", "block"), ENGINES, ids=ENGINE_IDS)
@pytest.mark.parametrize(("name", "options"), CASES, ids=CASE_IDS)
def test_loss_and_gradients_are_those_of_the_paper(name, options, engine, block):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        batch = make_batch(name, options)
        head = make_head(name, options, batch, engine=engine, block=block, dtype=dtype)
        loss, grads = step(head, batch)
        expected, expected_grads = reference_step(name, options, batch, head)
        assert loss.dtype == dtype
        # A logit of 256 has an error of 256 roundings, its exponential too.
        tolerance *= max(1.0, full_options(name, options).get("scale", 1.0) / 64.0)
        assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
        for key, got in grads.items():
            assert relative_error(got, expected_grads[key]) < tolerance, (key, dtype)


# Held constant in the backward pass, as in the papers: a weight that is a smooth function of what is differentiated.
NOT_OF_THE_VALUE = {"adaface": "ẑ(‖x‖)", "arcnegface": "t(cos θ_y)", "circle": "[…]₊"}


@pytest.mark.parametrize("engine", ["dense", "chunked"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=CASE_IDS)
def test_gradcheck(name, options, engine):
    """The gradient is that of the value, where the paper (and gradient="exact") has it so."""
    batch = make_batch(name, options)
    head = make_head(name, options, batch, engine=engine, block=3).eval()
    exact = full_options(name, options).get("gradient", "exact") == "exact" and name not in NOT_OF_THE_VALUE
    names = [key for key, _ in head.named_parameters()]

    def loss(x, *parameters):
        return torch.func.functional_call(head, dict(zip(names, parameters, strict=True)), (x, batch.labels))

    leaves = [leaf.detach().clone().requires_grad_() for leaf in (batch.x, *head.parameters())]
    shift = name in ("cosface", "uniface", "unitsface")  # the derivative of their φ is 1 in any case
    right = torch.autograd.gradcheck(loss, leaves, fast_mode=True, raise_exception=exact)
    assert right == (exact or shift)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_engines_agree(label_smoothing, data):
    softmax = [case for case in CASES if "combine" not in margin_class(case[0]).has]
    name, options = data.draw(st.sampled_from(softmax if label_smoothing else CASES))
    n, d = data.draw(st.integers(1, 9)), data.draw(st.integers(3, 12))
    c = data.draw(st.integers(3, 30))
    if "scale" in margin_class(name).defaults:
        options = options | {"scale": data.draw(st.floats(0.5, 300.0))}
    block = data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)))
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * data.draw(st.sampled_from([0.1, 1.0, 30.0]))
    results = []
    for engine in ("dense", "chunked"):
        torch.manual_seed(seed)
        head = create_margin(
            name,
            embedding_dim=d,
            num_classes=c,
            engine=engine,
            block_size=block,
            label_smoothing=label_smoothing,
            **options,
        ).double()
        head.init_from_embeddings(torch.randn(c, d, dtype=torch.float64), torch.arange(c))
        leaf = x.clone().requires_grad_()
        for _ in range(2):  # the second step with state and memory
            loss = head(leaf, labels)
            grads = torch.autograd.grad(loss, [leaf, *head.parameters()])
        results.append((loss.detach(), *grads))
    for dense, chunked in zip(*results, strict=True):
        assert torch.isfinite(dense).all()
        floor = 1e-9 * max(1.0, dense.abs().max().item(), options.get("scale", 64.0))
        torch.testing.assert_close(chunked, dense, rtol=1e-8, atol=floor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("engine", ["dense", "chunked"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=CASE_IDS)
def test_finite_for_degenerate_input(name, options, engine, dtype):
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(6, 8, generator=generator)
    w[4] = 0.0
    w[0], w[1] = 2.0 * torch.eye(8)[0], 0.5 * torch.eye(8)[1]  # whose cosines with themselves are 1 to the last bit
    w[5] = w[3]  # two classes with one center
    # cos = 1, cos = -1, a zero vector, a zero center, identical embeddings with different labels, a tiny and a huge vector
    tiny = 1e-2 if dtype == torch.float16 else 1e-4  # a gradient of s/‖x‖ has to fit into the dtype of the embeddings
    x = torch.stack([w[0], -w[1], 0 * w[0], w[2], w[3], w[3], tiny * w[0], 1e3 * w[1]]).to(dtype).requires_grad_()
    labels = torch.tensor([0, 1, 2, 4, 3, 5, 0, 1])
    head = create_margin(name, embedding_dim=8, num_classes=6, engine=engine, block_size=4, **options)
    with torch.no_grad():
        head.weight.copy_(w[:, None] if head.weight.dim() == 3 else w)
    for _ in range(2):
        loss = head(x, labels)
        loss.backward()
    assert torch.isfinite(loss)
    assert x.grad.dtype == dtype
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters())
    if name != "linear":
        assert (x.grad[2] == 0).all()


@pytest.mark.parametrize("name", list_margins())
def test_state_survives_a_checkpoint_and_a_copy(name):
    options = {"start": 2} if "start" in margin_class(name).defaults else {}
    torch.manual_seed(0)
    x, labels = torch.randn(6, 4) * 20, torch.tensor([0, 1, 2, 3, 4, 0])
    head = create_margin(
        name, embedding_dim=4, num_classes=5, warmup_steps=5 if margin_class(name).warmable else 0, **options
    )
    if name == "dyn_arcface":
        head.set_class_counts(torch.tensor([1, 2, 30, 4, 5]))
    for _ in range(3):
        head(x, labels).backward()
    restored = create_margin(
        name, embedding_dim=4, num_classes=5, warmup_steps=5 if margin_class(name).warmable else 0, **options
    )
    restored.load_state_dict(head.state_dict())
    copies = [restored, copy.deepcopy(head), pickle.loads(pickle.dumps(head))]
    torch.manual_seed(1)
    expected = [head(x.flip(0), labels).item() for _ in range(2)]
    for other in copies:
        torch.manual_seed(1)
        assert [other(x.flip(0), labels).item() for _ in range(2)] == expected
    fresh = create_margin(name, embedding_dim=4, num_classes=5, **options)
    if "state" in margin_class(name).has and name != "dyn_arcface":
        assert any(
            not torch.equal(b, fresh.get_buffer(k)) for k, b in head.named_buffers() if k in dict(fresh.named_buffers())
        )


@pytest.mark.parametrize("options", [{"engine": "dense"}, {"engine": "chunked"}, {"sample_rate": 0.6}], ids=str)
@pytest.mark.parametrize("name", list_margins())
def test_losses_before_one_backward_pass_are_those_with_one_each(name, options):
    """Mixup has two; a third in evaluation mode. What one of them changes in the head, another one's backward pass must not see."""
    if "start" in margin_class(name).defaults:
        options = options | {"start": 1, "scale": 8.0}
    if margin_class(name).warmable:
        options = options | {"warmup_steps": 5}
    torch.manual_seed(0)
    x, labels = torch.randn(6, 4, dtype=torch.float64) * 5, torch.tensor([0, 1, 2, 3, 4, 0])
    head = create_margin(name, embedding_dim=4, num_classes=7, block_size=2, **options).double()
    if name == "dyn_arcface":
        head.set_class_counts(torch.arange(1, 8))
    results = []
    for together, own in ((True, copy.deepcopy(head)), (False, copy.deepcopy(head))):
        torch.manual_seed(1)
        leaf, losses = x.clone().requires_grad_(), []
        for update in range(3):
            pending = []
            for share, mode, target in (
                (0.2, False, labels),
                (0.5, True, labels.roll(update)),
                (0.3, True, labels.flip(0)),
            ):
                loss = share * own.train(mode)(leaf, target)
                losses.append(loss.detach())
                if together:
                    pending.append(loss)
                else:
                    loss.backward()
            if together:
                torch.stack(pending).sum().backward()
        gradients = {key: parameter.grad for key, parameter in own.named_parameters()}
        results.append({"losses": torch.stack(losses), "x": leaf.grad, **gradients, "state": own.state_dict()})
    assert results[0]["x"].abs().sum() > 0
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_a_memory_is_copied_only_where_a_backward_pass_needs_it():
    head = create_margin("vpl", embedding_dim=4, num_classes=5, start=0)
    x, labels = torch.randn(3, 4, requires_grad=True), torch.tensor([1, 2, 1])
    memory = head.memory
    for _ in range(3):
        head(x, labels).backward()
    assert head.memory is memory
    losses = [head(x, labels) for _ in range(2)]
    assert head.memory is not memory
    memory = head.memory
    losses[0].backward()
    losses.append(head(x, labels))  # the second loss has still to come
    assert head.memory is not memory
    sum(losses[1:]).backward()
    memory = head.memory
    head(x, labels).backward()
    assert head.memory is memory
    head(x, labels)  # a loss that is thrown away costs one copy, and not one in each step from now on
    head(x, labels).backward()
    assert head.memory is not memory
    memory = head.memory
    head(x, labels).backward()
    assert head.memory is memory


@pytest.mark.parametrize("name", list_margins())
def test_evaluation_mode_changes_nothing_and_draws_nothing(name):
    head = create_margin(name, embedding_dim=4, num_classes=5).eval()
    before = copy.deepcopy(head.state_dict())
    x, labels = torch.randn(6, 4), torch.arange(6) % 5
    assert torch.equal(head(x, labels), head(x, labels))
    for key, value in head.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", list_margins())
def test_description_names_every_option(name):
    text = describe_margin(name)
    spec = margin_class(name)
    assert all(f"{key}={value!r}" in text for key, value in spec.defaults.items())
    assert spec.paper in text
    assert spec.__doc__
    head = create_margin(name, embedding_dim=4, num_classes=10)
    assert dict(head.options) == dict(spec.defaults)
    assert isinstance(head.margin, (float, int, tuple))


DEFAULTS = {  # all of them, as the papers (or their published code) have them
    "adacos": {"mode": "dynamic"},
    "adaface": {"scale": 64.0, "margin": 0.4, "h": 0.333, "rate": 0.01},
    "am_softmax": {"scale": 30.0, "margin": 0.35},
    "arcface": {"scale": 64.0, "margin": 0.5},
    "arcnegface": {"scale": 64.0, "margin": 0.5, "alpha": 1.2, "sigma": 2.0},
    "circle": {"scale": 256.0, "margin": 0.25},
    "combined": {"scale": 64.0, "m1": 1.0, "m2": 0.3, "m3": 0.2},
    "cosface": {"scale": 64.0, "margin": 0.35},
    "curricularface": {"scale": 64.0, "margin": 0.5, "rate": 0.01},
    "dyn_arcface": {"scale": 64.0, "a": 0.45, "b": 0.05, "exponent": 0.25},
    "elastic_arcface": {"scale": 64.0, "margin": 0.5, "sigma": None, "variant": "plain"},
    "elastic_cosface": {"scale": 64.0, "margin": 0.35, "sigma": None, "variant": "plain"},
    "linear": {},
    "magface": {
        "scale": 64.0,
        "norm_min": 10.0,
        "norm_max": 110.0,
        "margin_min": 0.45,
        "margin_max": 0.8,
        "norm_weight": 35.0,
    },
    "mv_softmax": {"scale": 32.0, "margin": 0.35, "t": 1.12, "kind": "am", "weighting": "adaptive"},
    "normface": {"scale": 30.0},
    "p2sgrad": {},
    "sphereface": {"margin": 4, "lambda_max": 1000.0, "lambda_min": 5.0, "gamma": 0.12},
    "sphereface2": {"scale": 40.0, "margin": 0.4, "power": 3.0, "balance": 0.7},
    "sphereface_r": {
        "scale": 30.0,
        "margin": 1.7,
        "variant": "v0",
        "feature_norm": "hard",
        "norm_weight": 0.01,
        "gradient": "detached",
    },
    "subcenter_arcface": {"scale": 64.0, "margin": 0.5, "sub_centers": 3},
    "uniface": {"scale": 64.0, "margin": 0.4, "negative_weight": 1.0},
    "unitsface": {"scale": 64.0, "margin": 0.1, "negative_weight": 1.0, "start": 100},
    "vpl": {"scale": 64.0, "margin": 0.5, "share": 0.15, "freshness": 200, "start": 8000},
}


@pytest.mark.parametrize("name", list_margins())
def test_defaults_of_the_papers(name):
    defaults = dict(margin_class(name).defaults)
    easy, gradient = defaults.pop("easy", "monotone"), defaults.pop("gradient", "exact")
    expected = dict(DEFAULTS[name])
    assert (easy, gradient) == ("monotone", expected.pop("gradient", "exact"))
    assert defaults == expected


# -- particular margins -----------------------------------------------------------------------------------------------------------


def test_curricular_t_is_the_running_mean_of_the_target_cosine():
    batch = make_batch("curricularface", {})
    head = make_head("curricularface", {}, batch)
    mean = batch.own(batch.cosines()).mean()
    head(batch.x, batch.labels)
    torch.testing.assert_close(head.t, 0.01 * mean + 0.99 * 0.25)


def test_adacos_scale():
    head = create_margin("adacos", embedding_dim=4, num_classes=1000)
    assert head.s.item() == pytest.approx(math.sqrt(2) * math.log(999))
    fixed = create_margin("adacos", embedding_dim=4, num_classes=1000, mode="fixed")
    x, labels = torch.randn(6, 4), torch.arange(6)
    head(x, labels)
    fixed(x, labels)
    assert head.s.item() != pytest.approx(math.sqrt(2) * math.log(999), rel=1e-3)
    assert fixed.s.item() == pytest.approx(math.sqrt(2) * math.log(999))
    torch.testing.assert_close(head.logits(x), head.s * F.normalize(x) @ F.normalize(head.weight).T)
    with pytest.raises(ValueError, match="at least 3"):
        create_margin("adacos", embedding_dim=4, num_classes=2)


def test_adacos_follows_the_median_angle_once_it_is_small():
    """Above 45° the cosine in the denominator is fixed; here the angles lie below, and their mean is not their median."""
    batch = make_batch("adacos", {})
    own = F.normalize(batch.w[batch.labels], dim=1)
    side = F.normalize(torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3)), dim=1)
    batch.x = own + torch.tensor([0.05, 0.1, 0.1, 0.2, 0.2, 0.3, 0.9, 0.9], dtype=torch.float64)[:, None] * side
    head = make_head("adacos", {}, batch, engine="chunked")
    loss, grads = step(head, batch)
    expected, expected_grads = reference_step("adacos", {}, batch, head)
    angles = torch.acos(batch.own(batch.cosines()).detach())
    assert angles.median() < 0.9 * math.pi / 4
    assert abs(angles.mean() - angles.median()) > 0.02
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads["x"], expected_grads["x"])


@pytest.mark.parametrize(
    "options", [{}, {"scale": 64.0, "margin": 0.7}, {"power": 2.0, "balance": 0.5}, {"scale": 500.0, "margin": 1.0}]
)
@pytest.mark.parametrize("classes", [2, 3, 4, 50, 10_000])
def test_sphereface2_begins_balanced(classes, options):
    """At cosines of 0 the own class's gradient equals that of all others together: the definition of the closed form."""
    head = create_margin("sphereface2", embedding_dim=4, num_classes=classes, **options)
    r, m, t, balance = (head.options[name] for name in ("scale", "margin", "power", "balance"))
    g, b = 2 * 0.5**t - 1, head.offset.double().detach()
    # The logarithms of λ·σ(-own logit) and (1 - λ)·(C - 1)·σ(other logit); b is float32.
    pull = math.log(balance) + F.logsigmoid(-(r * (g - m) + b))
    push = math.log((1 - balance) * (classes - 1)) + F.logsigmoid(r * (g + m) + b)
    assert pull.item() == pytest.approx(push.item(), abs=1e-6 * max(1.0, abs(b.item())) + 1e-6)


@pytest.mark.parametrize("name", ["uniface", "unitsface"])
def test_the_threshold_begins_where_the_published_one_does(name):
    for classes in (5, 1000):
        head = create_margin(name, embedding_dim=4, num_classes=classes)
        assert head.offset.item() == pytest.approx(-math.log(10 * classes))


@pytest.mark.parametrize("length", [3.0, 50.0, 300.0])
def test_magface_moves_the_length_only_inside_its_range(length):
    head = create_margin("magface", embedding_dim=4, num_classes=10, engine="chunked").double()
    x = length * F.normalize(torch.randn(5, 4, dtype=torch.float64), dim=1)
    x.requires_grad_()
    head(x, torch.arange(5)).backward()
    along = (x.grad * F.normalize(x.detach(), dim=1)).sum(1)
    assert (along.abs() > 1e-6).all() if length == 50.0 else (along.abs() < 1e-12).all()


def test_adaface_statistics():
    head = create_margin("adaface", embedding_dim=4, num_classes=10)
    x, labels = torch.randn(6, 4) * 30, torch.arange(6)
    head(x, labels)
    norm = x.norm(dim=1).clamp(0.001, 100)
    torch.testing.assert_close(head.norm_mean, 0.01 * norm.mean() + 0.99 * 20)
    torch.testing.assert_close(head.norm_std, 0.01 * norm.std() + 0.99 * 100)
    head(x[:1], labels[:1])  # one sample has no standard deviation
    assert torch.isfinite(head.norm_std)


@pytest.mark.parametrize("name", ["elastic_arcface", "elastic_cosface"])
def test_elastic_margin_is_random_in_training_and_m_in_evaluation(name):
    batch = make_batch(name, {})
    head = make_head(name, {}, batch)
    assert len({head(batch.x, batch.labels).item() for _ in range(3)}) == 3
    plain = make_head(name.removeprefix("elastic_"), {"margin": head.margin}, batch)
    assert head.eval()(batch.x, batch.labels).item() == pytest.approx(plain(batch.x, batch.labels).item())


def test_class_counts():
    head = create_margin("dyn_arcface", embedding_dim=4, num_classes=3)
    head.set_class_counts(torch.tensor([1, 16, 10_000]))
    assert head.class_counts.tolist() == [1, 16, 10_000]
    x, labels = torch.randn(3, 4), torch.arange(3)
    told = facezoo.create_margin("dyn_arcface", embedding_dim=4, num_classes=3)
    for mode in (True, False):
        with pytest.raises(RuntimeError, match=r"'dyn_arcface' depends on .* head\.set_class_counts\(torch\.bincount"):
            told.train(mode)(x, labels)
    told.logits(x)
    told.load_state_dict(head.state_dict())
    assert told(x, labels) == head(x, labels)
    told.load_state_dict(facezoo.create_margin("dyn_arcface", embedding_dim=4, num_classes=3).state_dict())
    with pytest.raises(RuntimeError, match="set_class_counts"):
        told(x, labels)
    with pytest.raises(ValueError, match="class 1 has 0 images"):
        head.set_class_counts(torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match=r"\(3,\), got \(2,\)"):
        head.set_class_counts(torch.tensor([1, 1]))
    with pytest.raises(ValueError, match="dyn_arcface"):
        create_margin("arcface", embedding_dim=4, num_classes=3).set_class_counts(torch.ones(3))


@pytest.mark.parametrize("engine", ["dense", "chunked"])
def test_sub_centers_with_one_are_arcface(engine):
    batch = make_batch("arcface", {})
    arcface = make_head("arcface", {}, batch, engine=engine)
    one = create_margin("subcenter_arcface", embedding_dim=D, num_classes=C, sub_centers=1, engine=engine).double()
    with torch.no_grad():
        one.weight.copy_(batch.w[:, None])
    loss, grads = step(one, batch)
    expected, expected_grads = step(arcface, batch)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(grads["weight"][:, 0], expected_grads["weight"])


@pytest.mark.parametrize("engine", ["dense", "chunked"])
def test_of_equal_sub_centers_one_learns(engine):
    """Shared out among them, the gradient would leave them equal for ever."""
    batch = make_batch("subcenter_arcface", {})
    batch.w[:, 1] = batch.w[:, 0]
    _, grads = step(make_head("subcenter_arcface", {}, batch, engine=engine, block=3), batch)
    moved = (grads["weight"].abs().sum(2) > 0)[:, :2].sum(1)
    assert moved.max() == 1
    assert moved.sum() > 3


def test_sub_center_report():
    head = create_margin("subcenter_arcface", embedding_dim=4, num_classes=2, sub_centers=2)
    with torch.no_grad():
        head.weight.copy_(torch.eye(4).view(2, 2, 4))
    near = torch.tensor([1.0, 0.1, 0.0, 0.0])  # sub-center 0 of class 0
    noise = torch.tensor([0.1, 1.0, 0.0, 0.0])  # its sub-center 1
    x = torch.stack([near, near, noise, torch.eye(4)[3], torch.eye(4)[3] + 0.9 * torch.eye(4)[2]])
    report = sub_center_report(head, x, torch.tensor([0, 0, 0, 1, 1]))
    assert report.dominant.tolist() == [0, 1]
    assert report.counts.tolist() == [[2, 1], [0, 2]]
    expected = [math.atan(0.1), math.atan(0.1), math.atan(10.0)]
    assert report.angle[:3].tolist() == pytest.approx(expected, abs=1e-3)
    assert report.outliers.tolist() == [False, False, True, False, False]
    assert torch.equal(report.centers, head.weight[torch.arange(2), report.dominant])
    assert not sub_center_report(head, x, torch.tensor([0, 0, 0, 1, 1]), max_angle=1.5).outliers.any()
    with pytest.raises(ValueError, match="radians"):
        sub_center_report(head, x, torch.tensor([0, 0, 0, 1, 1]), max_angle=75.0)
    with pytest.raises(ValueError, match="label 2 at position 4"):
        sub_center_report(head, x, torch.tensor([0, 0, 0, 1, 2]))
    with pytest.raises(ValueError, match=r"\(N, 4\), got \(5, 3\)"):
        sub_center_report(head, x[:, :3], torch.tensor([0, 0, 0, 1, 1]))
    with pytest.raises(ValueError, match="subcenter_arcface"):
        sub_center_report(
            create_margin("arcface", embedding_dim=4, num_classes=2), x, torch.zeros(5, dtype=torch.int64)
        )


# -- memory -----------------------------------------------------------------------------------------------------------------------


def test_memory_keeps_the_last_embedding_of_each_class():
    head = create_margin("vpl", embedding_dim=4, num_classes=5)
    first, second = torch.randn(3, 4), torch.randn(2, 4)
    head(first, torch.tensor([1, 2, 1])).backward()
    assert (head.memory == 0).all()  # not before the backward pass is over
    head(second, torch.tensor([2, 4])).backward()
    torch.testing.assert_close(head.memory[1], F.normalize(first[2], dim=0))
    torch.testing.assert_close(head.memory[2], F.normalize(first[1], dim=0))
    state = head.state_dict()
    torch.testing.assert_close(state["memory"][2], F.normalize(second[0], dim=0))
    assert state["memory_written"].tolist() == [-1, 0, 1, -1, 1]
    assert int(state["memory_steps"]) == 2
    assert (state["memory"][[0, 3]] == 0).all()


@pytest.mark.parametrize("name", ["vpl", "unitsface"])
@pytest.mark.parametrize("engine", ["dense", "chunked"])
def test_logits_between_loss_and_backward_pass(name, engine):
    """The trainer looks at the accuracy of a batch there; the memory must not change under autograd."""
    head = create_margin(name, embedding_dim=4, num_classes=5, start=0, engine=engine)
    x, labels = torch.randn(3, 4, requires_grad=True), torch.tensor([1, 2, 1])
    for _ in range(2):
        loss = head(x, labels)
        head.logits(x)
        loss.backward()
    head.eval()
    logits = head.logits(x)
    restored = create_margin(name, embedding_dim=4, num_classes=5, start=0)
    restored.load_state_dict(head.state_dict())
    torch.testing.assert_close(restored.logits(x), logits)


def test_vpl_uses_fresh_memory_only():
    torch.manual_seed(0)
    x, labels = torch.randn(4, 4), torch.arange(4)
    head = create_margin("vpl", embedding_dim=4, num_classes=6, start=2, freshness=1)
    plain = create_margin("arcface", embedding_dim=4, num_classes=6)
    plain.load_state_dict({"weight": head.weight})
    expected = plain(x, labels).item()
    assert head(x, labels).item() == pytest.approx(expected)
    assert head(x, labels).item() == pytest.approx(expected)
    assert head(x, labels).item() < expected - 1.0  # the memory holds these very embeddings
    other = torch.tensor([5])
    head(x[:1], other)
    head(x[:1], other)
    assert head.memory_written.tolist()[:4] == [2] * 4
    head.eval()
    assert head(x, labels).item() == pytest.approx(expected, abs=2.0)
    assert head._memory().share[:4].tolist() == [0.0] * 4


def test_unitsface_waits_and_then_sets_its_threshold():
    torch.manual_seed(0)
    x, labels = torch.randn(5, 4), torch.arange(5)
    head = create_margin("unitsface", embedding_dim=4, num_classes=5, start=1, scale=8.0)
    leaf = x.clone().requires_grad_()
    loss = head(leaf, labels)
    loss.backward()
    assert loss.item() == 0.0
    assert (leaf.grad == 0).all()
    assert (head.offset.grad == 0).all()
    loss = head(leaf, labels)
    loss.backward()
    unit = F.normalize(x, dim=1)
    logits = 8.0 * unit @ unit.T
    expected = logits.masked_fill(torch.eye(5, dtype=torch.bool), -math.inf).logsumexp(1).mean()
    torch.testing.assert_close(-head.offset.detach(), expected)
    assert head.offset.grad.abs() > 0
    assert [name for name, _ in head.named_parameters()] == ["offset"]
    head(leaf, labels)
    torch.testing.assert_close(-head.offset.detach(), expected)  # once only


# -- inter-class filtering --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosface", "arcface", "adaface", "subcenter_arcface"])
@pytest.mark.parametrize("engine", ["dense", "chunked"])
def test_interclass_filter_drops_similar_classes(name, engine):
    batch = make_batch(name, {})
    head = make_head(name, {}, batch, engine=engine, block=3, interclass_filter=0.2)
    loss, grads = step(head, batch)
    leaf = batch.x.clone().requires_grad_()
    cosines = Batch(leaf, batch.w, batch.labels).cosines()
    dropped = (cosines > 0.2) & batch.others
    assert dropped.any()
    assert not dropped.all(1).any()
    # The same loss with the dropped classes' cosines at -1000: their exponential is 0.
    plain = make_head(name, {}, batch, engine="dense")
    total = plain(batch.x, batch.labels)
    assert loss < total
    logits = 64.0 * cosines
    kept = (batch.others & ~dropped).double()
    own = torch.log(torch.expm1(-torch.log_softmax(logits, 1)[torch.arange(N), batch.labels]))
    assert torch.isfinite(own).all()
    if name == "cosface":
        phi = 64.0 * (batch.own(cosines) - 0.35)
        expected = torch.log1p((torch.exp(logits - phi[:, None]) * kept).sum(1)).mean()
        expected.backward()
        torch.testing.assert_close(loss, expected.detach())
        torch.testing.assert_close(grads["x"], leaf.grad)


def test_interclass_filter_is_refused_where_it_has_no_meaning():
    for name in ("linear", "sphereface", "circle", "curricularface", "uniface", "p2sgrad", "unitsface"):
        with pytest.raises(ValueError, match="own treatment"):
            create_margin(name, embedding_dim=4, num_classes=5, interclass_filter=0.4)
    with pytest.raises(ValueError, match="exclude each other"):
        create_margin("arcface", embedding_dim=4, num_classes=5, interclass_filter=0.4, label_smoothing=0.1)
    with pytest.raises(ValueError, match="cosine, from -1 to 1"):
        create_margin("arcface", embedding_dim=4, num_classes=5, interclass_filter=4.0)


# -- warm-up ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["dense", "chunked"])
def test_margin_warmup_goes_from_none_to_all(engine):
    batch = make_batch("arcface", {})
    head = make_head("arcface", {}, batch, engine=engine, block=3, warmup_steps=4)
    none = make_head("normface", {"scale": 64.0}, batch)(batch.x, batch.labels).item()
    full = make_head("arcface", {}, batch)(batch.x, batch.labels).item()
    losses = [head(batch.x, batch.labels).item() for _ in range(6)]
    assert losses[0] == pytest.approx(none)
    assert losses == sorted(losses)
    assert losses[4] == losses[5] == pytest.approx(full)
    head.set_margin_progress(0.5)
    cosines = batch.cosines()
    own = batch.own(cosines)
    theta = torch.acos(own)
    phi = torch.where(theta < math.pi - 0.5, torch.cos(theta + 0.5), own - 0.5 * math.sin(0.5))
    logits = 64 * cosines
    logits[torch.arange(N), batch.labels] = 64 * (own + phi) / 2
    head.eval()
    torch.testing.assert_close(head(batch.x, batch.labels), F.cross_entropy(logits, batch.labels))
    assert int(head.warmup_step) == 2


@pytest.mark.parametrize("engine", ["dense", "chunked"])
def test_scale_warmup(engine):
    batch = make_batch("normface", {})
    head = make_head("normface", {}, batch, engine=engine, block=3, warmup_steps=2, warmup_scale=10.0)
    losses = [head(batch.x, batch.labels).item() for _ in range(3)]
    for loss, scale in zip(losses, (10.0, 20.0, 30.0), strict=True):
        assert loss == pytest.approx(make_head("normface", {"scale": scale}, batch)(batch.x, batch.labels).item())
    torch.testing.assert_close(head.logits(batch.x), 30.0 * batch.cosines())


@pytest.mark.parametrize("scales", [(5.0, 400.0), (400.0, 5.0)])
def test_no_scale_of_a_warmup_overflows(scales):
    """An engine learns the largest of them."""
    batch = make_batch("normface", {})
    losses = []
    for engine in ("dense", "chunked"):
        options = {"scale": scales[1], "warmup_scale": scales[0], "warmup_steps": 2}
        head = make_head("normface", {}, batch, engine=engine, block=3, dtype=torch.float32, **options)
        losses.append([head(batch.x.float(), batch.labels).item() for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("arcface", {"warmup_steps": -1}, "warmup_steps"),
        ("arcface", {"warmup_scale": 10.0}, "needs warmup_steps"),
        ("linear", {"warmup_steps": 3}, "no margin on the cosine"),
        ("sphereface2", {"warmup_steps": 3}, "no margin on the cosine"),
        ("sphereface", {"warmup_steps": 3, "warmup_scale": 3.0}, "scale option"),
        ("uniface", {"label_smoothing": 0.1}, "not a softmax"),
        ("p2sgrad", {"label_smoothing": 0.1}, "not a softmax"),
        ("sphereface_r", {"margin": 0.5}, "at least 1"),
        ("sphereface_r", {"variant": "v3"}, "variant"),
        ("sphereface_r", {"feature_norm": "softt"}, "did you mean 'soft'"),
        ("sphereface2", {"balance": 1.0}, "balance"),
        ("subcenter_arcface", {"sub_centers": 0}, "sub_centers"),
        ("dyn_arcface", {"a": 2.0}, "radians"),
        ("elastic_arcface", {"variant": "pluss"}, "did you mean 'plus'"),
        ("elastic_arcface", {"sigma": 3.0}, "sigma"),
        ("elastic_cosface", {"margin": 35}, "difference of cosines"),
        ("magface", {"norm_min": 120.0}, "norm_max"),
        ("magface", {"margin_max": 80.0}, "degrees"),
        ("magface", {"margin_max": 0.3}, "margin_max"),
        ("adaface", {"h": 0.0}, "h is above 0"),
        ("adacos", {"mode": "dynamc"}, "did you mean 'dynamic'"),
        ("arcnegface", {"sigma": 0.0}, "sigma"),
        ("mv_softmax", {"kind": "cos"}, "kind"),
        ("mv_softmax", {"t": 0.5}, "t is at least 1"),
        ("mv_softmax", {"kind": "arc", "margin": 28.6}, "radians"),
        ("curricularface", {"rate": 2.0}, "rate"),
        ("circle", {"margin": -1.0}, "circle"),
        ("vpl", {"share": 1.5}, "share"),
        ("vpl", {"freshness": -1}, "freshness"),
        ("unitsface", {"start": 0.5}, "start"),
        ("uniface", {"negative_weight": 0.0}, "negative_weight"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_margin(name, embedding_dim=4, num_classes=10, **options)


def test_a_step_of_several_calls():
    """The caller counts: both losses of a step see the same margin."""
    batch = make_batch("sphereface", {})
    own, told = (make_head("sphereface", {}, batch, warmup_steps=3) for _ in range(2))
    for step in range(5):
        expected = own(batch.x, batch.labels)
        for _ in range(2):
            told.set_step(step)
            assert told(batch.x, batch.labels) == expected
    assert int(told.warmup_step) == 3
    assert int(told.iteration) == 5
    with pytest.raises(ValueError, match="0 or more"):
        told.set_step(-1)
    assert told.counts_steps
    assert make_head("sphereface", {}, batch).counts_steps
    assert make_head("arcface", {}, batch, warmup_steps=3).counts_steps
    plain = make_head("arcface", {}, batch)
    assert not plain.counts_steps
    plain.set_step(3)  # nothing to count


def test_progress_out_of_range():
    with pytest.raises(ValueError, match="no warm-up"):
        create_margin("arcface", embedding_dim=4, num_classes=5).set_margin_progress(0.5)
    with pytest.raises(ValueError, match="between 0"):
        create_margin("arcface", embedding_dim=4, num_classes=5, warmup_steps=3).set_margin_progress(1.5)


# -- NaN --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["dense", "chunked"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_the_first_bad_tensor_is_named(engine, bad):
    head = create_margin("curricularface", embedding_dim=4, num_classes=5, engine=engine)
    x, labels = torch.randn(3, 4), torch.arange(3)
    x[1, 2] = bad
    kind = "NaN" if math.isnan(bad) else "infinity"
    with pytest.raises(NonFiniteError, match=rf"{kind} in the embeddings, row 1 \(1 of 3"):
        head(x, labels)
    assert head.t == 0.0  # the state was not touched
    x[1, 2] = 0.0
    with torch.no_grad():
        head.weight[4, 0] = bad
    with pytest.raises(
        NonFiniteError, match=rf"{kind} in weight of the 'curricularface' head, so the loss is nan, row 4"
    ):
        head(x, labels)


def test_nan_where_the_centers_start_is_named():
    head = create_margin("linear", embedding_dim=4, num_classes=3)
    before = head.weight.detach().clone()
    x, linear = torch.randn(3, 4), torch.nn.Linear(4, 3)
    x[2, 0] = linear.weight.data[1, 3] = math.nan
    with pytest.raises(NonFiniteError, match="NaN in the embeddings, row 2"):
        head.init_from_embeddings(x, torch.arange(3))
    with pytest.raises(NonFiniteError, match="NaN in weight of the classifier, row 1"):
        head.init_from_linear(linear)
    with pytest.raises(NonFiniteError, match="NaN in the embeddings, row 2"):
        sub_center_report(create_margin("subcenter_arcface", embedding_dim=4, num_classes=3), x, torch.arange(3))
    assert torch.equal(head.weight, before)


def test_nan_in_the_state_is_named():
    head = create_margin("adaface", embedding_dim=4, num_classes=5)
    head.norm_mean.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="NaN in norm_mean of the 'adaface' head, so the loss is nan"):
        head(torch.randn(3, 4), torch.arange(3))


@pytest.mark.parametrize(
    ("name", "variant", "sigma"),
    [
        ("elastic_arcface", "plain", 0.05),
        ("elastic_arcface", "plus", 0.0175),
        ("elastic_cosface", "plain", 0.05),
        ("elastic_cosface", "plus", 0.02),
    ],
)
def test_default_deviation_of_the_elastic_margins_is_the_papers(name, variant, sigma):
    noise = torch.tensor([-1.0, 0.5, 2.0])
    batch = facezoo.margins.Batch(torch.tensor([0.1, 0.7, 0.4]), noise, torch.arange(3), {}, noise)
    said, default = (margin_class(name)(variant=variant, sigma=value).target(batch) for value in (sigma, None))
    assert torch.equal(said, default)
    assert not torch.equal(said, margin_class(name)(variant=variant, sigma=sigma + 0.001).target(batch))


def test_the_scale_of_adacos_stays_at_one_or_more():
    """Where the other classes are so far away that their mean of exp(z) lies below 1."""
    negatives = torch.full((4,), -3.0)
    batch = facezoo.margins.Batch(torch.full((4,), 0.9), torch.ones(4), torch.arange(4), {}, torch.zeros(4), negatives)
    assert margin_class("adacos")().update(batch)["s"].item() == 1.0


def test_adaface_takes_the_spread_of_two_samples_and_not_of_one():
    margin = margin_class("adaface")()
    for lengths, moves in ((torch.tensor([10.0]), False), (torch.tensor([10.0, 30.0]), True)):
        batch = facezoo.margins.Batch(lengths / 100, lengths, torch.arange(len(lengths)), margin.state(4), lengths)
        assert ("norm_std" in margin.update(batch)) == moves


def test_a_margin_that_cannot_be_warmed_up_keeps_its_target_while_the_scale_rises():
    torch.manual_seed(0)
    x, labels = torch.randn(6, 4), torch.arange(6) % 5
    head = create_margin("circle", embedding_dim=4, num_classes=5, warmup_steps=4, warmup_scale=2.0, scale=2.0)
    plain = create_margin("circle", embedding_dim=4, num_classes=5, scale=2.0)
    plain.load_state_dict(head.state_dict(), strict=False)
    head.set_step(1)
    torch.testing.assert_close(head(x, labels), plain(x, labels))


def test_what_vpl_mixes_in_is_what_was_asked_for():
    stored = margin_class("vpl")(share=0.3, freshness=7, start=2).stored
    assert (stored.place, stored.share, stored.freshness, stored.start) == ("mixed", 0.3, 7, 2)
