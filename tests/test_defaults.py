"""What the caller has set, or brings: default types and devices, inference mode, NumPy's numbers, words where numbers belong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import facezoo
from facezoo.evaluation import embed_images
from facezoo.losses import CrossBatchMemory, WeightSchedule, create_loss
from facezoo.training import TrainConfig

SMALL: dict[str, Any] = {"embedding_dim": 4, "img_size": 32}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_another_default_type(dtype: torch.dtype) -> None:
    """Everything that is made has it, as in torch; images in float32 are taken all the same, and embeddings come in float32."""
    ordinary = facezoo.create_model("mobilefacenet", **SMALL)
    with default_dtype(dtype):
        network = facezoo.create_model("mobilefacenet", **SMALL, num_classes=3)
        network.reset_classifier(2)
        head = facezoo.create_margin("arcface", embedding_dim=4, num_classes=3)
        own = embed_images(ordinary, images())
        other = embed_images(network, images())
        loss = head(other.clone().requires_grad_(), torch.arange(3))
    kinds = {value.dtype for value in (*network.parameters(), *head.parameters())}
    assert kinds == {dtype}
    assert own.dtype == other.dtype == loss.dtype == torch.float32
    assert torch.equal(own, embed_images(ordinary, images()))
    assert bool(torch.isfinite(other).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_another_type_take_images_from_files(dtype: torch.dtype) -> None:
    network = facezoo.create_model("mobilefacenet", **SMALL)
    expected = embed_images(network, images())
    got = embed_images(network.to(dtype), images())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 if dtype == torch.float64 else 0.1)


def test_another_default_device() -> None:
    ordinary = facezoo.create_model("mobilefacenet", **SMALL, num_classes=3)
    expected = embed_images(ordinary, images())
    with default_device("meta"):
        empty = facezoo.create_model("mobilefacenet", **SMALL, num_classes=3)
        empty.reset_classifier(2)
        head = facezoo.create_margin("arcface", embedding_dim=4, num_classes=3)
        got = embed_images(ordinary, images())
        ordinary.reset_classifier(2)
    assert all(value.is_meta for value in (*empty.parameters(), *head.parameters()))
    assert torch.equal(got, expected)
    assert {value.device.type for value in ordinary.state_dict().values()} == {"cpu"}


def test_what_is_made_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        network = facezoo.create_model("mobilefacenet", **SMALL, num_classes=3)
        network.reset_classifier(2)
        head = facezoo.create_margin("arcface", embedding_dim=4, num_classes=3)
        embeddings = embed_images(network, images())
    head(network.embed(images()), torch.arange(3)).backward()
    network(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in (*network.parameters(), *head.parameters()))
    assert bool(torch.isfinite(embeddings).all())


N, F = np.int64, np.float32
NUMPY: dict[str, Callable[[], Any]] = {
    "network": lambda: facezoo.create_model(
        "mobilefacenet", embedding_dim=N(4), img_size=(N(32), N(32)), num_classes=N(2) + 1, in_chans=N(1)
    ),
    "features": lambda: facezoo.create_model("mobilefacenet", features_only=True, out_indices=(N(0), N(2))),
    "classifier": lambda: facezoo.create_model("mobilefacenet", **SMALL, num_classes=2).reset_classifier(N(7)),
    "batch": lambda: embed_images(lambda batch: batch.flatten(1), images(), batch_size=N(2)),  # type: ignore[arg-type]
    "margin": lambda: facezoo.create_margin(
        "arcface", embedding_dim=N(4), num_classes=N(3), scale=F(30), margin=F(0.5)
    ),
    "sub-centers": lambda: facezoo.create_margin("subcenter_arcface", embedding_dim=4, num_classes=3, sub_centers=N(2)),
    "center": lambda: create_loss("center", num_classes=N(3), embedding_dim=N(4), alpha=F(0.5)),
    "soft triple": lambda: create_loss("soft_triple", num_classes=3, embedding_dim=4, centers_per_class=N(2)),
    "memory": lambda: CrossBatchMemory(
        create_loss("triplet", margin=F(0.2)), size=N(8), embedding_dim=N(4), delay=N(1)
    ),
    "schedule": lambda: WeightSchedule(F(0.5), warmup=N(3)).at(N(2)),
    "settings": lambda: TrainConfig.from_options(data="x", epochs=N(3), batch_size=N(8), lr=F(0.5)).to_dict(),
    "list": lambda: facezoo.list_models(max_params=N(10**6), num_classes=N(10)),
}


@pytest.mark.parametrize("name", NUMPY)
def test_numpy_numbers(name: str) -> None:
    NUMPY[name]()


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "img_size": (lambda: facezoo.create_model("mobilefacenet", img_size=112.0), "img_size is .* got 112.0"),
    "out_indices": (
        lambda: facezoo.create_model("mobilefacenet", features_only=True, out_indices=5),
        "out_indices.* got 5",
    ),
    "num_classes": (
        lambda: facezoo.create_model("mobilefacenet", num_classes=3.0),
        "num_classes is an integer .* got 3.0",
    ),
    "output_stride": (
        lambda: facezoo.create_model("resnet18", output_stride="x"),
        "output_stride is an integer .* got 'x'",
    ),
    "drop_rate": (lambda: facezoo.create_model("resnet18", drop_rate="x"), "drop_rate is a probability .* got 'x'"),
    "classes of a head": (
        lambda: facezoo.create_margin("arcface", embedding_dim=4, num_classes=3.0),  # type: ignore[arg-type]
        "num_classes is a whole number .* got 3.0",
    ),
    "width of a head": (
        lambda: facezoo.create_margin("arcface", embedding_dim="4", num_classes=3),  # type: ignore[arg-type]
        "embedding_dim is a whole number .* got '4'",
    ),
    "classes of a loss": (lambda: create_loss("center", num_classes=3.0, embedding_dim=4), "num_classes .* got 3.0"),
    "width of a loss": (lambda: create_loss("proxy_nca", num_classes=3, embedding_dim="4"), "embedding_dim .* got 4"),
    "margin of a loss": (lambda: create_loss("triplet", margin="x"), "margin is a finite number.* got x"),
    "no margin": (lambda: create_loss("circle", margin=None), "margin is a number, got 'None'"),
    "scale of a loss": (lambda: create_loss("multi_similarity", alpha="x"), "alpha is a finite number above 0; got x"),
    "centers": (lambda: create_loss("soft_triple", num_classes=3, embedding_dim=4, centers_per_class=2.5), "got 2.5"),
    "memory": (lambda: CrossBatchMemory(create_loss("triplet"), size=2.5, embedding_dim=4), "size .* got 2.5"),  # type: ignore[arg-type]
    "truth": (lambda: create_loss("ring", radius=True), "radius is a finite number above 0; got True"),
}


@pytest.mark.parametrize("name", WRONG)
def test_words_and_fractions_where_whole_numbers_belong(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()
