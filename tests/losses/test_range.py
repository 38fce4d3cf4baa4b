"""Embeddings at the ends of their type's range: a finite loss with a finite gradient, or an error that names the row."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import facezoo
from facezoo.losses import LOSSES, CrossBatchMemory, create_loss
from facezoo.ops import NonFiniteError
from facezoo.ops.margin import unit_vectors

C, D = 4, 8
LABELS = torch.arange(8) % C
OTHER_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "triplet": [{"normalize": False}, {"normalize": False, "squared": True}, {"normalize": False, "soft": True}],
    "contrastive": [{"normalize": False}],
    "lifted_structure": [{"normalize": False}],
    "ring": [{"radius": 1.0}],
}
LOSS_CASES = [(name, options) for name in LOSSES.list() for options in ({}, *OTHER_OPTIONS.get(name, []))]
# float16 has neither; its own ends are below.
LONG = [
    (1e19, torch.float32),
    (1e30, torch.float32),
    (3e38, torch.float32),
    (1e30, torch.bfloat16),
    (1e160, torch.float64),
]
SHORT = [(1e-19, torch.float32), (1e-30, torch.float32), (1e-30, torch.bfloat16), (1e-160, torch.float64)]


def loss_of(name: str, options: dict[str, Any]) -> nn.Module:
    needed = {
        key: {"num_classes": C, "embedding_dim": D}[key]
        for key, parameter in inspect.signature(LOSSES[name]).parameters.items()
        if parameter.default is parameter.empty
    }
    torch.manual_seed(1)
    return create_loss(name, **needed, **options)


def head_of(name: str) -> nn.Module:
    torch.manual_seed(1)
    head = facezoo.create_margin(name, embedding_dim=D, num_classes=C)
    if name == "dyn_arcface":
        head.set_class_counts(torch.full((C,), 2))
    return head


def rows(size: float, dtype: torch.dtype) -> Tensor:
    x = torch.randn(8, D, generator=torch.Generator().manual_seed(0)).clamp(-1, 1).double()
    return (x * size).to(dtype).requires_grad_()


def check(criterion: nn.Module, x: Tensor, *, may_be_refused: bool) -> None:
    state = {name: value.clone() for name, value in criterion.state_dict().items()}
    try:
        loss = criterion(x, LABELS)
    except NonFiniteError:
        assert may_be_refused
        for name, value in criterion.state_dict().items():
            assert torch.equal(value, state[name]), f"{name} moved"
        return
    loss.backward()
    assert math.isfinite(loss.item())
    assert bool(torch.isfinite(x.grad).all())
    assert all(bool(torch.isfinite(value).all()) for value in criterion.state_dict().values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in criterion.parameters() if p.grad is not None)


@pytest.mark.parametrize(("size", "dtype"), [*LONG, *SHORT, (6e4, torch.float16), (1e-3, torch.float16)])
@pytest.mark.parametrize(("name", "options"), LOSS_CASES)
def test_losses(name: str, options: dict[str, Any], size: float, dtype: torch.dtype) -> None:
    check(loss_of(name, options), rows(size, dtype), may_be_refused=size > 1e18)


@pytest.mark.parametrize(("size", "dtype"), [*LONG[:-1], *SHORT, (6e4, torch.float16), (1e-3, torch.float16)])
@pytest.mark.parametrize("name", facezoo.list_margins())
def test_margins(name: str, size: float, dtype: torch.dtype) -> None:
    check(head_of(name), rows(size, dtype), may_be_refused=size > 1e18)


@pytest.mark.parametrize("name", [name for name in facezoo.list_margins() if name != "linear"])
def test_a_direction_is_not_lost_without_a_word(name: str) -> None:
    """Cosines of rows of infinite length used to be zeros, and the loss that of untrained embeddings."""
    with pytest.raises(NonFiniteError, match="squared lengths"):
        head_of(name)(rows(1e30, torch.float32), LABELS)


@pytest.mark.parametrize("name", ["triplet", "supcon", "circle", "proxy_anchor", "n_pair", "center", "contrastive"])
def test_the_row_is_named(name: str) -> None:
    x = torch.randn(8, D)
    x[3] *= 1e25
    message = (
        r"infinity in the squared lengths of the embeddings, row 3 \(1 of 8 rows are not finite\); they are too long"
    )
    with pytest.raises(NonFiniteError, match=message):
        loss_of(name, {})(x, LABELS)


def test_sums_beyond_the_type_are_told_although_each_row_is_within() -> None:
    x = torch.full((8, D), 5e18)  # every squared length is 2e38, their sum is not a float32
    for name in ("center", "norm"):
        with pytest.raises(NonFiniteError, match="infinity in the loss, although the embeddings are finite"):
            loss_of(name, {})(x, LABELS)
    with pytest.raises(NonFiniteError, match="the loss, although the logits are finite"):
        create_loss("cross_entropy")(rows(3e38, torch.float32), LABELS)


@pytest.mark.parametrize("name", ["center", "ring"])
def test_state_in_float32_refuses_what_only_float64_holds(name: str) -> None:
    criterion = loss_of(name, {})
    check(criterion, rows(1e100, torch.float64), may_be_refused=True)
    check(criterion, rows(1e10, torch.float64), may_be_refused=False)


def test_a_memory_takes_in_nothing_that_it_cannot_hold() -> None:
    memory = CrossBatchMemory(create_loss("contrastive"), size=16, embedding_dim=D)
    check(memory, rows(1e100, torch.float64), may_be_refused=True)
    assert memory.filled.item() == 0
    check(memory, rows(1.0, torch.float64), may_be_refused=False)


def test_unit_vectors_give_nan_where_nothing_is_looked_at() -> None:
    """On a GPU a look would wait for the device: there the loss is not finite, instead of that of zeros."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e30, 1e30]])
    unit = torch.compile(lambda rows: unit_vectors(rows)[0], backend="eager")(x)
    assert unit[:2].tolist() == [[pytest.approx(0.6), pytest.approx(0.8)], [0.0, 0.0]]
    assert bool(unit[2].isnan().all())


@pytest.mark.parametrize("label", [-1, -100])
@pytest.mark.parametrize("name", LOSSES.list())
def test_a_negative_label_is_no_identity(name: str, label: int) -> None:
    criterion, labels = loss_of(name, {}), LABELS.clone()
    labels[1] = label
    with pytest.raises(ValueError, match=f"label {label} at position 1 (is negative|lies outside)"):
        criterion(rows(1.0, torch.float32), labels)
