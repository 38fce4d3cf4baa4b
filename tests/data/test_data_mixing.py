from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facezoo.data import MixedBatch, mix_batch, mixed_accuracy, mixed_loss

LABELS = torch.arange(8)


def one_value_per_image(count: int = 8, height: int = 12, width: int = 16) -> torch.Tensor:
    return torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, height, width).contiguous()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(seed=st.integers(0, 2**32), alpha=st.floats(0.05, 5))
@settings(max_examples=50, deadline=None)
def test_mixup_mixes_by_lam(seed: int, alpha: float) -> None:
    images = one_value_per_image()
    batch = mix_batch(images, LABELS, mixup_alpha=alpha, generator=seeded(seed))
    assert 0 <= batch.lam <= 1
    assert torch.equal(batch.labels_a, LABELS)
    assert torch.equal(batch.labels_b.sort().values, LABELS)
    expected = batch.lam * batch.labels_a + (1 - batch.lam) * batch.labels_b
    torch.testing.assert_close(batch.images, expected.float().view(-1, 1, 1, 1).expand_as(images))
    assert torch.equal(images, one_value_per_image())


@given(seed=st.integers(0, 2**32), alpha=st.floats(0.05, 5), height=st.integers(1, 20), width=st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_cutmix_lam_is_the_exact_share_of_pixels(seed: int, alpha: float, height: int, width: int) -> None:
    images = one_value_per_image(height=height, width=width)
    batch = mix_batch(images, LABELS, cutmix_alpha=alpha, generator=seeded(seed))
    for image, first, second in zip(batch.images, batch.labels_a.tolist(), batch.labels_b.tolist(), strict=True):
        own = image[0] == first
        assert bool((own | (image[0] == second)).all())
        assert bool((image == image[:1]).all())
        if first != second:
            assert float(own.double().mean()) == pytest.approx(batch.lam, abs=1e-12)
            rows, columns = (~own).any(1).sum(), (~own).any(0).sum()
            assert int((~own).sum()) == int(rows * columns)  # one rectangle
    assert torch.equal(images, one_value_per_image(height=height, width=width))


def test_lam_follows_the_beta_distribution() -> None:
    generator = seeded(0)
    images, labels = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64)
    lams = np.array([mix_batch(images, labels, mixup_alpha=0.4, generator=generator).lam for _ in range(3000)])
    assert lams.mean() == pytest.approx(0.5, abs=0.03)
    assert lams.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), rel=0.06)


def test_both_are_used_evenly() -> None:
    generator = seeded(0)
    cut = 0
    for _ in range(400):
        batch = mix_batch(one_value_per_image(), LABELS, mixup_alpha=1, cutmix_alpha=1, generator=generator)
        cut += bool((batch.images == batch.images.round()).all())
    assert 160 < cut < 240


def test_nothing_to_mix() -> None:
    images = one_value_per_image()
    batch = mix_batch(images, LABELS)
    assert batch.images is images
    assert batch.lam == 1
    assert batch.labels_b is LABELS


def test_probability() -> None:
    generator = seeded(0)
    mixed = sum(
        mix_batch(one_value_per_image(), LABELS, mixup_alpha=1, probability=0.25, generator=generator).lam < 1
        for _ in range(400)
    )
    assert 70 < mixed < 130
    assert mix_batch(one_value_per_image(), LABELS, mixup_alpha=1, probability=0, generator=generator).lam == 1


def test_repeatable_by_its_generator_or_the_global_one() -> None:
    first, again = (mix_batch(one_value_per_image(), LABELS, mixup_alpha=1, generator=seeded(5)) for _ in range(2))
    assert torch.equal(first.images, again.images)
    torch.manual_seed(5)
    assert torch.equal(mix_batch(one_value_per_image(), LABELS, mixup_alpha=1).images, first.images)


@pytest.mark.parametrize("options", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}])
def test_channels_last_and_dtype_are_kept(options: dict[str, float]) -> None:
    images = one_value_per_image().to(torch.bfloat16, memory_format=torch.channels_last)
    batch = mix_batch(images, LABELS, generator=seeded(1), **options)  # type: ignore[arg-type]
    assert batch.images.dtype == torch.bfloat16
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("images", "labels", "options", "error"),
    [
        (torch.zeros(8, 3, 4), LABELS, {}, ValueError),
        (torch.zeros(7, 3, 4, 4), LABELS, {}, ValueError),
        (torch.zeros(8, 3, 4, 4, dtype=torch.uint8), LABELS, {}, TypeError),
        (torch.zeros(8, 3, 4, 4), LABELS, {"mixup_alpha": -1.0}, ValueError),
        (torch.zeros(8, 3, 4, 4), LABELS, {"probability": 1.1}, ValueError),
    ],
)
def test_wrong_inputs(
    images: torch.Tensor, labels: torch.Tensor, options: dict[str, float], error: type[Exception]
) -> None:
    with pytest.raises(error, match="expected"):
        mix_batch(images, labels, **options)  # type: ignore[arg-type]


def test_loss_and_accuracy_weigh_both_labels() -> None:
    batch = MixedBatch(torch.zeros(4, 1, 1, 1), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 0, 2, 2]), 0.7)
    predictions = torch.tensor([0, 0, 2, 1])  # first label, second label, both, none
    logits = torch.nn.functional.one_hot(predictions, 3).float()
    assert float(mixed_accuracy(logits, batch)) == pytest.approx((0.7 + 0.3 + 1 + 0) / 4)
    loss = mixed_loss(lambda labels: torch.nn.functional.cross_entropy(logits, labels), batch)
    soft = 0.7 * torch.nn.functional.one_hot(batch.labels_a, 3) + 0.3 * torch.nn.functional.one_hot(batch.labels_b, 3)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, soft))


def test_an_unmixed_batch_costs_one_loss() -> None:
    calls: list[torch.Tensor] = []

    def loss(labels: torch.Tensor) -> torch.Tensor:
        calls.append(labels)
        return torch.tensor(2.0)

    assert float(mixed_loss(loss, mix_batch(torch.zeros(8, 1, 2, 2), LABELS))) == 2
    assert len(calls) == 1
