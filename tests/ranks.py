"""Ranks for tests: processes of a fork server that has imported torch once, so that a rank costs no interpreter of its own."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch.multiprocessing as mp

_PRELOADED = [
    *("torch", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.checkpoint"),
    *("facezoo.cli", "facezoo.evaluation", "facezoo.margins", "facezoo.training"),
]


def fork_server() -> ForkServerContext:
    """Makes processes that have imported torch and facezoo. All ranks come from it: the first one decides what it imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    return context


def start_ranks(work: Callable[..., None], args: tuple[Any, ...], count: int) -> None:
    """Call ``work(rank, *args)`` in ``count`` processes and wait for all; an exception in one of them is raised here."""
    fork_server()
    mp.start_processes(work, args, nprocs=count, start_method="forkserver")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command_on_ranks(arguments: list[str], count: int) -> None:
    """The command line on ``count`` ranks, as torchrun would start it. Raises if one of them does not end with 0."""
    start_ranks(_command, (count, free_port(), arguments), count)


def _command(rank: int, count: int, port: int, arguments: list[str]) -> None:
    from facezoo.cli import main

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    status = main(arguments)
    if status:
        raise RuntimeError(f"rank {rank} ended with {status}: facezoo {' '.join(arguments)}")
