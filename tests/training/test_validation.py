"""The evaluation after an epoch, shared out over ranks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given
from hypothesis import strategies as st

import tiny_faces
from facezoo.training import TrainConfig, Trainer, TrainingDataError, join_distributed, load_trained
from facezoo.training.distributed import to_send
from facezoo.training.validation import answers, figures_of, share_of, validate
from ranks import free_port, start_ranks

CPU = torch.device("cpu")


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9))
def test_shares_are_whole_batches_in_order(images: int, batch_size: int, ranks: int) -> None:
    shares = [share_of(images, batch_size, rank, ranks) for rank in range(ranks)]
    assert [index for share in shares for index in share] == list(range(images))
    assert all(share.start % batch_size == 0 or not share for share in shares)
    assert max(map(len, shares)) <= batch_size * -(-images // (batch_size * ranks))


class _NeedsTwo(Exception):
    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


def test_what_another_process_can_read() -> None:
    assert to_send(None) is None
    assert to_send(whole := ValueError("x")) is whole
    assert str(to_send(_NeedsTwo("a fault", "b.jpg"))) == "_NeedsTwo: a fault in b.jpg"


def _on_main(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def fail() -> None:
        raise _NeedsTwo("a fault", f"rank {rank}")

    with join_distributed("cpu") as process:
        found = [process.on_main(lambda: rank + 7), process.on_main(fail)]
    (Path(folder) / f"rank{rank}").write_text(repr(found))


def test_what_rank_0_does_or_fails_to_do_is_known_to_all(tmp_path: Path) -> None:
    start_ranks(_on_main, (free_port(), str(tmp_path)), 2)
    assert (tmp_path / "rank0").read_text() == "[(7, None), (None, _NeedsTwo('a fault in rank 0'))]"
    assert (tmp_path / "rank1").read_text() == "[(7, None), (None, RuntimeError('_NeedsTwo: a fault in rank 0'))]"


@pytest.mark.parametrize("ranks", [2, 3, 7])  # with seven, some have nothing to do
def test_answers_in_parts_give_the_figures_of_the_whole(config, ranks: int) -> None:
    settings = config(eval_batch_size=4, eval_flip="sum", epochs=1)
    trainer = Trainer(settings)
    trainer.fit()
    network = load_trained(trainer.last)
    whole = validate(network.model, network.head, trainer.data, settings, CPU)
    parts = [
        answers(network.model, network.head, trainer.data, settings, CPU, model_at=(rank, ranks), head_at=(rank, ranks))
        for rank in range(ranks)
    ]
    together = figures_of(parts, trainer.data)
    assert together.pop("dev_loss") == pytest.approx(whole.pop("dev_loss"), rel=1e-12)
    assert together == whole
    assert sum(part.seen > 0 for part in parts) == min(ranks, 3)


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with join_distributed("cpu") as process:
        trainer = Trainer(TrainConfig.load(Path(folder) / "settings.json"), process=process)
        try:
            result = trainer.fit()
        except TrainingDataError as error:
            (Path(folder) / f"error{rank}").write_text(str(error))
            raise
        if rank == 0:
            (Path(folder) / "loss").write_text(repr(result.history[-1]["dev_loss"]))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"margin": "linear", "margin_options": {}, "wccn": 0.3},
        {"margin": "adacos", "margin_options": {}},
        {"margin": "unitsface", "margin_options": {}},
    ],
    ids=["batch norms", "normalized within classes", "a running scale", "stored embeddings"],
)
def test_two_ranks_evaluate_what_is_saved(config, tmp_path: Path, fields: dict[str, Any]) -> None:
    """What the two have gathered of other images differs; the figures are of that of rank 0, which is in the checkpoint."""
    settings = config(eval_batch_size=4, epochs=1, out=str(tmp_path / "run"), **fields)
    settings.save(tmp_path / "settings.json")
    start_ranks(_rank, (free_port(), str(tmp_path)), 2)
    network = load_trained(tmp_path / "run" / "last.safetensors")
    expected = validate(network.model, network.head, Trainer(settings).data, settings, CPU)
    assert float((tmp_path / "loss").read_text()) == pytest.approx(expected["dev_loss"], rel=1e-6)


def test_an_unreadable_image_of_another_rank_is_named_by_rank_0(config, tmp_path: Path) -> None:
    faces = tiny_faces.write_faces(tmp_path / "faces")
    config(data=str(faces), epochs=1, eval_batch_size=4, out=str(tmp_path / "run")).save(tmp_path / "settings.json")
    last = sorted((faces / "ver_data").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:40])
    with pytest.raises(mp.ProcessRaisedException):
        start_ranks(_rank, (free_port(), str(tmp_path)), 2)
    assert last.name in (tmp_path / "error0").read_text()
