"""The engines below the margins: every form, reduction and seam of the driver against plain autograd."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from facezoo.margins import NEGATIVES, Coefficients
from facezoo.margins.engines import (
    DenseGradient,
    Memory,
    Problem,
    SingleProcess,
    TorchKernel,
    chunked_statistics,
    dense_statistics,
)
from facezoo.margins.engines.chunked import WORKSPACE
from facezoo.margins.engines.driver import drive
from forms import EXAMPLES

FORMS = NEGATIVES.list()
# The slope is not the derivative of the value: the weight of the gradient is a choice of the paper.
CHOSEN_SLOPES = {"circle", "power_detached", "wide_angle_detached"}


def coefficients_for(like):
    return Coefficients(like.new_full((len(like), 1), 0.1), like.new_tensor(0.3))


def dense(*arguments, **options):
    return dense_statistics(Problem(*arguments, **options))


def chunked(*arguments, **options):
    return chunked_statistics(Problem(*arguments, **options))


def test_every_form_has_an_example():
    assert set(FORMS) == set(EXAMPLES)


@pytest.mark.parametrize("form", FORMS)
def test_slope_is_the_derivative_unless_it_is_chosen(form):
    c = torch.linspace(-0.97, 0.97, 40, dtype=torch.float64).view(2, 20).requires_grad_()
    form, k = EXAMPLES[form](), coefficients_for(c)
    value = form.value(c, k)
    (derivative,) = torch.autograd.grad(value.masked_fill(value == -math.inf, 0.0).sum(), c)
    slope = form.slope(c.detach(), k)
    assert slope.shape == c.shape
    if form.name in CHOSEN_SLOPES:
        assert (slope - derivative).abs().max() > 0.1
    else:
        torch.testing.assert_close(slope, derivative)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forms_are_finite_at_the_ends(form, dtype):
    eps = torch.finfo(dtype).eps
    c = torch.tensor([[-1.0 - eps, -1.0, -1.0 + eps, 0.0, 1.0 - eps, 1.0, 1.0 + eps]], dtype=dtype)
    form, k = EXAMPLES[form](), coefficients_for(c)
    value, slope = form.value(c, k), form.slope(c, k)
    assert torch.isfinite(slope).all()
    assert (torch.isfinite(value) | (value == -math.inf)).all()
    assert value.dtype == slope.dtype == dtype


@pytest.mark.parametrize("form", FORMS)
def test_the_bound_holds(form):
    form = EXAMPLES[form]()
    c = torch.linspace(-1.0, 1.0, 2001, dtype=torch.float64)[None]
    for threshold in (-1.0, -0.3, 0.4, 1.0):
        value = form.value(c, Coefficients(c.new_full((1, 1), threshold), c.new_tensor(1.0)))
        assert form.bound is None or float(value[value > -math.inf].abs().max()) <= form.bound + 1e-12


def test_forms_by_their_formulas():
    c, f = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([[0.1]], dtype=torch.float64)
    k = Coefficients(f, torch.tensor(0.7, dtype=torch.float64))
    weight = 1.2 * math.exp(-(0.2**2) / 2.0)
    expected = {
        "identity": 0.3,
        "hard_affine": 1.2 * 0.3 + 0.25,
        "hard_quadratic": 0.3 * (0.7 + 0.3),
        "gaussian": weight * 0.3 + weight - 1.0,
        "circle": 0.55 * (0.3 - 0.25),
        "filter": 0.3,
        "power": 2 * 0.65**3 - 1 + 0.4,
        "power_detached": 2 * 0.65**3 - 1 + 0.4,
        "wide_angle": math.cos(math.acos(0.3) / 1.7),
        "wide_angle_detached": math.cos(math.acos(0.3) / 1.7),
    }
    assert set(expected) == set(FORMS)
    for form, value in expected.items():
        assert EXAMPLES[form]().differentiable(c, k).item() == pytest.approx(value, rel=1e-14)
    below = k._replace(threshold=torch.tensor([[0.4]], dtype=torch.float64))
    assert EXAMPLES["hard_affine"]().value(c, below).item() == 0.3
    assert EXAMPLES["hard_quadratic"]().value(c, below).item() == 0.3
    assert NEGATIVES["filter"](limit=0.2).value(c, k).item() == -math.inf


def batch(sub_centers=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(5, 4, generator=generator, dtype=torch.float64), dim=1)
    shape = (7, 4) if sub_centers is None else (7, sub_centers, 4)
    w = torch.randn(*shape, generator=generator, dtype=torch.float64)
    memory = Memory(
        F.normalize(torch.randn(7, 4, generator=generator, dtype=torch.float64), dim=1),
        torch.tensor([0.0, 0.15, 0.15, 0.0, 0.5, 1.0, 0.15], dtype=torch.float64),
    )
    scale = torch.rand(5, generator=generator, dtype=torch.float64) + 2.0
    offset = torch.randn(5, generator=generator, dtype=torch.float64)
    return x, w, memory, scale, offset, torch.tensor([0, 6, 3, 3, 1])


def outputs_and_gradients(engine, arguments, x, w, labels, **options):
    leaves = [t.detach().clone().requires_grad_() for t in (x, w, *arguments)]
    out = engine(leaves[0], leaves[1], labels, scale=leaves[2], offset=leaves[3], **options)
    out = [o for o in out if o is not None]
    probe = [torch.linspace(-1, 2, o.numel(), dtype=o.dtype) for o in out]
    return out, torch.autograd.grad(sum((o * p).sum() for o, p in zip(out, probe, strict=True)), leaves)


@pytest.mark.parametrize("layout", ["plain", "sub_centers", "memory"])
@pytest.mark.parametrize("reduction", ["logsumexp", "softplus", "square"])
@pytest.mark.parametrize("form", [f for f in FORMS if f != "filter"])
def test_driver_equals_autograd(form, reduction, layout):
    """Every form × reduction × layout of the centers, with learned scale and offset per sample."""
    x, w, memory, scale, offset, labels = batch(3 if layout == "sub_centers" else None)
    options = {
        "negatives": EXAMPLES[form](reduction=reduction),
        "prepare": lambda target: Coefficients(target - 0.1, target.new_tensor(0.3)),
        "memory": memory if layout == "memory" else None,
        "with_total": True,
        "block_size": 3,
    }
    expected = outputs_and_gradients(dense, (scale, offset), x, w, labels, **options)
    got = outputs_and_gradients(chunked, (scale, offset), x, w, labels, **options)
    for ours, theirs in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("reduction", ["logsumexp", "softplus"])
def test_filtered_negatives_take_no_part(reduction):
    x, w, _, _, _, labels = batch()
    keep = F.normalize(x, dim=1) @ F.normalize(w, dim=1).T <= 0.3
    keep[torch.arange(5), labels] = False
    for engine in (dense, chunked):
        leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
        out = engine(
            *leaves, labels, scale=8.0, negatives=NEGATIVES["filter"](limit=0.3, reduction=reduction), block_size=3
        )
        got = torch.autograd.grad(out.negatives.sum(), leaves)
        logits = 8.0 * leaves[0] @ F.normalize(leaves[1], dim=1).T
        if reduction == "logsumexp":
            expected = logits.masked_fill(~keep, -math.inf).logsumexp(1)
        else:
            expected = F.softplus(logits, threshold=50).masked_fill(~keep, 0.0).sum(1)
        torch.testing.assert_close(out.negatives, expected)
        torch.testing.assert_close(got, torch.autograd.grad(expected.sum(), leaves))


def test_gradcheck_of_the_driver():
    x, w, memory, scale, offset, labels = batch()
    leaves = [t.requires_grad_() for t in (x, w, scale, offset)]

    def run(features, weight, scale, offset):
        return chunked(
            features,
            weight,
            labels,
            scale=scale,
            offset=offset,
            negatives=EXAMPLES["gaussian"](),
            prepare=lambda target: Coefficients(torch.full_like(target, 0.2)),
            memory=memory,
            with_total=True,
            block_size=2,
        )

    assert torch.autograd.gradcheck(run, leaves)


class _Shards(SingleProcess):
    """Stands for processes that hold the classes in parts: adds what the other part has computed."""

    def __init__(self):
        self.log, self.replay = [], None

    def sum(self, *x):
        return tuple(self._join(part, torch.add) for part in x)

    def max(self, x):
        return self._join(x, torch.maximum)

    def _join(self, x, operation):
        self.log.append(x.clone())
        return x if self.replay is None else operation(x, self.replay[len(self.log) - 1])


@pytest.mark.parametrize("scale", [8.0, 100.0])  # fixed shift, running maximum
def test_classes_in_two_parts(scale):
    """Labels of -1, and the order of the collective's calls: two parts of the classes give the whole."""
    x, w, _, _, _, labels = batch()
    whole = dense(x, w, labels, scale=scale, with_total=True)
    parts = [(w[:3], torch.where(labels < 3, labels, -1)), (w[3:], torch.where(labels >= 3, labels - 3, -1))]
    logs = []
    for weight, positions in parts:
        collective = _Shards()
        chunked(x, weight, positions, scale=scale, with_total=True, collective=collective, block_size=2)
        logs.append(collective.log)
    # What depends on a joined number (the rescaled sums) differs from a lone run, so replay the maximum first.
    for (weight, positions), other in zip(parts, (1, 0), strict=True):
        rerun = _Shards()
        rerun.replay = list(logs[other])
        if scale > 75:
            top = torch.maximum(logs[0][0], logs[1][0])
            rerun.replay[2] = logs[other][2] * torch.exp(logs[other][0] - top)
        out = chunked(x, weight, positions, scale=scale, with_total=True, collective=rerun, block_size=2)
        torch.testing.assert_close(out.target, whole.target)
        torch.testing.assert_close(out.negatives, whole.negatives)
        torch.testing.assert_close(out.total, whole.total)


