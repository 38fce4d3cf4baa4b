from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import TensorDataset

from facezoo.data import PairList
from facezoo.evaluation import (
    NO_MATCH,
    PairEvaluation,
    classification_accuracy,
    classify_images,
    embed_images,
    evaluate_pairs,
    gallery_threshold,
    identify,
    kfold_accuracy,
    make_folds,
    pair_scores,
    verification_metrics,
    wilson_interval,
)

# -------------------------------------------------------------------------------------------------------------- k-fold


def _kfold_oracle(scores, labels, folds):
    """Every candidate threshold tried; the ranges of accuracies that best thresholds of the other folds can give on each fold."""
    low, high = [], []
    for fold in sorted(set(folds)):
        others = [(s, y) for s, y, f in zip(scores, labels, folds, strict=True) if f != fold]
        own = [(s, y) for s, y, f in zip(scores, labels, folds, strict=True) if f == fold]
        values = sorted({s for s, _ in others})
        candidates = [
            values[0],
            *[(a + b) / 2 for a, b in itertools.pairwise(values)],
            math.nextafter(values[-1], 9),
        ]
        right = [sum((s >= t) == y for s, y in others) for t in candidates]
        best = [t for t, r in zip(candidates, right, strict=True) if r == max(right)]
        accuracies = [sum((s >= t) == y for s, y in own) / len(own) for t in best]
        low.append(min(accuracies))
        high.append(max(accuracies))
    return low, high


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_kfold_equals_trying_every_threshold(data):
    folds = [fold for fold in range(3) for _ in range(6)]
    labels = [bool(index % 2) for index in range(18)]
    scores = [data.draw(st.integers(0, 12)) + 4.0 * label for label in labels]
    result = kfold_accuracy(scores, labels, folds)
    low, high = _kfold_oracle(scores, labels, folds)
    assert all(a <= x <= b for a, x, b in zip(low, result.per_fold, high, strict=True))
    assert result.mean == pytest.approx(np.mean(result.per_fold))
    assert result.std_error == pytest.approx(np.std(result.per_fold, ddof=1) / math.sqrt(3))


def test_kfold_threshold_comes_from_the_other_folds():
    # Fold 0 alone would be perfect at 0.5; the others say 0.85, where both genuine pairs of fold 0 are lost.
    scores = [0.8, 0.8, 0.2, 0.2, 0.9, 0.8, 0.9, 0.8]
    labels = [1, 1, 0, 0, 1, 0, 1, 0]
    result = kfold_accuracy(scores, labels, [7, 7, 7, 7, 3, 3, 5, 5])
    assert result.folds == (3, 5, 7)
    assert result.per_fold[2] == 0.5
    assert result.thresholds[2] == pytest.approx(0.85)


