"""Notice that another rank has died: a TCP connection from every rank to rank 0.

Without it the other ranks wait in torch until the timeout of the process group. The operating system closes the connections of a
process that dies; TCP keep-alive probes notice a machine that no longer answers. The rank that notices it tells all others.
"""

from __future__ import annotations

import hmac
import os
import secrets
import selectors
import socket
import sys
import threading
import time
import warnings
from contextlib import suppress
from typing import cast

import torch
import torch.distributed as dist

from facezoo.training.errors import RankLostError

_CONNECT = 60.0  # seconds for all ranks to connect
_GRACE = 2.0  # seconds for the main thread to end by itself, with its own error
_LAST = 20.0  # seconds for a main thread that is already ending
_LONGEST = 2000  # bytes of a message


class Lifeline:
    """End this process soon after another rank has died or failed, with a message that names that rank.

    Every rank creates one after ``init_process_group``. If the ranks cannot connect, a warning says so and nothing is watched.

    Args:
        rank: number of this process.
        world_size: number of processes.
        device: device for sending objects to other ranks.
        host: address of rank 0.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device, host: str) -> None:
        self._rank, self._names = rank, {rank: f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"}
        self._lines: dict[socket.socket, int] = {}  # connection -> rank at its other end
        self._lost = ""
        self._noticed, self._ending, self._closed = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()
        server = _serve(host) if rank == 0 else None
        box = [(0, "") if server is None else (int(server.getsockname()[1]), secrets.token_hex(16))]
        dist.broadcast_object_list(box, src=0, device=device)
        port, token = box[0]
        try:
            if server is not None:
                self._wait_for_all(server, token, world_size)
            else:
                self._connect(host, port, token)
        except (OSError, ValueError) as error:
            warnings.warn(
                f"a rank that dies will be noticed only after the timeout of the process group: {error}", stacklevel=3
            )
            self._hang_up()
            return
        finally:
            if server is not None:
                server.close()
        if hasattr(os, "register_at_fork"):  # a loading process would hold the line of a rank that has died
            os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._watch, name="facezoo-lifeline", daemon=True).start()

    def leave(self, error: BaseException | None = None) -> None:
        """Tell the other ranks that this one is done or, with ``error``, that it failed; they end in the second case.

        Raises:
            RankLostError: ``error`` is torch's error about a rank that has died; this one names the rank.
        """
        self._ending.set()
        if self._lines and error is not None:
            if _is_about_peers(error) and self._noticed.wait(_GRACE):
                raise RankLostError(self._lost) from error
            self._tell("failed " + (" ".join(str(error).split()) or type(error).__name__))
            return
        self._tell("bye")

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._hang_up()

    # -- connecting ------------------------------------------------------------------------------------------------------------

    def _wait_for_all(self, server: socket.socket, token: str, world_size: int) -> None:
        end = time.monotonic() + _CONNECT
        while len(self._lines) < world_size - 1:
            server.settimeout(max(end - time.monotonic(), 0.01))
            line, _ = server.accept()
            words = _hello(line)
            if len(words) != 3 or not hmac.compare_digest(words[0].encode(), token.encode()) or not words[1].isdigit():
                line.close()  # not a rank of this training
                continue
            self._add(line, int(words[1]), words[2])
        self._tell(f"ready {self._names[0]}")

    def _connect(self, host: str, port: int, token: str) -> None:
        line = socket.create_connection((host, port), timeout=_CONNECT)
        line.sendall(f"{token} {self._rank} {self._names[self._rank]}\n".encode())
        words = _hello(line)
        if words[:1] != ["ready"]:
            line.close()
            raise ValueError("rank 0 did not answer")
        self._add(line, 0, " ".join(words[1:]))

    def _add(self, line: socket.socket, rank: int, name: str) -> None:
        line.settimeout(None)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 5),
            ("TCP_KEEPINTVL", 3),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", 15_000),
        ):
            if hasattr(socket, option):  # Linux; elsewhere the system's own, slower probes
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._lines[line] = rank
        self._names[rank] = name

    # -- watching --------------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for own in self._lines:
                selector.register(own, selectors.EVENT_READ)
            texts = dict.fromkeys(self._lines, b"")
            while selector.get_map() and not self._closed.is_set():
                for key, _ in selector.select(timeout=0.5):
                    line = cast(socket.socket, key.fileobj)
                    got = _receive(line)
                    texts[line] += got
                    if got and b"\n" not in texts[line] and len(texts[line]) < _LONGEST:
                        continue
                    selector.unregister(line)  # each process sends only one message
                    if self._take(line, texts[line].decode(errors="replace").strip()):
                        self._end()
                        return

    def _take(self, line: socket.socket, text: str) -> bool:
        """Handle the message of a connection, "" if it was closed. Returns whether a rank is lost."""
        rank, (word, _, rest) = self._lines[line], text.partition(" ")
        if word == "bye" or self._closed.is_set():
            return False
        name = self._names[rank]
        self._lost = (
            rest
            if word == "lost"
            else f"{name} failed: {rest}"
            if word == "failed"
            else f"{name} died without a message: it was killed, ran out of memory, or its machine cannot be reached"
        )
        self._tell(f"lost {self._lost}")
        self._noticed.set()
        return True

    def _end(self) -> None:
        if self._closed.wait(_GRACE) or (self._ending.is_set() and self._closed.wait(_LAST)):
            return
        print(f"facezoo: error: {RankLostError(self._lost)}", file=sys.stderr, flush=True)
        os._exit(1)  # the main thread waits for the lost rank within torch, where no exception reaches it

    def _tell(self, text: str) -> None:
        data = text.encode()[: _LONGEST - 1] + b"\n"
        with self._lock:
            for line in self._lines:
                with suppress(OSError):
                    line.sendall(data)

    def _forget(self) -> None:
        for line in self._lines:
            line.close()

    def _hang_up(self) -> None:
        with self._lock:
            for line in self._lines:
                line.close()
            self._lines = {}


def _serve(host: str) -> socket.socket:
    try:
        return socket.create_server((host, 0), backlog=1024)
    except OSError:  # the address belongs to a router in front of this machine
        return socket.create_server(("", 0), backlog=1024)


def _hello(line: socket.socket) -> list[str]:
    """The first line of a new connection, split in at most three words."""
    line.settimeout(_CONNECT)
    text = b""
    while not text.endswith(b"\n") and len(text) < _LONGEST:
        got = _receive(line)
        if not got:
            break
        text += got
    return text.decode(errors="replace").strip().split(" ", 2)


def _receive(line: socket.socket) -> bytes:
    try:
        return line.recv(_LONGEST)
    except OSError:
        return b""


def _is_about_peers(error: BaseException) -> bool:
    """Whether an error may be torch's error about a closed connection."""
    kinds = tuple(
        getattr(dist, name) for name in ("DistError", "DistBackendError", "DistNetworkError") if hasattr(dist, name)
    )
    return type(error) is RuntimeError or isinstance(error, kinds)
