"""Losses and the trainer on two ranks against one process. One spawn of two gloo ranks checks all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import tiny_faces
from facezoo.losses import CrossBatchMemory, GatheredLoss, JointLoss, WeightSchedule, create_loss, list_losses
from facezoo.ops import gather_with_gradient
from facezoo.training import TrainConfig, Trainer
from facezoo.weights import read_file
from ranks import start_ranks

RANKS = 2
SHARES = (slice(0, 9), slice(9, 14))  # unequal
SIZES = {"num_classes": 4, "embedding_dim": 5}
TAKES_SIZES = ("proxy_nca", "proxy_anchor", "soft_triple", "center")
NAMES = [name for name in list_losses() if name != "cross_entropy"]


def build(name: str) -> nn.Module:
    torch.manual_seed(1)
    return create_loss(name, **(SIZES if name in TAKES_SIZES else {})).double()


def with_memory() -> nn.Module:
    return CrossBatchMemory(create_loss("contrastive"), size=20, embedding_dim=5)


class Network(nn.Module):
    """Inputs and labels to a loss, as one module."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 5).double()
        self.loss = loss

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.loss(self.layer(x), labels)
        return loss


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(14, 3, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (14,), generator=generator)


def two_steps(network: nn.Module, share: slice, average: bool = False) -> list[torch.Tensor]:
    """The losses and the gradients of two steps of SGD (averaged over the ranks by hand), and the state after them."""
    results = []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for seed in range(2):
        x, labels = batch(seed)
        optimizer.zero_grad()
        loss = network(x[share], labels[share])
        loss.backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        for gradient in gradients if average else ():
            dist.all_reduce(gradient)
            gradient /= RANKS
        results += [loss.detach(), *(gradient.clone() for gradient in gradients)]
        optimizer.step()
    return [*results, *(value.clone() for value in network.state_dict().values())]


def check_gather(rank: int) -> None:
    x, labels = batch(0)
    own = x[SHARES[rank]].clone().requires_grad_()
    whole = gather_with_gradient(own)
    assert torch.equal(whole, x)
    assert torch.equal(gather_with_gradient(labels[SHARES[rank]]), labels)
    # Rank r weighs row i by (i + 1)·(r + 1): what comes back is the sum over the ranks.
    rows = torch.arange(1.0, 15.0, dtype=torch.float64)[:, None]
    (whole * rows * (rank + 1)).sum().backward()
    assert torch.equal(own.grad, (rows * 3).expand(14, 3)[SHARES[rank]])


def check_losses(rank: int) -> None:
    for name in NAMES:
        expected = two_steps(Network(build(name)), slice(None))
        got = two_steps(Network(GatheredLoss(build(name))), SHARES[rank], average=True)
        torch.testing.assert_close(got, expected, msg=lambda text, name=name: f"{name}: {text}")
    expected = two_steps(Network(with_memory()), slice(None))
    torch.testing.assert_close(two_steps(Network(GatheredLoss(with_memory())), SHARES[rank], average=True), expected)


def check_joint_under_ddp(rank: int) -> None:
    def joint(gather: bool) -> nn.Module:
        parts = [build(name) for name in NAMES]
        weights = [WeightSchedule(0.5, warmup=3), *[0.3] * (len(NAMES) - 1)]
        return Network(JointLoss(parts, weights=weights, names=NAMES, gather=gather))

    expected = two_steps(joint(gather=False), slice(None))
    torch.testing.assert_close(two_steps(DistributedDataParallel(joint(gather=True)), SHARES[rank]), expected)


def work(rank: int, folder: str, settings: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS)
    check_gather(rank)
    check_losses(rank)
    check_joint_under_ddp(rank)
    Trainer(TrainConfig.from_options(**settings)).fit()
    dist.barrier()
    dist.destroy_process_group()


def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """Gathered losses with unequal shares; then a whole training: PK batches, a schedule, a memory, centers and proxies."""
    settings = {
        "data": str(tiny_faces.write_faces(tmp_path / "faces")),
        "out": str(tmp_path / "ranks"),
        "model": "tiny_convnext",
        "img_size": 16,
        "embedding_dim": 8,
        "margin_options": {"scale": 16.0, "margin": 0.2},
        "augment": "none",
        "epochs": 2,
        "lr": 0.01,  # at the default one these losses diverge together
        "batch_size": 8,
        "sampler": "pk",
        "images_per_identity": 2,
        "joint": {
            "triplet": {"weight": 0.5, "warmup": 6, "shape": "cosine"},
            "supcon": {"weight": 0.1, "memory": 20, "memory_delay": 3},
            "center": 0.05,
            "proxy_anchor": {"weight": 0.1, "delay": 2},
            "ring": 0.01,
        },
        "num_workers": 0,
        "progress": False,
        "device": "cpu",
    }
    start_ranks(work, (str(tmp_path), settings), RANKS)
    Trainer(TrainConfig.from_options(**{**settings, "out": str(tmp_path / "alone")})).fit()
    together, alone = (
        {name: value.double() for name, value in read_file(tmp_path / run / "last.safetensors")[0].items()}
        for run in ("ranks", "alone")
    )
    assert alone["joint.steps"] == 9  # the step of the last of 10 updates
    assert alone["joint.parts.supcon.filled"] == 20
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