def test_kfold_takes_tensors_and_prints():
    labels = torch.arange(40) % 2 == 0
    scores = labels.float() + 0.8 * torch.randn(40, generator=torch.Generator().manual_seed(0))
    result = kfold_accuracy(scores, labels, torch.arange(40) // 10)
    assert json.loads(json.dumps(result.to_dict()))["per_fold"] == list(result.per_fold)
    assert "4 folds" in str(result)
    assert "±" in str(result)
    perfect = kfold_accuracy(labels.float(), labels, torch.arange(40) // 10)
    assert (perfect.mean, perfect.std_error) == (1.0, 0.0)
    assert str(perfect).startswith("100.00 % ± 0 %")


@pytest.mark.parametrize(
    ("labels", "folds", "error", "message"),
    [
        ([1, 1, 0, 0], [0, 0, 1, 1], ValueError, "fold 0 holds 2 genuine pairs only.*make_folds"),
        ([1, 0, 0, 0], [0, 0, 1, 1], ValueError, "fold 1 holds 2 impostor pairs only"),
        ([1, 0, 1, 0], [4, 4, 4, 4], ValueError, r"two folds; all pairs are in fold \[4\]"),
        ([1, 0, 1, 0], [0, 0, 1], ValueError, "one entry per pair"),
        ([1, 0, 1, 0], [0.0, 0.0, 1.0, 1.0], TypeError, "integers"),
        ([1, 0, 1], [0, 0, 1], ValueError, "4 scores, 3 labels"),
    ],
)
def test_kfold_errors(labels, folds, error, message):
    with pytest.raises(error, match=message):
        kfold_accuracy([0.1, 0.2, 0.3, 0.4], labels, folds)


def test_make_folds_share_both_kinds():
    labels = torch.arange(103) < 40  # genuine first: contiguous folds would have one class
    folds = make_folds(labels, 10, seed=1)
    assert torch.equal(folds, make_folds(labels, 10, seed=1))
    assert not torch.equal(folds, make_folds(labels, 10, seed=2))
    assert torch.bincount(folds[labels]).tolist() == [4] * 10
    assert sorted(torch.bincount(folds[~labels]).tolist()) == [6] * 7 + [7] * 3
    assert kfold_accuracy(labels.float(), labels, folds).mean == 1
    with pytest.raises(ValueError, match="between 2 and 2"):
        make_folds([1, 1, 0, 0, 0], 3)


# --------------------------------------------------------------------------------------------------------------- pairs


def _mean_color(x):
    return torch.cat([x.mean(dim=(2, 3)), x[..., : x.shape[-1] // 2].mean(dim=(2, 3))], dim=1)


@pytest.fixture
def pairs(tmp_path):
    """Eight images of four colors (persons); pairs within and across, two folds."""
    colors = [(220, 30, 30), (30, 220, 30), (30, 30, 220), (200, 200, 30)]
    paths = []
    for index in range(8):
        image = Image.new("RGB", (112, 112), colors[index // 2])
        image.paste((10 * index, 90, 90), (0, 0, 20 + 10 * (index % 2), 112))
        paths.append(tmp_path / f"{index}.png")
        image.save(paths[-1])
    left = torch.tensor([0, 0, 2, 1, 4, 4, 6, 5])
    right = torch.tensor([1, 2, 3, 6, 5, 7, 7, 0])
    return PairList(
        paths=tuple(paths),
        left=left,
        right=right,
        labels=left // 2 == right // 2,
        folds=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
    )


def test_evaluate_pairs_is_embedding_scoring_and_figures(pairs):
    calls = []

    def embed(x):
        calls.append(len(x))
        return _mean_color(x)

    result = evaluate_pairs(embed, pairs, batch_size=3, flip="concat", fars=(0.25,), bootstrap=20, seed=4)
    assert sum(calls) == 2 * len(pairs.paths)  # every image once, and once mirrored
    embeddings = embed_images(_mean_color, list(pairs.paths), flip="concat")
    want = torch.nn.functional.cosine_similarity(embeddings[pairs.left], embeddings[pairs.right])
    torch.testing.assert_close(result.scores, want)
    assert result.flip == "concat"
    assert result.metrics == verification_metrics(result.scores, pairs.labels, fars=(0.25,), bootstrap=20, seed=4)
    assert result.kfold == kfold_accuracy(result.scores, pairs.labels, pairs.folds)
    assert "2-fold accuracy" in str(result)
    text = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert text["pairs"] == 8
    assert text["kfold"]["folds"] == [0, 1]


def test_evaluate_pairs_without_labels_only_scores(pairs):
    test_list = PairList(paths=pairs.paths, left=pairs.left, right=pairs.right, labels=None, folds=None)
    result = evaluate_pairs(_mean_color, test_list)
    assert result.scores.shape == (8,)
    assert result.scores.dtype == torch.float32
    assert (result.labels, result.metrics, result.kfold) == (None, None, None)
    assert "without labels" in str(result)
    unfolded = PairList(paths=pairs.paths, left=pairs.left, right=pairs.right, labels=pairs.labels, folds=None)
    assert evaluate_pairs(_mean_color, unfolded, bootstrap=0).kfold is None


def test_evaluate_pairs_refuses_an_empty_list(pairs):
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="pair list is empty"):
        evaluate_pairs(_mean_color, PairList(paths=pairs.paths, left=none, right=none, labels=None, folds=None))


def test_pair_scores_over_several_blocks():
    rng = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(torch.randn(50, 6, generator=rng), dim=1)
    left, right = torch.randint(50, (2, 70_000), generator=rng)
    scores = pair_scores(embeddings, left, right)
    torch.testing.assert_close(scores, (embeddings @ embeddings.T)[left, right].clamp(-1, 1))
    assert scores.max() <= 1


# ------------------------------------------------------------------------------------------------------ classification


class _Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(2)))

    def logits(self, embeddings):
        assert not self.training
        return torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(self.weight).T


class _Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def embed(self, x):
        return x.flatten(1)

    def forward(self, x):
        return self.linear(x.flatten(1))


@pytest.fixture
def labeled():
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(50, 1, 2, 2, generator=generator), torch.randint(6, (50,), generator=generator))


def test_classification_by_logits_and_by_head(labeled):
    torch.manual_seed(0)
    network, head = _Network(), _Head()
    images, labels = labeled.tensors
    for kwargs, logits in (
        ({}, network(images)),
        ({"head": head}, images.flatten(1) @ nn.functional.normalize(head.weight).T),
    ):
        result = classification_accuracy(network, labeled, batch_size=16, **kwargs)
        predicted = logits.argmax(1)
        assert math.isclose(result.accuracy, (predicted == labels).double().mean().item())
        top5 = (logits.argsort(1, descending=True)[:, :5] == labels[:, None]).any(1).double().mean().item()
        assert math.isclose(result.top5, top5)
        assert (result.num_images, result.num_classes) == (50, 6)
        assert result.accuracy_interval == wilson_interval(round(result.accuracy * 50), 50)
        assert torch.equal(classify_images(network, labeled, batch_size=16, **kwargs), predicted)
        assert network.training
        assert head.training
    assert "6 classes" in str(result)
    assert json.loads(json.dumps(result.to_dict()))["num_images"] == 50


@pytest.mark.parametrize("kind", [np.int64, np.uint8, torch.tensor])
def test_labels_are_whole_numbers_of_any_kind(labeled, kind):
    network = _Network()
    items = [(image, kind(int(label))) for image, label in zip(*labeled.tensors, strict=True)]
    assert classification_accuracy(network, items) == classification_accuracy(network, labeled)
    for label in (1.0, np.float32(1), "1"):
        with pytest.raises(ValueError, match="each label a whole number"):
            classification_accuracy(network, [(image, label) for image, _ in items])


def test_wilson_interval_known_values():
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson_interval(0, 10)[0] == 0
    assert wilson_interval(10, 10)[1] == 1
    assert wilson_interval(10, 10)[0] < 0.75


def test_classification_errors(labeled):
    network = _Network()
    images, _ = labeled.tensors
    with pytest.raises(ValueError, match=r"label 6 is outside 0\.\.5"):
        classification_accuracy(network, TensorDataset(images, torch.full((50,), 6)))
    with pytest.raises(ValueError, match=r"label -1 is outside 0\.\.5"):
        classification_accuracy(network, TensorDataset(images, torch.full((50,), -1)))
    assert network.training
    with pytest.raises(ValueError, match="no labels"):
        classification_accuracy(network, images)
    with pytest.raises(TypeError, match="logits"):
        classification_accuracy(network, labeled, head=nn.Identity())
    with pytest.raises(TypeError, match=r"must give logits \(16, C\)"):
        classification_accuracy(nn.Identity(), labeled)
    with pytest.raises(ValueError, match="confidence"):
        classification_accuracy(network, labeled, confidence=95)
    network.linear.bias.data.fill_(math.nan)
    with pytest.raises(RuntimeError, match="NaN"):
        classification_accuracy(network, labeled)


# ------------------------------------------------------------------------------------------------------------- gallery


def test_identify_names_the_nearest_or_nobody():
    gallery = torch.eye(3)
    probes = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.6, 0.8], [0.577, 0.577, 0.578]])
    names = ["n000001", "n000002", "n000003"]
    assert identify(probes, gallery, names) == ("n000001", "n000003", "n000003")
    assert identify(probes, gallery, names, threshold=0.7) == ("n000001", "n000003", NO_MATCH)
    assert identify(probes[:1], gallery, names, threshold=0.95, no_match="?") == ("?",)
    with pytest.raises(ValueError, match="3 rows but 2 identities"):
        identify(probes, gallery, names[:2])
    with pytest.raises(ValueError, match=r"\(P, D\)"):
        identify(probes, torch.eye(4), names)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["a", "b", NO_MATCH])), min_size=1, max_size=12))
def test_gallery_threshold_is_the_best_of_all(items):
    gallery = torch.tensor([[1.0, 0.0]])
    probes = torch.tensor([[level / 4, 0.0] for level, _ in items])
    truth = [name for _, name in items]
    threshold, accuracy = gallery_threshold(probes, gallery, ["a"], truth)

    def right(t):
        return sum(x == y for x, y in zip(identify(probes, gallery, ["a"], threshold=t), truth, strict=True)) / len(
            truth
        )

    assert right(threshold) == accuracy
    assert accuracy == max(right(t) for t in (-0.1, 0.1, 0.3, 0.6, 0.8, 1.1))


def test_pair_evaluation_compares_by_identity():
    one = PairEvaluation(torch.zeros(2), None, None, None)
    assert one in [one]
    assert one != PairEvaluation(
        torch.zeros(2), None, None, None
    )  # a generated __eq__ would ask for the truth of a tensor
