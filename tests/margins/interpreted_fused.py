"""The fused engine's kernels on the CPU, for a process with TRITON_INTERPRET=1; ``test_fused.py`` starts one.

Not named test_*: pytest must not collect it where the kernels would be compiled for a GPU.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from facezoo.margins import NEGATIVES, Coefficients, Negatives
from facezoo.margins.engines import Memory, Problem, dense_statistics, drive, fused_statistics, fused_tiles
from facezoo.margins.engines.fused import FORMS, TritonKernel
from forms import EXAMPLES
from paper_references import CASE_IDS, CASES
from test_catalog import full_options, make_batch, make_head, reference_step, relative_error, step


def dense(*arguments, **options):
    return dense_statistics(Problem(*arguments, **options))


def fused_engine(*arguments, **options):
    return fused_statistics(Problem(*arguments, **options))


def batch(samples=21, classes=45, width=20, per_class=None, dtype=torch.float32, seed=0):
    """No size is a multiple of a tile's; the last classes have every kind of sample, sub-center and border."""
    generator = torch.Generator().manual_seed(seed)
    x = F.normalize(torch.randn(samples, width, generator=generator), dim=1)
    shape = (classes, width) if per_class is None else (classes, per_class, width)
    w = torch.randn(*shape, generator=generator) * (
        0.2 + torch.rand(classes, *[1] * len(shape[1:]), generator=generator)
    )
    labels = torch.randint(classes, (samples,), generator=generator)
    labels[-1] = classes - 1
    return x, w.to(dtype), labels


def with_kernel(kernel):
    return lambda *arguments, **options: drive(kernel, Problem(*arguments, **options))


def run(engine, x, w, labels, dtype, *, scale, offset=None, memory=None, **options):
    """Outputs and gradients, computed in ``dtype``; weight in its own dtype if that is a narrow one."""
    wide = dtype == torch.float64
    leaves = [x.to(dtype), w.to(dtype) if wide else w.clone()]
    leaves += [torch.as_tensor(t).to(dtype) for t in (scale, offset) if isinstance(t, torch.Tensor)]
    leaves = [t.detach().clone().requires_grad_() for t in leaves]
    if isinstance(scale, torch.Tensor):
        scale = leaves[2]
    if offset is not None:
        offset = leaves[-1]
    if memory is not None:
        memory = Memory(memory.features.to(dtype), memory.share.to(dtype))
    out = engine(leaves[0], leaves[1], labels, scale=scale, offset=offset, memory=memory, **options)
    out = [o for o in out if o is not None]
    probe = [torch.linspace(-1, 2, o.numel(), dtype=dtype) for o in out]
    return out, torch.autograd.grad(sum((o * p).sum() for o, p in zip(out, probe, strict=True)), leaves)


def assert_equal_to_dense(engine, x, w, labels, tolerance=1e-5, **options):
    """Largest error over the largest entry, of each output and gradient, against plain autograd in float64."""
    expected = run(dense, x, w, labels, torch.float64, **options)
    got = run(engine, x, w, labels, torch.float32, **options)
    for ours, theirs in zip((*got[0], *got[1]), (*expected[0], *expected[1]), strict=True):
        assert ours.shape == theirs.shape
        assert torch.isfinite(ours).all()
        assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("reduction", ["logsumexp", "softplus", "square"])
@pytest.mark.parametrize("form", sorted(FORMS - {"filter"}))
def test_every_form_and_reduction(form, reduction):
    """With scale and offset per sample, learned, and the total: all that a tile can be asked for. Running maximum."""
    x, w, labels = batch(samples=19, classes=37, width=12)
    generator = torch.Generator().manual_seed(1)
    assert_equal_to_dense(
        fused_engine,
        x,
        w,
        labels,
        scale=torch.rand(19, generator=generator) + 2.0,
        offset=torch.randn(19, generator=generator),
        negatives=EXAMPLES[form](reduction=reduction),
        prepare=lambda target: Coefficients(target - 0.1, target.new_tensor(0.3)),
        with_total=True,
    )


@pytest.mark.parametrize("reduction", ["logsumexp", "softplus"])
def test_filtered_negatives_take_no_part(reduction):
    x, w, labels = batch(classes=20)
    keep = x @ F.normalize(w, dim=1).T <= 0.2
    keep[torch.arange(len(x)), labels] = False
    assert (~keep).sum() > len(x)
    leaves = [t.double().requires_grad_() for t in (x, w)]
    logits = (8.0 * leaves[0] @ F.normalize(leaves[1], dim=1).T).masked_fill(~keep, -math.inf)
    expected = logits.logsumexp(1) if reduction == "logsumexp" else F.softplus(logits, threshold=50.0).sum(1)
    expected_grads = torch.autograd.grad(expected.sum(), leaves)
    own = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    got = fused_engine(*own, labels, scale=8.0, negatives=NEGATIVES["filter"](limit=0.2, reduction=reduction)).negatives
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(torch.autograd.grad(got.sum(), own), expected_grads, strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "scale", [1.0, 64.0, 72.0, 76.0, 300.0]
)  # no shift, fixed shifts on either side, running maximum
@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])  # Triton's products, torch's
def test_softmax_at_every_scale(scale, precision):
    assert_equal_to_dense(with_kernel(TritonKernel(precision)), *batch(), scale=scale, tolerance=2e-5)


@pytest.mark.parametrize(
    ("samples", "classes", "width"), [(1, 1, 1), (1, 33, 16), (16, 32, 16), (17, 31, 17), (33, 65, 48), (2, 2, 5)]
)
def test_sizes_on_and_beside_the_tiles(samples, classes, width):
    x, w, labels = batch(samples, classes, width)
    options = {"scale": 20.0, "with_total": True}
    if classes == 1:  # the other classes are none
        out, grads = run(fused_engine, x, w, labels, torch.float32, **options)
        assert out[1].tolist() == [-math.inf] * samples
        assert out[2].tolist() == [0.0] * samples
        assert all(torch.isfinite(g).all() for g in grads)
    else:
        assert_equal_to_dense(fused_engine, x, w, labels, **options)