def test_gradients_of_two_parts_add_up():
    """∂loss/∂features is a sum over the parts; each part has the whole gradient of its own centers."""
    x, w, _, _, _, labels = batch()
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    whole = dense(*leaves, labels, scale=8.0)
    probe = torch.linspace(-1, 2, 5, dtype=torch.float64)
    expected = torch.autograd.grad((whole.target * probe + whole.negatives * probe.flip(0)).sum(), leaves)

    class Known(SingleProcess):
        """Gives every sum the value that it has over all parts."""

        def __init__(self, values):
            self.values = iter(values)

        def sum(self, *x):
            return tuple(next(self.values, part).clone() for part in x)

    summed = torch.exp(whole.negatives.detach())  # the shift is 0 at scale 8
    total_x, grads_w = torch.zeros_like(x), []
    for rows in (slice(0, 3), slice(3, 7)):
        inside = (labels >= rows.start) & (labels < rows.stop)
        part = [x.clone().requires_grad_(), w[rows].clone().requires_grad_()]
        positions = torch.where(inside, labels - rows.start, -1)
        out = chunked(*part, positions, scale=8.0, collective=Known([whole.target.detach(), summed]), block_size=2)
        grads = torch.autograd.grad((out.target * probe + out.negatives * probe.flip(0)).sum(), part)
        total_x += grads[0]
        grads_w.append(grads[1])
    torch.testing.assert_close(total_x, expected[0])
    torch.testing.assert_close(torch.cat(grads_w), expected[1])


