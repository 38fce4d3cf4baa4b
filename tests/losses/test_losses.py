"""Every registered loss against its paper's formula, sample by sample, and what it does where there is nothing to learn from."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import of_paper
from facezoo.losses import (
    LOSSES,
    CenterLoss,
    CrossBatchMemory,
    PairwiseLoss,
    RingLoss,
    create_loss,
    list_losses,
    register_loss,
)

C, D = 4, 5
SIZES = {"num_classes": C, "embedding_dim": D}
CASES = [
    ("contrastive", {}),
    ("contrastive", {"positive_margin": 0.2, "negative_margin": 1.3}),
    ("contrastive", {"normalize": False, "negative_margin": 3.0}),
    ("contrastive", {"mining": "multi_similarity", "negative_margin": 1.5}),
    ("contrastive", {"mining": "batch_hard"}),
    ("triplet", {}),
    ("triplet", {"mining": "semi_hard"}),
    ("triplet", {"mining": "all"}),
    ("triplet", {"mining": "batch_easy_hard", "margin": 0.5}),
    ("triplet", {"mining": "batch_hard", "soft": True, "normalize": False}),
    ("triplet", {"mining": "semi_hard", "squared": True, "margin": 0.5}),
    ("triplet", {"mining": "all", "soft": True}),
    ("n_pair", {}),
    ("n_pair", {"l2_weight": 0.0}),
    ("lifted_structure", {}),
    ("lifted_structure", {"margin": 2.0, "normalize": False}),
    ("supcon", {}),
    ("supcon", {"temperature": 0.5}),
    ("nt_xent", {}),
    ("nt_xent", {"temperature": 0.3}),
    ("multi_similarity", {}),
    ("multi_similarity", {"mining": "all", "base": 0.8, "alpha": 3.0, "beta": 20.0}),
    ("circle", {}),
    ("circle", {"margin": 0.25, "scale": 32.0}),
    ("proxy_nca", SIZES),
    ("proxy_nca", SIZES | {"denominator": "all", "scale": 2.0}),
    ("proxy_anchor", SIZES),
    ("proxy_anchor", SIZES | {"margin": 0.3, "scale": 8.0}),
    ("soft_triple", SIZES | {"centers_per_class": 3}),
    ("soft_triple", SIZES | {"centers_per_class": 1, "margin": 0.2, "gamma": 0.5}),
    ("center", SIZES),
    ("ring", {}),
    ("ring", {"radius": 3.0}),
    ("norm", {}),
    ("norm", {"target": 1.5}),
    ("cross_entropy", {}),
    ("cross_entropy", {"label_smoothing": 0.1}),
]
IDS = ["-".join([name, *(f"{k}_{v}" for k, v in options.items() if k not in SIZES)]) for name, options in CASES]
ONE_OF_EACH = list({name: (name, options) for name, options in reversed(CASES)}.values())
NEEDS_PAIRS = [*of_paper.PAIRWISE, "n_pair"]
PAIRWISE_CASES = [case for case in CASES if case[0] in of_paper.PAIRWISE]
PAIRWISE_IDS = [name for case, name in zip(CASES, IDS, strict=True) if case in PAIRWISE_CASES]


def batch(n=12, d=D, classes=C, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (n,), generator=generator)


def build(name, options, seed=0):
    torch.manual_seed(seed)
    criterion = create_loss(name, **options)
    if name == "center":
        criterion.centers.normal_()
    return criterion


def reference(name, options, criterion, x, labels, n=None):
    if name in of_paper.PAIRWISE:
        value = of_paper.PAIRWISE[name](x, labels.tolist(), len(x) if n is None else n, **options)
    else:
        value = of_paper.OTHERS[name](criterion, x, labels.tolist(), **options)
    return torch.as_tensor(value, dtype=torch.float64)


def test_every_loss_is_tested():
    assert {name for name, _ in CASES} == set(list_losses()) == {*of_paper.PAIRWISE, *of_paper.OTHERS}
    pairwise = {name for name, options in ONE_OF_EACH if isinstance(create_loss(name, **options), PairwiseLoss)}
    assert pairwise == set(of_paper.PAIRWISE)


# -- the formulas -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_loss_and_gradients_are_those_of_the_paper(name, options):
    x, labels = batch()
    criterion, exact = build(name, options), build(name, options).double()
    expecting = x.clone().requires_grad_()
    expected = reference(name, options, exact, expecting, labels)
    expected.backward()
    assert expected.item() != 0.0
    embeddings = x.float().requires_grad_()
    loss = criterion(embeddings, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert (embeddings.grad.double() - expecting.grad).norm() < 1e-5 * expecting.grad.norm()
    if name == "ring":  # its radius is a number in the reference: checked below
        return
    for (key, own), other in zip(criterion.named_parameters(), exact.parameters(), strict=True):
        assert (own.grad.double() - other.grad).norm() < 2e-5 * other.grad.norm(), key


@given(n=st.integers(1, 9), classes=st.integers(1, C), seed=st.integers(0, 2**31), case=st.sampled_from(CASES))
@settings(max_examples=60, deadline=None)
def test_any_batch(n, classes, seed, case):
    name, options = case
    x, labels = batch(n=n, classes=classes, seed=seed)
    criterion = build(name, options, seed).double()
    expected = reference(name, options, criterion, x, labels).item()
    embeddings = x.requires_grad_()
    loss = criterion(embeddings, labels)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert torch.isfinite(embeddings.grad).all()


@pytest.mark.parametrize(("name", "options"), PAIRWISE_CASES, ids=PAIRWISE_IDS)
def test_further_references(name, options):
    """The batch against itself and a memory, whose rows are no anchors and part of which does not count."""
    x, labels = batch(n=16, seed=3)
    keep = torch.tensor([True, False, True, True, False, True, True])
    wanted = torch.cat([torch.ones(9, dtype=torch.bool), keep])
    expecting = x[wanted].clone().requires_grad_()
    expected = reference(name, options, None, expecting, labels[wanted], n=9)
    expected.backward()
    embeddings, references = x[:9].clone().requires_grad_(), x[9:].clone().requires_grad_()
    loss = create_loss(name, **options)(embeddings, labels[:9], references, labels[9:], keep)
    loss.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(embeddings.grad, expecting.grad[:9])
    torch.testing.assert_close(references.grad[keep], expecting.grad[9:])
    assert (references.grad[~keep] == 0).all()


@pytest.mark.parametrize(
    ("name", "options"), [case for case in ONE_OF_EACH if case[0] not in ("circle", "ring")], ids=lambda v: str(v)[:20]
)
def test_gradcheck(name, options):
    """Not circle, whose weights are constants to the gradient by definition, nor ring, which moves its radius when called."""
    x, labels = batch(n=8)
    criterion = build(name, options).double().eval()
    parameters = dict(criterion.named_parameters())

    def call(x, *values):
        return torch.func.functional_call(criterion, dict(zip(parameters, values, strict=True)), (x, labels))

    assert torch.autograd.gradcheck(call, (x.requires_grad_(), *parameters.values()))


@pytest.mark.parametrize("mining", ["batch_hard", "semi_hard", "all", "batch_easy_hard", "distance_weighted"])
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
    if mining == "batch_easy_hard":  # a sample has to be near some other of its class, not near all
        d.fill_diagonal_(math.inf)
        assert (d.masked_fill(~same, math.inf).amin(1) < d.masked_fill(same, math.inf).amin(1)).all()
    else:
        assert d[same].max() < d[~same].min()


# -- an independent implementation where it has the same definition -----------------------------------------------------------


def test_equal_to_pytorch_metric_learning():
    """Differences in definition: its contrastive loss has d instead of ½d², its Proxy-NCA is our ``denominator="all"``, its
    SoftTriple has no regularizer of its own, its N-pair loss takes one pair per class, and its mean of SupCon leaves out zeros."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    from pytorch_metric_learning.distances import DotProductSimilarity
    from pytorch_metric_learning.miners import BatchEasyHardMiner, BatchHardMiner, MultiSimilarityMiner
    from pytorch_metric_learning.reducers import MeanReducer

    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 0, 1, 2])
    x = torch.randn(11, D)
    dot = DotProductSimilarity(normalize_embeddings=False)
    nca, anchor = losses.ProxyNCALoss(C, D, softmax_scale=3.0), losses.ProxyAnchorLoss(C, D)
    triple = losses.SoftTripleLoss(C, D, centers_per_class=3)
    own_nca = create_loss("proxy_nca", **SIZES, scale=3.0, denominator="all")
    own_nca.proxies.data.copy_(nca.proxies)
    own_anchor = create_loss("proxy_anchor", **SIZES)
    own_anchor.proxies.data.copy_(anchor.proxies)
    own_triple = create_loss("soft_triple", **SIZES, centers_per_class=3, regularizer=0.0)
    own_triple.centers.data.copy_(triple.fc.T.unflatten(0, (C, 3)))
    multi = losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)
    mined = MultiSimilarityMiner(epsilon=0.1)(x, labels)
    hardest = BatchHardMiner()(x, labels)
    easy = BatchEasyHardMiner("easy", "hard")(x, labels)
    mean = losses.TripletMarginLoss(0.2, reducer=MeanReducer())  # its own default leaves out zeros
    for own, other in [
        (create_loss("triplet", mining="all", margin=0.2)(x, labels), losses.TripletMarginLoss(0.2)(x, labels)),
        (create_loss("triplet")(x, labels), mean(x, labels, hardest)),
        (create_loss("triplet", mining="batch_easy_hard")(x, labels), mean(x, labels, easy)),
        (create_loss("n_pair", l2_weight=0.0)(x[:8], labels[:8]), losses.NPairsLoss(distance=dot)(x[:8], labels[:8])),
        (create_loss("lifted_structure")(x, labels), losses.LiftedStructureLoss(neg_margin=1, pos_margin=0)(x, labels)),
        (create_loss("supcon")(x, labels), losses.SupConLoss(temperature=0.1)(x, labels)),
        (create_loss("nt_xent")(x, labels), losses.NTXentLoss(temperature=0.07)(x, labels)),
        (create_loss("multi_similarity", mining="all")(x, labels), multi(x, labels)),
        (create_loss("multi_similarity")(x, labels), multi(x, labels, mined)),
        (create_loss("circle")(x, labels), losses.CircleLoss(m=0.4, gamma=80)(x, labels)),
        (own_nca(x, labels), nca(x, labels)),
        (own_anchor(x, labels), anchor(x, labels)),
        (own_triple(x, labels), triple(x, labels)),
    ]:
        torch.testing.assert_close(own, other, rtol=2e-5, atol=1e-6)


