"""Mutated files for every reader: the outcome is what the file means, or the declared error, in time and in memory.

By default a handful for each, which keeps the fuzzers themselves whole; ``make fuzz`` goes on for its budget of time::

    make fuzz FUZZ_SECONDS=3600 FUZZ_SEED=mine ARGS="-k pairs"

A fault is printed with the seed and the number of its input; ``harness.mutated(reader, seed, number)`` gives the file again.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import harness
from binary_readers import binary_readers
from harness import Reader, Tally, run
from more_readers import more_readers
from mutation import mutate_bytes, mutate_lines
from readers import all_readers, write_images

NAMES = ["pairs", "lfw_pairs", "labels", "submission_scores", "submission_classes", "submission_gallery"]
NAMES += [
    "train_config",
    "train_config_toml",
    "training_log",
    "pretrained_config",
    "safetensors",
    "training_checkpoint",
]
NAMES += ["pth", "weights_into_network", "image"]
NAMES += ["going_on", "run_logs", "gallery", "calibration", "embeddings", "scores", "landmarks", "landmarks_json"]
NAMES += [
    "packed_header",
    "packed_files",
    "records",
    "records_index",
    "tar",
    "tar_stream",
    "bin",
    "lmdb",
    "parquet",
    "onnx",
]


@pytest.fixture(scope="session")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    images = write_images(tmp_path_factory.mktemp("images"))
    found = all_readers(images) + more_readers(images, tmp_path_factory.mktemp("scratch"))
    found += binary_readers(images, tmp_path_factory.mktemp("binary"))
    return {reader.name: reader for reader in found}


def report(reader: Reader, tally: Tally) -> None:
    print(f"\n{reader.name:<22} {tally}")
    assert not tally.faults, "\n".join(
        f"{count} × {kind}: {tally.examples.get(kind)}" for kind, count in tally.faults.items()
    )


def test_every_reader_is_fuzzed(readers: dict[str, Reader]) -> None:
    assert tuple(readers) == tuple(NAMES)


@pytest.mark.filterwarnings("ignore")  # doubts are no errors
@pytest.mark.parametrize("name", NAMES)
def test_good_files_are_read_and_a_few_mutated_ones(name: str, readers: dict[str, Reader], tmp_path: Path) -> None:
    reader = readers[name]
    for seed, content in reader.seeds:
        (tmp_path / seed).write_bytes(content)
        meaning = reader.read(tmp_path / seed)
        if reader.check is not None:
            reader.check(content, meaning)
    report(reader, run(reader, tmp_path, inputs=int(min(60, 60 / reader.cost)), seed="few"))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", NAMES)
def test_fuzz(name: str, readers: dict[str, Reader], tmp_path: Path) -> None:
    seconds = float(os.environ.get("FUZZ_SECONDS", "600")) / len(NAMES)
    inputs = int(os.environ.get("FUZZ_INPUTS", "1000000000"))
    report(
        readers[name],
        run(readers[name], tmp_path, inputs=inputs, seconds=seconds, seed=os.environ.get("FUZZ_SEED", "0")),
    )


# -- the fuzzers themselves -----------------------------------------------------------------------------------------------------


def careless(read: Any, **fields: Any) -> Reader:
    return Reader(
        "careless", (("list.txt", b"a 1\nb 2\n"),), (mutate_lines, mutate_bytes), read, (ValueError,), **fields
    )


def test_an_undeclared_error_is_found(tmp_path: Path) -> None:
    tally = run(
        careless(lambda file: [line.split(b" ")[1] for line in file.read_bytes().split(b"\n")[:2]]),
        tmp_path,
        inputs=300,
    )
    assert any(kind.startswith("IndexError") for kind in tally.faults)
    assert tally.read > 0


def test_a_wrong_meaning_is_found(tmp_path: Path) -> None:
    def check(content: bytes, meaning: int) -> None:
        assert meaning == len(content.splitlines())

    tally = run(careless(lambda file: 2, check=check), tmp_path, inputs=100)
    assert any(kind.startswith("AssertionError") for kind in tally.faults)


def test_a_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "SECONDS_PER_INPUT", 0.05)

    def forever(file: Path) -> None:
        while True:
            pass

    assert run(careless(forever), tmp_path, inputs=1).faults["hang"] == 1


def test_too_much_memory_is_found(tmp_path: Path) -> None:
    tally = run(careless(lambda file: bytearray(2 << 30)), tmp_path, inputs=1)
    assert any(kind.startswith("MemoryError") for kind in tally.faults)


def test_a_message_that_repeats_its_input_is_found(tmp_path: Path) -> None:
    def repeat(file: Path) -> None:
        raise ValueError("x" * 5000)

    assert sum(run(careless(repeat), tmp_path, inputs=1).faults.values()) == 1


def test_the_same_seed_gives_the_same_inputs() -> None:
    reader = careless(None)
    inputs = [harness.mutated(reader, "s", number) for number in range(50)]
    assert inputs == [harness.mutated(reader, "s", number) for number in range(50)]
    assert len({content for _, content in inputs}) > 30