def test_sink_gets_every_row_once_and_complete():
    x, w, _, _, _, labels = batch(sub_centers=2)
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    expected = torch.autograd.grad(dense(*leaves, labels, scale=8.0).negatives.sum(), leaves)

    class Recorder:
        def __init__(self, weight):
            self.rows, self.got = [], torch.zeros(weight.shape[0] * weight.shape[1], weight.shape[2]).double()

        def buffer(self, rows, dtype):
            return None

        def accept(self, rows, gradient):
            self.rows += range(rows.start, rows.stop)
            self.got[rows] += gradient

        def result(self):
            return None

    recorders = []

    def make_sink(weight):
        recorders.append(Recorder(weight))
        return recorders[-1]

    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    chunked(*leaves, labels, scale=8.0, block_size=3, make_sink=make_sink).negatives.sum().backward()
    (sink,) = recorders
    assert leaves[1].grad is None
    assert sink.rows == list(range(14))
    torch.testing.assert_close(sink.got.view_as(w), expected[1])
    torch.testing.assert_close(leaves[0].grad, expected[0])


@pytest.mark.parametrize("kept_bytes", [0, 5 * 3 * 8 + 1, 10**6])  # nothing, the first block, all
@pytest.mark.parametrize("scale", [8.0, torch.full((5,), 8.0, dtype=torch.float64)])  # the short cut, similarities
def test_what_is_kept_changes_nothing(kept_bytes, scale):
    """Also in a second backward pass of the same graph, for which nothing is left."""
    x, w, _, _, _, labels = batch()
    x = x * 4.0  # as long as the logits that reach beyond the cosines: 8·4 < 64
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    probe = torch.linspace(-1, 2, 5, dtype=torch.float64)

    def gradients(out, **options):
        return torch.autograd.grad((out.target * probe + out.negatives * probe.flip(0)).sum(), leaves, **options)

    expected = gradients(dense(*leaves, labels, scale=scale))
    out = drive(TorchKernel(kept_bytes), Problem(*leaves, labels, scale=scale, block_size=3))
    torch.testing.assert_close(gradients(out, retain_graph=True), expected)
    torch.testing.assert_close(gradients(out), expected)


def test_memory_of_a_step_is_left_to_the_next_but_never_shared():
    WORKSPACE.clear()
    x, w, _, _, _, labels = batch()
    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]

    def run():
        return chunked(*leaves, labels, scale=8.0, block_size=3).negatives.sum()

    expected = torch.autograd.grad(run(), leaves)
    (spare,) = WORKSPACE._spare
    first, second = run(), run()  # two graphs at once: the second must not have the memory of the first
    assert not WORKSPACE._spare
    torch.testing.assert_close(torch.autograd.grad(first, leaves), expected)
    assert WORKSPACE._spare[0].data_ptr() == spare.data_ptr()
    torch.testing.assert_close(torch.autograd.grad(second, leaves), expected)
    assert WORKSPACE.take(1, torch.zeros(1)).dtype == torch.float32  # a spare of another dtype is no use
    assert len(WORKSPACE.take(100, x)) == 100
    WORKSPACE.clear()


def test_default_sink_holds_one_gradient():
    weight = torch.zeros(4, 3, dtype=torch.bfloat16)
    sink = DenseGradient(weight)
    assert sink.buffer(slice(0, 2), torch.float32) is None
    sink.accept(slice(0, 2), torch.ones(2, 3))
    own = sink.buffer(slice(2, 4), torch.bfloat16)
    own.fill_(2.0)
    sink.accept(slice(2, 4), own)
    assert sink.result().tolist() == [[1.0] * 3] * 2 + [[2.0] * 3] * 2


def test_the_slope_of_a_wide_angle_at_its_limits():
    form, at_zero = EXAMPLES["wide_angle"](), torch.tensor([1.0, 1.0 - 1e-7])
    torch.testing.assert_close(form.slope(at_zero, Coefficients()), torch.full((2,), 1.0 / 1.7**2))