# -- state ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_losses_before_one_backward_pass_are_those_with_one_each(name, options):
    """Mixup has two: what the second moves (centers, a memory, the first radius), the backward pass of the first must not see."""
    x, labels = batch()
    if name == "cross_entropy":
        x = x[:, :C]
    results = []
    for together in (True, False):
        torch.manual_seed(0)
        criterion, leaf = create_loss(name, **options), x.float().requires_grad_()
        if name in of_paper.PAIRWISE:
            criterion = CrossBatchMemory(criterion, size=10, embedding_dim=D)
        losses = []
        for target in (labels, labels.flip(0)):
            losses.append(0.5 * criterion(leaf, target))
            if not together:
                losses[-1].backward()
        if together:
            sum(losses).backward()
        gradients = [parameter.grad for parameter in criterion.parameters()]
        results.append([torch.stack(losses).detach(), leaf.grad, *gradients, *criterion.state_dict().values()])
    torch.testing.assert_close(results[0], results[1])


def test_center_follows_the_paper():
    x, labels = batch()
    criterion = CenterLoss(num_classes=6, embedding_dim=D, alpha=0.5).double()
    criterion.centers.normal_(generator=torch.Generator().manual_seed(1))
    centers = criterion.centers.clone()
    criterion(x, labels)
    for j in range(6):
        members = x[labels == j]
        delta = (centers[j] - members).sum(0) / (1 + len(members))
        torch.testing.assert_close(criterion.centers[j], centers[j] - 0.5 * delta)
    assert not list(criterion.parameters())


