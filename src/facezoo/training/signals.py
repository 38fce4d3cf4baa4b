"""SIGTERM and Ctrl-C as a request to stop after the current update."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """Context in which SIGTERM and SIGINT set :attr:`requested` instead of ending the process. A second Ctrl-C ends it.

    The first signal prints a message on stderr at once. Outside the main thread Python allows no handlers, so this does nothing.

    Attributes:
        requested: whether to stop.
        signal: number of the received signal, 0 for none.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal = 0
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self.requested, self.signal, self._owner = False, 0, os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            return
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal = True, number
        name = signal.Signals(number).name
        message = (
            f"\nfacezoo: {name}: stopping after this update, then saving; Ctrl-C once more ends at once, unsaved\n"
        )
        with contextlib.suppress(OSError):  # print() is not reentrant, os.write is
            os.write(2, message.encode())


def ignore_stop_signals(worker: int) -> None:
    """For data workers: a signal to the process group must not end them before the trainer has saved a checkpoint."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
