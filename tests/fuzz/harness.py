"""Runs a reader over mutated files and says what came of each: read, refused with the declared error, or a fault."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mutation import Mutation

SECONDS_PER_INPUT = 20.0  # of the processor's time; a reader that hangs takes for ever
SECONDS_OF_WAITING = 600.0  # a loaded machine may let a process wait
MEMORY = 1 << 30
MESSAGE = 1500  # characters; paths and at most 200 characters of the input
KEPT = 12  # faults that are shown, one of each kind


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: for the table of counts.
        seeds: name and content of good files.
        mutations: what is done to them.
        read: file -> what it means to the reader.
        declared: the exceptions that its documentation names.
        check: raises AssertionError if what was read is not what stands in the file: ``check(content, meaning)``.
        cost: milliseconds per input, roughly; cheap readers get more inputs.
        lines: how many lines an error may have.
    """

    name: str
    seeds: tuple[tuple[str, bytes], ...]
    mutations: tuple[Mutation, ...]
    read: Callable[[Path], Any]
    declared: tuple[type[Exception], ...]
    check: Callable[[bytes, Any], None] | None = None
    cost: float = 0.3
    lines: int = 1


@dataclass
class Tally:
    """What came of the inputs of one reader."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    compared: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def fault(self, kind: str, example: str) -> None:
        self.faults[kind] += 1
        if len(self.examples) < KEPT:
            self.examples.setdefault(kind, example)

    def __str__(self) -> str:
        text = (
            f"{self.inputs:>9,} inputs  {self.read:>8,} read  {self.compared:>8,} compared  {self.refused:>8,} refused"
        )
        return f"{text}  {sum(self.faults.values()):>6,} faults"


class Hang(BaseException):
    """The alarm; no reader catches it."""


def mutated(reader: Reader, seed: str, number: int) -> tuple[str, bytes]:
    """Input ``number``: its file name and content. The same arguments give the same input."""
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    name, content = rng.choice(reader.seeds)
    return name, rng.choice(reader.mutations)(content, rng)


def run(reader: Reader, folder: Path, *, inputs: int, seconds: float = 1e9, seed: str = "0") -> Tally:
    """Read up to ``inputs`` mutated files, for ``seconds`` at most. Each file lies in ``folder`` while it is read."""
    tally, end = Tally(), time.monotonic() + seconds
    with _alarm(), _memory_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(inputs):
            if time.monotonic() > end:
                break
            name, content = mutated(reader, seed, number)
            file = folder / name
            file.write_bytes(content)
            tally.inputs += 1
            try:
                _set_timers(SECONDS_PER_INPUT, SECONDS_OF_WAITING)
                _read(reader, file, content, tally)
                _set_timers(0, 0)
            except Hang:
                tally.fault("hang", f"seed {seed}, input {number}: no answer within {SECONDS_PER_INPUT:g} s")
            except Exception as error:
                kind = f"{type(error).__name__} at {_place(error)}"
                tally.fault(kind, f"seed {seed}, input {number}: {str(error)[:300]!r} from {content[:200]!r}")
            _set_timers(0, 0)
    return tally


def _read(reader: Reader, file: Path, content: bytes, tally: Tally) -> None:
    try:
        meaning = reader.read(file)
    except reader.declared as error:
        text = str(error)
        if isinstance(error, KeyError | IndexError | UnicodeError | RecursionError) and not _own(error):
            raise  # a subclass of a declared class that Python raised by itself
        if len(text) > MESSAGE or len(text.splitlines()) > reader.lines or not text.strip():
            kind = (
                f"message of {len(text.splitlines())} lines"
                if len(text) <= MESSAGE
                else "message that repeats its input"
            )
            tally.fault(f"{kind} at {_place(error)}", text[:400])
        tally.refused += 1
        return
    tally.read += 1
    if reader.check is not None:
        reader.check(content, meaning)
        tally.compared += 1


def _own(error: Exception) -> bool:
    return type(error).__module__.startswith("facezoo")


def _place(error: BaseException) -> str:
    """The last line of facezoo, or of the check, in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "facezoo" in frame.filename or "/fuzz/readers" in frame.filename]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.name}"


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise Hang

    before = {number: signal.signal(number, ring) for number in (signal.SIGALRM, signal.SIGPROF)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _set_timers(working: float, waiting: float) -> None:
    signal.setitimer(signal.ITIMER_PROF, working)
    signal.setitimer(signal.ITIMER_REAL, waiting)


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    """At most MEMORY more than now; beyond it allocations fail with MemoryError, which no reader declares."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        yield
        return
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