def test_center_moves_in_training_only_and_its_centers_are_state():
    x, labels = batch()
    criterion = CenterLoss(**SIZES)
    criterion(x.float(), labels)
    assert criterion.centers.abs().sum() > 0
    other = CenterLoss(**SIZES)
    other.load_state_dict(criterion.state_dict())
    before = criterion.eval().centers.clone()
    assert torch.equal(criterion(x.float(), labels), other.eval()(x.float(), labels))
    assert torch.equal(criterion.centers, before)


def test_ring_starts_at_the_mean_length_and_learns_its_radius():
    x, labels = batch()
    lengths = x.norm(dim=1)
    criterion = RingLoss().double()
    criterion(x, labels).backward()
    assert criterion.radius.item() == pytest.approx(lengths.mean().item(), rel=1e-6)
    assert criterion.radius.grad.item() == pytest.approx(0.0, abs=1e-6)
    other = RingLoss().double()
    other.load_state_dict(criterion.state_dict())
    radius = other.radius.item()
    loss = other(2 * x, labels)  # not the first batch any more
    loss.backward()
    assert other.radius.item() == radius
    assert other.radius.grad.item() == pytest.approx(radius - 2 * lengths.mean().item(), rel=1e-6)
    untrained = RingLoss().eval()
    untrained(x.float(), labels)
    assert untrained.radius.item() == -1.0


