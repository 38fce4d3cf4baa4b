"""The metric losses against their formulas, sample by sample, and what they do where there is nothing to learn from."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facezoo.losses import (
    LOSSES,
    CenterLoss,
    JointLoss,
    TripletLoss,
    create_loss,
    list_losses,
    register_loss,
)
from facezoo.margins import create_margin

METRIC = [
    ("contrastive", {}),
    ("contrastive", {"positive_margin": 0.2, "negative_margin": 1.3}),
    ("contrastive", {"normalise": False, "negative_margin": 3.0}),
    ("triplet", {}),
    ("triplet", {"mining": "semi_hard"}),
    ("triplet", {"mining": "all"}),
    ("triplet", {"mining": "batch_hard", "soft": True, "normalise": False}),
    ("triplet", {"mining": "semi_hard", "squared": True, "margin": 0.5}),
    ("triplet", {"mining": "all", "soft": True}),
]
METRIC_IDS = [f"{name}-{'-'.join(f'{k}_{v}' for k, v in options.items())}" for name, options in METRIC]


def batch(n=12, d=5, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def distance(a, b, normalise, squared=False):
    if normalise:
        a, b = a / a.norm(), b / b.norm()
    d = (a - b).square().sum()
    return d if squared else d.sqrt()


def contrastive_of_paper(x, labels, positive_margin=0.0, negative_margin=1.0, normalise=True):
    pull, push = [], []
    for i in range(len(x)):
        for j in range(i):
            d = distance(x[i], x[j], normalise)
            if labels[i] == labels[j]:
                pull.append(0.5 * max(d - positive_margin, torch.zeros(())) ** 2)
            else:
                push.append(0.5 * max(negative_margin - d, torch.zeros(())) ** 2)
    mean = [sum(t for t in terms if t > 0) / max(1, sum(1 for t in terms if t > 0)) for terms in (pull, push)]
    return mean[0] + mean[1]


def triplet_of_paper(x, labels, margin=0.2, mining="batch_hard", soft=False, squared=False, normalise=True):
    n, y = len(x), labels.tolist()
    d = [[distance(x[i], x[j], normalise, squared) if i != j else None for j in range(n)] for i in range(n)]

    def term(ap, an):
        return torch.log1p(torch.exp(ap - an)) if soft else torch.clamp(ap - an + margin, min=0)

    terms = []
    for a in range(n):
        positives = [d[a][j] for j in range(n) if j != a and y[j] == y[a]]
        negatives = [d[a][j] for j in range(n) if y[j] != y[a]]
        if not positives or not negatives:
            continue
        if mining == "batch_hard":
            terms.append(term(max(positives), min(negatives)))
        elif mining == "semi_hard":
            for p in positives:
                farther = [q for q in negatives if q > p]
                terms.append(term(p, min(farther) if farther else max(negatives)))
        else:
            terms += [t for p in positives for q in negatives if (t := term(p, q)) > 0]
    return sum(terms) / max(1, len(terms))


def of_paper(name, x, labels, options):
    return {"contrastive": contrastive_of_paper, "triplet": triplet_of_paper}[name](x, labels, **options)


# -- pair-wise losses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("name", "options"), METRIC, ids=METRIC_IDS)
def test_loss_and_gradient_are_those_of_the_paper(name, options, seed):
    x, labels = batch(seed=seed)
    reference = x.clone().requires_grad_()
    expected = of_paper(name, reference, labels, options)
    expected.backward()
    assert expected.item() > 0
    embeddings = x.float().requires_grad_()
    loss = create_loss(name, **options)(embeddings, labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (embeddings.grad.double() - reference.grad).norm() < 1e-5 * reference.grad.norm()


@given(n=st.integers(2, 9), classes=st.integers(1, 9), seed=st.integers(0, 2**31), case=st.sampled_from(METRIC))
@settings(max_examples=40, deadline=None)
def test_any_batch(n, classes, seed, case):
    name, options = case
    x, labels = batch(n=n, d=3, classes=classes, seed=seed)
    expected = of_paper(name, x, labels, options)
    got = create_loss(name, **options)(x, labels)
    assert got.item() == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("name", "options"), METRIC, ids=METRIC_IDS)
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [7, 7, 7, 7], [5]])
def test_no_positive_or_no_negative_pair(name, options, labels):
    """A loss without pairs is zero, not NaN, and the backward pass works."""
    x = torch.randn(len(labels), 5, requires_grad=True)
    loss = create_loss(name, **options)(x, torch.tensor(labels))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    if name == "triplet":
        assert loss.item() == 0.0
        assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), [*METRIC, ("center", {})], ids=[*METRIC_IDS, "center"])
def test_finite_for_identical_and_zero_embeddings(name, options, dtype):
    x = torch.ones(8, 5)
    x[6:] = 0.0
    x = x.to(dtype).requires_grad_()
    if name == "center":
        options = {"num_classes": 4, "embedding_dim": 5}
    loss = create_loss(name, **options)(x, torch.tensor([0, 0, 1, 1, 2, 2, 3, 0]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("name", "options"), METRIC, ids=METRIC_IDS)
def test_float32_inside_autocast(name, options):
    x, labels = batch()
    x = x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = create_loss(name, **options)(x, labels)
    assert torch.equal(inside, create_loss(name, **options)(x, labels))


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard", "all"])
def test_triplet_gradcheck(mining):
    x, labels = batch(n=8)
    assert torch.autograd.gradcheck(TripletLoss(mining=mining), (x.requires_grad_(), labels))


def test_batch_all_equals_pytorch_metric_learning():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels = batch(n=20)
    x = x.float()
    torch.testing.assert_close(
        create_loss("triplet", mining="all", margin=0.2)(x, labels), losses.TripletMarginLoss(0.2)(x, labels)
    )


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard", "all"])
def test_triplet_separates_classes(mining):
    torch.manual_seed(0)
    x, labels = nn.Parameter(torch.randn(16, 4)), torch.arange(16) % 4
    criterion = create_loss("triplet", mining=mining, margin=0.3)
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        criterion(x, labels).backward()
        optimizer.step()
    d = torch.cdist(F.normalize(x), F.normalize(x)).detach()
    same = labels[:, None] == labels
    assert d[same].max() < d[~same].min()


# -- centre loss ------------------------------------------------------------------------------------------------------------------


def test_center_follows_the_paper():
    x, labels = batch()
    criterion = CenterLoss(num_classes=6, embedding_dim=5, alpha=0.5).double()
    criterion.centres.normal_(generator=torch.Generator().manual_seed(1))
    centres = criterion.centres.clone()
    embeddings = x.clone().requires_grad_()
    loss = criterion(embeddings, labels)
    loss.backward()
    assert loss.item() == pytest.approx(
        sum(0.5 * float((x[i] - centres[y]).square().sum()) for i, y in enumerate(labels)) / 12
    )
    torch.testing.assert_close(embeddings.grad, (x - centres[labels]) / 12)
    for j in range(6):
        members = x[labels == j]
        delta = (centres[j] - members).sum(0) / (1 + len(members))
        torch.testing.assert_close(criterion.centres[j], centres[j] - 0.5 * delta)
    assert not list(criterion.parameters())


def test_center_moves_in_training_only_and_its_centres_are_state():
    x, labels = batch()
    criterion = CenterLoss(num_classes=4, embedding_dim=5)
    criterion(x.float(), labels)
    assert criterion.centres.abs().sum() > 0
    other = CenterLoss(num_classes=4, embedding_dim=5)
    other.load_state_dict(criterion.state_dict())
    before = criterion.eval().centres.clone()
    assert torch.equal(criterion(x.float(), labels), copy.deepcopy(other).eval()(x.float(), labels))
    assert torch.equal(criterion.centres, before)


# -- cross-entropy ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy(label_smoothing):
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    log_p = logits.double().log_softmax(1)
    expected = -(1 - label_smoothing) * log_p[torch.arange(6), labels].mean() - label_smoothing * log_p.mean()
    criterion = create_loss("cross_entropy", label_smoothing=label_smoothing)
    assert criterion(logits, labels).item() == pytest.approx(expected.item(), rel=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert criterion(logits.bfloat16(), labels).dtype == torch.float32


# -- joint ------------------------------------------------------------------------------------------------------------------------


def test_joint_loss():
    torch.manual_seed(0)
    head = create_margin("linear", embedding_dim=5, num_classes=4)
    center = create_loss("center", num_classes=4, embedding_dim=5).eval()
    triplet = create_loss("triplet")
    joint = JointLoss([head, center, triplet], weights=[1.0, 0.01, 0.0], names=["softmax", "center", "triplet"])
    x, labels = batch()
    x = x.float().requires_grad_()
    loss = joint(x, labels)
    loss.backward()
    softmax, pull = head(x, labels), center(x, labels)
    torch.testing.assert_close(loss, softmax + 0.01 * pull)
    torch.testing.assert_close(x.grad, torch.autograd.grad(softmax + 0.01 * pull, x)[0])
    assert head.weight.grad is not None
    assert list(joint.last) == ["softmax", "center", "triplet"]
    torch.testing.assert_close(joint.last["center"], pull.detach())
    assert not any(value.requires_grad for value in joint.last.values())
    assert {"parts.softmax.weight", "parts.center.centres"} <= set(joint.state_dict())
    joint.weights["center"] = 0.5
    torch.testing.assert_close(joint(x, labels), softmax + 0.5 * pull)


def test_joint_loss_names_parts_itself():
    joint = JointLoss([create_margin("arcface", embedding_dim=5, num_classes=4), TripletLoss()], weights=[1, 1])
    assert list(joint.weights) == ["arcface", "TripletLoss"]
    assert JointLoss([TripletLoss()], weights=[0.0])(torch.randn(4, 3), torch.tensor([0, 0, 1, 1])).item() == 0.0


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


# -- errors and registry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["center", "contrastive", "triplet", "cross_entropy"])
def test_bad_batches(name):
    options = {"num_classes": 4, "embedding_dim": 5} if name == "center" else {}
    criterion = create_loss(name, **options)
    with pytest.raises(ValueError, match="empty"):
        criterion(torch.randn(0, 5), torch.arange(0))
    with pytest.raises(TypeError, match="mixup"):
        criterion(torch.randn(3, 5), torch.rand(3, 4))
    with pytest.raises(ValueError, match="expected 3 labels"):
        criterion(torch.randn(3, 5), torch.arange(2))
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        criterion(torch.randn(3), torch.arange(3))
    with pytest.raises(TypeError, match="floating-point"):
        criterion(torch.ones(3, 5, dtype=torch.int64), torch.arange(3))
    if name in ("center", "cross_entropy"):
        with pytest.raises(ValueError, match=r"label 9 at position 2 lies outside \[0,"):
            criterion(torch.randn(3, 5), torch.tensor([0, 1, 9]))
    if name == "center":
        with pytest.raises(ValueError, match="width 5, got 6"):
            criterion(torch.randn(3, 6), torch.arange(3))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("triplet", {"margin": -1.0}, "margin"),
        ("triplet", {"mining": "hard"}, "batch_hard"),
        ("contrastive", {"negative_margin": math.inf}, "negative_margin"),
        ("center", {"num_classes": 0, "embedding_dim": 5}, "at least 1"),
        ("center", {"num_classes": 3, "embedding_dim": 5, "alpha": 2.0}, "alpha"),
        ("cross_entropy", {"label_smoothing": 1.5}, "label_smoothing"),
        ("tripplet", {}, "did you mean 'triplet'"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_loss(name, **options)


def test_unknown_and_missing_options():
    with pytest.raises(TypeError, match=r"did you mean 'margin'.*It accepts margin, mining, soft, squared, normalise"):
        create_loss("triplet", margn=0.2)
    with pytest.raises(TypeError, match="needs num_classes, embedding_dim"):
        create_loss("center")


def test_registry():
    assert list_losses() == ["center", "contrastive", "cross_entropy", "triplet"]
    assert list_losses("c*") == ["center", "contrastive", "cross_entropy"]
    assert "FaceNet" in LOSSES.describe("triplet")

    @register_loss("constant")
    class Constant(nn.Module):
        def __init__(self, *, value: float = 1.0) -> None:
            super().__init__()
            self.value = value

        def forward(self, embeddings, labels):
            return embeddings.new_tensor(self.value)

    try:
        assert create_loss("constant", value=2.0)(torch.randn(2, 2), torch.arange(2)).item() == 2.0
    finally:
        LOSSES.unregister("constant")
