"""Within-class covariance normalization: exact algebra, the same logits, one time only, on every rank."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from facezoo.data import eval_transform
from facezoo.evaluation import embed_images
from facezoo.margins import create_margin
from facezoo.training import TrainConfig, Trainer, load_trained, wccn
from facezoo.training.datasets import without_augmentation
from ranks import command_on_ranks

LINEAR = {"margin": "linear", "margin_options": {}, "wccn": 0.2, "best_metric": "last"}


class Network(nn.Module):
    """(N, 6) -> (N, 4), with the two layers that are folded into."""

    def __init__(self, bias: bool, affine: bool) -> None:
        super().__init__()
        self.head = nn.Module()
        self.head.embedding, self.head.embedding_act = nn.Linear(6, 4, bias=bias), nn.Identity()
        self.head.embedding_norm = nn.BatchNorm1d(4, affine=affine)
        for tensor in self.head.embedding_norm.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2.0)

    def forward(self, x):
        return self.head.embedding_norm(self.head.embedding(x))


def people(count: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 20
    return torch.randn(20, 6, generator=generator)[labels] + torch.randn(count, 6, generator=generator), labels


@pytest.mark.parametrize(("bias", "affine"), [(False, True), (True, True), (False, False)])
def test_the_folded_network_gives_the_mapped_embeddings_and_the_same_logits(bias, affine):
    torch.manual_seed(0)
    network, head = (
        Network(bias, affine).double().eval(),
        create_margin("linear", embedding_dim=4, num_classes=20).double(),
    )
    x, labels = people()
    x = x.double()
    before, logits = network(x), head.logits(network(x))
    found = wccn.fit_map(before, labels, 0.0)
    wccn.fold(network, head, found)
    after = network(x)
    torch.testing.assert_close(after, (before - before.mean(0)) @ found.matrix)
    torch.testing.assert_close(head.logits(after), logits)
    means = torch.stack([after[labels == label].mean(0) for label in range(20)])
    within = after - means[labels]
    torch.testing.assert_close(within.T @ within / len(x), torch.eye(4, dtype=torch.float64))
    torch.testing.assert_close(after.mean(0), torch.zeros(4, dtype=torch.float64))


def test_shrinkage_goes_from_the_covariance_to_a_multiple_of_the_unit_matrix():
    x, labels = people()
    for shrinkage in (0.0, 0.3, 1.0):
        found = wccn.fit_map(x, labels, shrinkage)
        means = torch.stack([x[labels == label].double().mean(0) for label in range(20)])
        covariance = (x.double() - means[labels]).T.cov(correction=0)
        wanted = (1 - shrinkage) * covariance + shrinkage * covariance.diagonal().mean() * torch.eye(6)
        torch.testing.assert_close(found.inverse @ found.inverse, wanted)
        torch.testing.assert_close(found.matrix @ found.inverse, torch.eye(6, dtype=torch.float64))
    with pytest.raises(ValueError, match="must be none without wccn"):
        TrainConfig.from_options(margin="linear", wccn_between=2.0)
    with pytest.raises(ValueError, match="wccn_offset must be none without wccn_between"):
        TrainConfig.from_options(margin="linear", wccn=0.3, wccn_offset=0.7)
    with pytest.raises(ValueError, match="means are all alike"):
        wccn.fit_map(x, torch.zeros_like(labels), 0.3, 2.0)
    once = torch.randn(20, 6)  # one image per person: nothing varies
    with pytest.raises(ValueError, match="set a larger shrinkage"):
        wccn.fit_map(once, torch.arange(20), 0.3)
    few = torch.randn(8, 6)
    with pytest.raises(ValueError, match="set a larger shrinkage"):
        wccn.fit_map(few, torch.arange(8) // 2, 0.0)
    wccn.fit_map(few, torch.arange(8) // 2, 0.3)


@pytest.mark.parametrize("identities", [20, 4])
def test_weighting_by_the_variance_between_identities(identities):
    """Along the axes both covariances are diagonal; with four identities some variances are 0, and the logits still stay."""
    torch.manual_seed(0)
    x, labels = people()
    x, labels = x.double(), labels % identities
    found = wccn.fit_map(x, labels, 0.0, 1.5)
    mapped = (x - found.origin) @ found.matrix.T
    means = torch.stack([mapped[labels == label].mean(0) for label in range(identities)])
    within = (mapped - means[labels]).T.cov(correction=0).diagonal()
    plain = wccn.fit_map(x, labels, 0.0)
    class_means = torch.stack([x[labels == label].mean(0) for label in range(identities)])
    centered = (class_means - x.mean(0)) @ plain.matrix
    variances = torch.linalg.eigvalsh(centered.T.cov(correction=0)).flip(0)
    variances = variances.clamp_min(1e-3 * variances.mean())
    torch.testing.assert_close(within, variances / (variances + 1.5 * variances.mean()))
    covariance = means.T.cov(correction=0)
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.matrix @ found.inverse, torch.eye(6, dtype=torch.float64))
    network, head = (
        Network(True, True).double().eval(),
        create_margin("linear", embedding_dim=4, num_classes=20).double(),
    )
    before, logits = network(x), head.logits(network(x))
    found = wccn.fit_map(before, labels, 0.3, 0.5)
    wccn.fold(network, head, found)
    torch.testing.assert_close(network(x), (before - found.origin) @ found.matrix.T)
    torch.testing.assert_close(head.logits(network(x)), logits)


def test_the_origin_moves_along_the_axis_that_tells_least():
    torch.manual_seed(0)
    network, head = (
        Network(True, True).double().eval(),
        create_margin("linear", embedding_dim=4, num_classes=20).double(),
    )
    x, labels = people()
    before, logits = network(x.double()), head.logits(network(x.double()))
    centered, found = wccn.fit_map(before, labels, 0.3, 3.0), wccn.fit_map(before, labels, 0.3, 3.0, 0.7)
    assert torch.equal(centered.matrix, found.matrix)
    plain = (before - centered.origin) @ centered.matrix.T
    added = torch.zeros(4, dtype=torch.float64)
    added[-1] = 0.7 * plain.norm(dim=1).mean()
    wccn.fold(network, head, found)
    torch.testing.assert_close(network(x.double()), plain + added)
    torch.testing.assert_close(head.logits(network(x.double())), logits)
    means = torch.stack([plain[labels == label].mean(0) for label in range(20)])
    assert means.var(0).argmin() == 3


def trained(config, **fields):
    trainer = Trainer(config(**LINEAR | {"augment": "light"} | fields))
    return trainer, trainer.fit()


def test_a_run_ends_with_whitened_embeddings_and_the_accuracy_that_it_had(config, tmp_path):
    trainer, result = trained(config)
    _, plain = trained(config, wccn=None, out=str(tmp_path / "plain"))
    for name in ("dev_accuracy", "dev_loss", "train_loss"):
        assert [row[name] for row in result.history] == pytest.approx([row[name] for row in plain.history], rel=1e-4)
    assert result.history[0]["eer"] == plain.history[0]["eer"]
    network = load_trained(result.last).model
    images = without_augmentation(trainer.data.train, eval_transform(network.preprocessing))
    embeddings = embed_images(network, images, flip="sum", normalize=False) / 2
    found = wccn.fit_map(embeddings, torch.as_tensor(trainer.data.labels), 0.0)
    before = embed_images(load_trained(plain.last).model, images, flip="sum", normalize=False) / 2
    wanted = wccn.fit_map(before, torch.as_tensor(trainer.data.labels), 0.2)
    torch.testing.assert_close(
        embeddings.double(), (before.double() - wanted.origin) @ wanted.matrix, rtol=1e-3, atol=1e-4
    )
    assert found.origin.abs().max() < 1e-4


def test_an_evaluation_that_failed_does_not_normalize_twice(config, tmp_path, monkeypatch):
    _, whole = trained(config, out=str(tmp_path / "whole"))
    calls = []

    def fail(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no memory for the evaluation")
        return own(*args, **kwargs)

    from facezoo.training import validation

    own = validation.answers
    monkeypatch.setattr(validation, "answers", fail)
    with pytest.raises(MemoryError):
        trained(config)
    resumed = Trainer(config(**LINEAR, augment="light")).fit(resume=True)
    mine, theirs = load_trained(resumed.last).model.state_dict(), load_trained(whole.last).model.state_dict()
    assert [name for name, value in mine.items() if not torch.equal(value, theirs[name])] == []


@pytest.mark.ci
def test_two_ranks_with_class_parallel_heads_normalize_both_parts(config, tmp_path):
    own = {**LINEAR, "augment": "none", "drop_last": False, "batch_size": 12, "head_parallel": True}
    logits, trainer = {}, Trainer(config(**own, out=str(tmp_path / "none")))
    for name, value in (("with", 0.0), ("without", None)):
        config(**{**own, "wccn": value}, out=str(tmp_path / name)).save(tmp_path / "settings.json")
        command_on_ranks(["--import", "tiny_faces", "train", "--config", str(tmp_path / "settings.json")], 2)
        network = load_trained(tmp_path / name / "last.safetensors")
        images = without_augmentation(trainer.data.train, eval_transform(network.model.preprocessing))
        embeddings = embed_images(network.model, images, flip="sum", normalize=False) / 2
        logits[name] = network.head.logits(embeddings)
        found = wccn.fit_map(embeddings, torch.as_tensor(trainer.data.labels), 0.0)
        identity = torch.eye(len(found.matrix), dtype=torch.float64)
        assert torch.allclose(found.matrix, identity, atol=1e-3) == (name == "with")
    torch.testing.assert_close(logits["with"], logits["without"], rtol=1e-3, atol=1e-3)


def test_what_does_not_go_with_it(config):
    for fields, message in (
        ({"ema_decay": 0.9}, "leave out ema_decay"),
        ({"swa_start": 2}, "leave out ema_decay and swa_start"),
        ({"wccn": 1.5}, r"wccn must be in \[0, 1\]"),
        ({"fully_shard": True}, "wccn must be none with fully_shard"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**LINEAR | fields)
    with pytest.raises(ValueError, match="needs the margin 'linear'"):
        Trainer(config(wccn=0.3))
    with pytest.raises(ValueError, match="ends with a linear layer and a batch norm"):
        Trainer(config(**LINEAR, model="tiny_convnext"))


def test_a_normalized_run_cannot_go_on_for_longer(config):
    trained(config, schedule="constant")
    with pytest.raises(Exception, match="epochs"):
        Trainer(config(**LINEAR, augment="light", schedule="constant", epochs=4)).fit(resume=True)