# -- safety -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [3, 3, 3, 3], [2]])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_no_positive_or_no_negative_pair(name, options, labels):
    """A loss without pairs is zero, not NaN, and the backward pass works."""
    torch.manual_seed(0)
    x = torch.randn(len(labels), D, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        loss = build(name, options)(x, torch.tensor(labels))
        loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    if name in ("triplet", "circle", "lifted_structure") or (name in NEEDS_PAIRS and len(labels) == 1):
        assert loss.item() == 0.0
        assert (x.grad == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), [*CASES, ("triplet", {"mining": "distance_weighted"})])
def test_finite_for_identical_zero_opposite_and_long_embeddings(name, options, dtype):
    x = torch.ones(10, D)
    x[6:8] = 0.0
    x[8] = -1.0
    x[9] = 30000.0 if dtype == torch.float16 else 1e6
    x = x.to(dtype).requires_grad_()
    criterion = build(name, options)
    with torch.no_grad():
        for parameter in criterion.parameters():
            parameter.view(-1)[:D] = 1.0  # the first proxy lies on the samples
    loss = criterion(x, torch.tensor([0, 0, 1, 1, 2, 2, 3, 0, 1, 2]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in criterion.parameters())


def test_centers_of_a_class_that_have_met():
    criterion = create_loss("soft_triple", **SIZES, centers_per_class=3)
    nn.init.ones_(criterion.centers)
    criterion(torch.randn(6, D), torch.arange(6) % C).backward()
    assert torch.isfinite(criterion.centers.grad).all()


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_float32_inside_autocast(name, options):
    x, labels = batch()
    x = x.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = build(name, options)(x, labels)
    assert torch.equal(inside, build(name, options)(x, labels))


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_bad_batches(name, options):
    criterion = create_loss(name, **options)
    with pytest.raises(ValueError, match="empty"):
        criterion(torch.randn(0, D), torch.arange(0))
    with pytest.raises(TypeError, match="mixup"):
        criterion(torch.randn(3, D), torch.rand(3, 4))
    with pytest.raises(ValueError, match="expected 3 labels"):
        criterion(torch.randn(3, D), torch.arange(2))
    with pytest.raises(ValueError, match=r"\(N, [D5]\)"):
        criterion(torch.randn(3), torch.arange(3))
    with pytest.raises(TypeError, match="floating-point"):
        criterion(torch.ones(3, D, dtype=torch.int64), torch.arange(3))
    what = "logits" if name == "cross_entropy" else "embeddings"
    for value, kind in ((math.nan, "NaN"), (math.inf, "infinity")):
        bad = torch.randn(4, D)
        bad[2, 1] = value
        with pytest.raises(ValueError, match=rf"{kind} in {what}, row 2 \(1 of 4 rows"):
            criterion(bad, torch.arange(4))
    if "num_classes" in options or name == "cross_entropy":
        with pytest.raises(ValueError, match=r"label 9 at position 2 lies outside \[0,"):
            criterion(torch.randn(3, D), torch.tensor([0, 1, 9]))
    if "embedding_dim" in options:
        with pytest.raises(ValueError, match=rf"\(N, {D}\), got \(3, {D + 1}\)"):
            criterion(torch.randn(3, D + 1), torch.arange(3))


def test_bad_references():
    criterion, x, labels = create_loss("contrastive"), torch.randn(3, D), torch.arange(3)
    with pytest.raises(ValueError, match="references need their labels"):
        criterion(x, labels, x)
    with pytest.raises(ValueError, match=rf"references of shape \(N, {D}\), got \(3, 2\)"):
        criterion(x, labels, torch.randn(3, 2), labels)
    with pytest.raises(ValueError, match="NaN in references, row 0"):
        criterion(x, labels, torch.full((1, D), math.nan), labels[:1])
    assert torch.equal(criterion(x, labels, x[:0], labels[:0]), criterion(x, labels))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("triplet", {"margin": -1.0}, "margin"),
        ("triplet", {"mining": "hard"}, "batch_hard"),
        ("triplet", {"mining": "multi_similarity"}, "one of 'all', 'batch_hard'"),
        ("triplet", {"mining": "distance_weighted", "normalize": False}, "normalize=True"),
        ("contrastive", {"mining": "distance_weighted", "normalize": False}, "normalize=True"),
        ("contrastive", {"negative_margin": math.inf}, "negative_margin"),
        ("multi_similarity", {"mining": "distance_weighted"}, "one of"),
        ("multi_similarity", {"base": 2.0}, "cosine"),
        ("circle", {"margin": 1.0}, r"\[0, 1\)"),
        ("supcon", {"temperature": 0.0}, "temperature is a finite number above 0"),
        ("nt_xent", {"temperature": -1.0}, "above 0"),
        ("n_pair", {"l2_weight": -1.0}, "l2_weight"),
        ("lifted_structure", {"margin": math.nan}, "margin"),
        ("center", {"num_classes": 0, "embedding_dim": 5}, "at least 1"),
        ("center", {"num_classes": 3, "embedding_dim": 5, "alpha": 2.0}, "alpha"),
        ("proxy_nca", {"num_classes": 1, "embedding_dim": 5}, "at least 2 classes"),
        ("proxy_nca", {"num_classes": 3, "embedding_dim": 5, "denominator": "negative"}, "did you mean 'negatives'"),
        ("soft_triple", {"num_classes": 3, "embedding_dim": 5, "centers_per_class": 0}, "centers_per_class"),
        ("ring", {"radius": 0.0}, "radius"),
        ("norm", {"target": -1.0}, "target"),
        ("cross_entropy", {"label_smoothing": 1.5}, "label_smoothing"),
        ("tripplet", {}, "did you mean 'triplet'"),
    ],
)
def test_options_out_of_range(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_loss(name, **options)


def test_unknown_and_missing_options():
    with pytest.raises(TypeError, match=r"did you mean 'margin'.*It accepts margin, mining, soft, squared, normalize"):
        create_loss("triplet", margn=0.2)
    with pytest.raises(TypeError, match="needs num_classes, embedding_dim"):
        create_loss("center")


def test_registry():
    assert list_losses("c*") == ["center", "circle", "contrastive", "cross_entropy"]
    assert "FaceNet" in LOSSES.describe("triplet")
    for name in list_losses():
        assert LOSSES.describe(name).startswith(("``", "Softmax")), "the first line of a loss is its formula"

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


@pytest.mark.parametrize(("name", "options"), ONE_OF_EACH)
def test_the_options_are_printed(name, options):
    text = repr(create_loss(name, **options))
    assert all(f"{key}={value!r}" in text for key, value in options.items())
