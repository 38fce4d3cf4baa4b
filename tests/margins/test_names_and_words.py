"""Names that people bring from elsewhere, closed words of a margin, and numbers that no loss can hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import facezoo
from facezoo.margins import Batch, Margin, Negatives
from facezoo.ops import NonFiniteError
from forms import EXAMPLES


@pytest.mark.parametrize(
    ("name", "here"),
    [("softmax", "linear"), ("cross_entropy", "linear"), ("a_softmax", "sphereface"), ("aam_softmax", "arcface")],
)
def test_a_margin_of_elsewhere_is_named_as_here(name: str, here: str) -> None:
    with pytest.raises(ValueError, match=f"here it is called '{here}'"):
        facezoo.create_margin(name, embedding_dim=4, num_classes=3)
    assert facezoo.create_margin(here, embedding_dim=4, num_classes=3) is not None


@pytest.mark.parametrize(
    ("name", "margin"), [("arcface", "arcface"), ("softmax", "linear"), ("a_softmax", "sphereface")]
)
def test_a_margin_asked_for_as_a_loss_is_shown_its_place(name: str, margin: str) -> None:
    with pytest.raises(ValueError, match=rf"facezoo.create_margin\('{margin}'"):
        facezoo.create_loss(name)


def test_softmax_is_a_margin_on_embeddings_and_a_loss_on_logits() -> None:
    message = r"create_margin\('linear', .*; on logits: facezoo.create_loss\('cross_entropy'\)"
    with pytest.raises(ValueError, match=message):
        facezoo.create_loss("softmax")


def test_a_loss_asked_for_as_a_margin_is_shown_its_place() -> None:
    with pytest.raises(ValueError, match=r"facezoo.create_loss\('triplet'\)"):
        facezoo.create_margin("triplet", embedding_dim=4, num_classes=3)


@pytest.mark.parametrize(
    ("form", "fields", "message"),
    [
        (
            "identity",
            {"reduction": "logsumepx"},
            "unknown reduction of the negatives 'logsumepx'; did you mean 'logsumexp'",
        ),
        ("filter", {"reduction": "square!"}, "unknown reduction of the negatives 'square!'; did you mean 'square'"),
        ("hard_affine", {"factor": float("nan")}, "factor of the negatives is a finite number"),
        ("power", {"margin": float("inf")}, "margin of the negatives is a finite number"),
    ],
)
def test_a_wrong_word_is_an_error_when_the_margin_is_declared(form: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EXAMPLES[form](**fields)


def test_an_unknown_form_is_an_error_when_the_margin_is_declared() -> None:
    class Unregistered(Negatives):
        pass

    with pytest.raises(ValueError, match="its negatives are not a registered form"):

        @facezoo.register_margin("broken")
        class Broken(Margin):
            negatives = Unregistered()
            scale: float = 1.0

            def target(self, batch: Batch) -> torch.Tensor:
                return batch.target

    assert "broken" not in facezoo.list_margins()


def test_embeddings_too_long_for_their_type_are_named() -> None:
    images, labels = torch.full((2, 4), 1e30), torch.tensor([0, 1])
    head = facezoo.create_margin("sphereface", embedding_dim=4, num_classes=3)
    for loss in (head, facezoo.create_loss("ring"), facezoo.create_loss("norm")):
        with pytest.raises(NonFiniteError, match="squared lengths of the"):
            loss(images, labels)
        assert torch.isfinite(loss(images / 1e20, labels))