@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
@pytest.mark.parametrize("layout", ["sub_centers", "memory", "not_normalized", "narrow_weight"])
def test_layouts_of_the_centers(layout, precision, monkeypatch):
    """In blocks, and each block's G in parts: a buffer of the smallest size there is."""
    monkeypatch.setattr(fused_tiles, "GRADIENT_BYTES", 1)
    x, w, labels = batch(
        classes=75,
        per_class=3 if layout == "sub_centers" else None,
        dtype=torch.bfloat16 if layout == "narrow_weight" else torch.float32,
    )
    memory = None
    if layout == "memory":
        generator = torch.Generator().manual_seed(2)
        memory = Memory(
            F.normalize(torch.randn(w.shape, generator=generator), dim=1), torch.rand(75, generator=generator)
        )
    assert_equal_to_dense(
        with_kernel(TritonKernel(precision)),
        x,
        w,
        labels,
        scale=16.0,
        normalize=layout != "not_normalized",
        memory=memory,
        block_size=48,
        tolerance=4e-3 if layout == "narrow_weight" else 1e-5,  # its gradient is rounded to bfloat16 in the end
    )


def test_bfloat16_products():
    """As exact as bfloat16 operands can be, and a bound that a wrong index or factor would break."""
    for per_class in (None, 2):
        assert_equal_to_dense(
            with_kernel(TritonKernel("bf16")), *batch(per_class=per_class), scale=16.0, tolerance=2e-2
        )


def test_a_zero_center():
    x, w, labels = batch()
    w[labels[3]] = 0.0
    assert_equal_to_dense(fused_engine, x, w, labels, scale=16.0)


def test_classes_that_are_elsewhere():
    """Label -1: every class here is a negative."""
    x, w, labels = batch()
    exact = [x.double().requires_grad_(), w.double().requires_grad_()]
    expected = (16.0 * exact[0] @ F.normalize(exact[1], dim=1).T).logsumexp(1)
    own = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    out = fused_engine(*own, torch.full_like(labels, -1), scale=16.0)
    assert out.target.tolist() == [0.0] * len(x)
    torch.testing.assert_close(out.negatives, expected.float())
    gradients = torch.autograd.grad(out.negatives.sum(), own)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.sum(), exact), strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_softplus_of_very_negative_logits_keeps_its_digits():
    """Σ softplus(z) at z ≈ -17 is made of numbers below the rounding of 1."""
    x, w, labels = batch()
    assert_equal_to_dense(
        fused_engine,
        x,
        w,
        labels,
        scale=3.0,
        offset=torch.full((len(x),), -17.0),
        negatives=Negatives(reduction="softplus"),
    )


def test_frozen_parts_cost_and_get_nothing():
    x, w, labels = batch()
    features = x.clone().requires_grad_()
    fused_engine(features, w, labels, scale=16.0).negatives.sum().backward()
    weight = w.clone().requires_grad_()
    fused_engine(x, weight, labels, scale=16.0).negatives.sum().backward()
    both = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    fused_engine(*both, labels, scale=16.0).negatives.sum().backward()
    assert torch.equal(features.grad, both[0].grad)
    assert torch.equal(weight.grad, both[1].grad)  # the same bits: no order of additions is left to chance


def test_sink_gets_every_row_once_and_complete(monkeypatch):
    monkeypatch.setattr(fused_tiles, "GRADIENT_BYTES", 1)
    x, w, labels = batch(classes=75, per_class=2)
    leaves = [x.double().requires_grad_(), w.double().requires_grad_()]
    expected = torch.autograd.grad(dense(*leaves, labels, scale=8.0).negatives.sum(), leaves)
    seen, rows_seen = torch.zeros(150, w.shape[-1]), []

    class Recorder:
        def buffer(self, rows, dtype):
            return None

        def accept(self, rows, gradient):
            rows_seen.extend(range(rows.start, rows.stop))
            seen[rows] += gradient

        def result(self):
            return None

    leaves = [x.clone().requires_grad_(), w.clone().requires_grad_()]
    out = fused_engine(*leaves, labels, scale=8.0, block_size=50, make_sink=lambda weight: Recorder())
    out.negatives.sum().backward()
    assert leaves[1].grad is None
    assert rows_seen == list(range(150))
    torch.testing.assert_close(seen.view_as(w), expected[1].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(leaves[0].grad, expected[0].float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "options"), CASES, ids=CASE_IDS)
def test_every_margin_is_that_of_its_paper(name, options):
    reference_batch = make_batch(name, options)
    head = make_head(name, options, reference_batch, engine="fused", dtype=torch.float32)
    loss, grads = step(head, reference_batch)
    expected, expected_grads = reference_step(name, options, reference_batch, head)
    tolerance = 1e-5 * max(1.0, full_options(name, options).get("scale", 1.0) / 64.0)
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    for key, got in grads.items():
        assert relative_error(got, expected_grads[key]) < tolerance, key


def test_float64_and_biases_are_left_to_the_chunked_kernel():
    x, w, labels = batch()
    x, w = x.double(), w.double()
    bias = torch.randn(len(w), dtype=torch.float64)
    for options in ({"scale": 16.0}, {"scale": 1.0, "bias": bias, "normalize": False}):
        ours = fused_engine(x, w, labels, **options)
        theirs = dense(x, w, labels, **options)
        torch.testing.assert_close(ours.negatives, theirs.negatives, rtol=1e-12, atol=1e-12)
