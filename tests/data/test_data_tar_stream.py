"""Tar shards as a stream: every image once, by any number of readers, in an order that depends on the seed and the epoch only."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from facezoo.data import DataError, ImageDecodeError, TarStream, open_source


def png(value: int) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six shards of seven images; image n has the gray value n and the label n % 5."""
    numbers = itertools.count()
    for index in range(6):
        files: dict[str, bytes] = {}
        for number in itertools.islice(numbers, 7):
            label = {"label": number % 5} if index % 2 else number % 5
            files[f"a/{number:04d}.png"] = png(number)
            files[f"a/{number:04d}.{'json' if index % 2 else 'cls'}"] = json.dumps(label).encode()
        if index == 0:  # the label may come first
            files = dict(sorted(files.items()))
        shard(tmp_path / f"{index}.tar", files)
    return tmp_path


def numbers_of(stream: TarStream) -> list[int]:
    found = [(int(pixels[0, 0, 0]), label) for pixels, label in stream]
    assert all(label == number % 5 for number, label in found)
    return [number for number, _ in found]


def test_shards_come_whole_and_in_another_order_each_epoch(folder: Path) -> None:
    stream = TarStream(folder, buffer=1)
    orders = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        order = numbers_of(stream)
        assert sorted(order) == list(range(42))
        assert [number - order[7 * (index // 7)] for index, number in enumerate(order)] == list(range(7)) * 6
        orders.append(order)
    assert orders[0] == orders[2] != orders[1]
    assert numbers_of(TarStream(folder, buffer=1, seed=1)) != orders[0]


def test_the_buffer_mixes_shards_and_loses_nothing(folder: Path) -> None:
    order = numbers_of(TarStream(folder, buffer=16))
    assert sorted(order) == list(range(42))
    assert order == numbers_of(TarStream(folder, buffer=16))
    assert len({number // 7 for number in order[:14]}) > 2
    assert sorted(numbers_of(TarStream(folder, buffer=1000))) == list(range(42))


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_the_shards(folder: Path, workers: int) -> None:
    found = []
    for rank in range(3):
        stream = TarStream(folder, lambda image: np.asarray(image)[0, 0, 0].item(), rank=rank, world_size=3, buffer=4)
        values = [value for batch, _ in DataLoader(stream, 5, num_workers=workers) for value in batch.tolist()]
        assert len(values) == 14
        found += values
    assert sorted(found) == list(range(42))


@pytest.mark.parametrize(("images", "workers"), [(5, 0), (40, 0), (41, 2)])
def test_ranks_give_equally_many(folder: Path, images: int, workers: int) -> None:
    for rank in range(2):
        stream = TarStream(folder, images=images, rank=rank, world_size=2, buffer=3)
        loader = DataLoader(stream, None, num_workers=workers)
        seen = [int(pixels[0, 0, 0]) for pixels, _ in loader]
        assert len(seen) == images
        if images == 40:  # 21 images, around nearly twice
            assert len(set(seen)) == 21


def test_the_transform_draws_by_epoch_shard_and_place(folder: Path) -> None:
    def draw(_: Any) -> tuple[float, float]:
        return float(torch.rand(())), float(np.random.rand())  # noqa: NPY002

    torch.manual_seed(5)
    before = torch.get_rng_state()
    stream = TarStream(folder, draw, images=84)
    first, again = ([value for value, _ in stream] for _ in range(2))
    assert first == again
    assert len(set(first)) == 84  # the second time around too
    stream.set_epoch(1)
    assert not set(first) & {value for value, _ in stream}
    assert torch.equal(torch.get_rng_state(), before)


def test_names_become_class_indices(tmp_path: Path) -> None:
    files = {"1.png": png(1), "1.txt": b"Bob\n", "2.png": png(2), "2.json": b'{"identity": "Ann"}', "readme.md": b"x"}
    shard(tmp_path / "a.tar", files)
    assert [label for _, label in TarStream(tmp_path / "a.tar", classes=["Ann", "Bob"], buffer=1)] == [1, 0]
    with pytest.raises(DataError, match=r"a\.tar/+1\.png: the label 'Bob' is none of the 1 classes"):
        list(TarStream(tmp_path, classes=["Ann"]))
    with pytest.raises(DataError, match="'Bob' is not a class index; name the identities"):
        list(TarStream(tmp_path))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": png(1), "2.png": png(1), "2.cls": b"0"}, r"1\.png' has no \.cls"),
        ({"1.cls": b"0", "2.png": png(1)}, r"2\.png' has no \.cls"),
        ({"1.png": b"x", "1.cls": b"0"}, "cannot decode"),
        ({"1.png": png(1), "1.json": b"{"}, "is not a readable label"),
        ({"1.png": png(1), "1.cls": b"-1"}, "'-1' is not a class index"),
    ],
)
def test_wrong_shards(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    shard(tmp_path / "a.tar", files)
    with pytest.raises((DataError, ImageDecodeError), match=message):
        list(TarStream(tmp_path))


def test_a_cut_shard_and_a_file_that_is_none(folder: Path, tmp_path: Path) -> None:
    whole = (folder / "0.tar").read_bytes()
    for content in (whole[:600], whole[:4000], b"x" * 2000):
        (tmp_path / "0.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"cut|not a complete tar"):
            list(TarStream(tmp_path / "0.tar"))


def test_too_few_shards_and_wrong_numbers(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="6 tar files for 7 ranks; each needs one"):
        TarStream(folder, world_size=7)
    with pytest.raises(DataError, match="6 tar files for 8 ranks times workers"):
        list(DataLoader(TarStream(folder, world_size=4), None, num_workers=2))
    with pytest.raises(DataError, match="0 tar files for 1 ranks"):
        TarStream(tmp_path / "none")
    with pytest.raises(ValueError, match="got rank 2 of 2"):
        TarStream(folder, rank=2, world_size=2)
    with pytest.raises(ValueError, match="buffer is an integer of at least 1"):
        TarStream(folder, buffer=0)
    shard(tmp_path / "e.tar", {"readme.md": b"x"})
    with pytest.raises(DataError, match="hold no image"):
        list(TarStream(tmp_path / "e.tar", images=3))


def test_an_absolute_name_finds_its_label(tmp_path: Path) -> None:
    file = shard(tmp_path / "a.tar", {"/data/1.png": png(1), "/data/1.cls": b"7"})
    assert open_source(file).identities == ("7",)
    assert [label for _, label in TarStream(file)] == [7]
