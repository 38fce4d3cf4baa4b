"""A rank that dies or fails ends the others within seconds, and they say which it was."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

import tiny_faces  # noqa: F401  (registers the tiny network)
from facezoo.training import TrainConfig, Trainer, join_distributed
from ranks import fork_server, free_port, start_ranks


def _rank(rank: int, count: int, port: int, folder: str, how: str, loser: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(f"{folder}/rank{rank}", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 2)
    with join_distributed("cpu") as process:
        torch.distributed.barrier()
        if rank == loser and how != "trains":
            if how == "fails":
                raise ValueError("this image is broken")
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "sleeps":  # as in a collective of CUDA, which no exception reaches
            time.sleep(120)
        elif how == "trains":
            _train(process, Path(folder), kill=rank == loser)
        else:
            process.any(True)


def _train(process: object, folder: Path, *, kill: bool) -> None:
    config = TrainConfig.load(folder / "settings.json")
    trainer = Trainer(config, process=process)  # type: ignore[arg-type]
    update = trainer._update

    def deadly(batches):
        if kill and trainer.state.updates == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(batches)

    trainer._update = deadly  # type: ignore[method-assign]
    trainer.fit()


@pytest.mark.parametrize(
    ("how", "loser", "found"),
    [
        ("waits", 1, r"rank 1 \(process \d+ on .*\) died without a message"),
        pytest.param("sleeps", 0, r"rank 0 \(process \d+ on .*\) died without a message", marks=pytest.mark.ci),
        ("sleeps", 2, r"rank 2 \(process \d+ on .*\) died without a message"),
        ("fails", 1, r"rank 1 \(process \d+ on .*\) failed: this image is broken"),
        ("trains", 1, r"rank 1 \(process \d+ on .*\) died without a message"),
    ],
)
def test_the_others_end_and_name_it(config, tmp_path, how, loser, found):
    count = 3 if how == "sleeps" else 2
    config(out=str(tmp_path / "run"), batch_size=4).save(tmp_path / "settings.json")
    context = fork_server()
    arguments = (count, free_port(), str(tmp_path), how, loser)
    ranks = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(count)]
    for rank in ranks:
        rank.start()
    ranks[loser].join(100)
    started = time.monotonic()
    others = [rank for rank in range(count) if rank != loser]
    try:
        for rank in others:
            ranks[rank].join(30)
            assert ranks[rank].exitcode == 1
            assert time.monotonic() - started < 30  # a few seconds; the rest is for a busy machine
            text = (tmp_path / f"rank{rank}").read_text()
            assert re.search(found, text), text
            assert "go on with --resume" in text
    finally:
        for rank in ranks:
            rank.kill()


def _ends_well(rank: int, port: int, folder: str) -> None:
    _rank(rank, 2, port, folder, "trains", 5)
    time.sleep(rank)  # the other is gone long before
    (Path(folder) / f"done{rank}").touch()


def test_goodbye_is_no_death(config, tmp_path):
    config(out=str(tmp_path / "run"), epochs=1).save(tmp_path / "settings.json")
    start_ranks(_ends_well, (free_port(), str(tmp_path)), 2)
    assert (tmp_path / "done0").exists()
    assert (tmp_path / "done1").exists()
    assert "gone" not in (tmp_path / "rank1").read_text()
