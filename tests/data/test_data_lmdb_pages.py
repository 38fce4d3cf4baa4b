"""A damaged LMDB is refused before its library reads it, which would end the process."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from facezoo.data import DataError, open_source
from facezoo.data.sources.lmdb_pages import check_pages

lmdb = pytest.importorskip("lmdb")
PAGE = 4096


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two levels of pages, small values, and large values on pages of their own."""
    with lmdb.open(str(tmp_path / "db"), map_size=2**22) as environment:
        for first in (0, 100):  # two transactions
            with environment.begin(write=True) as transaction:
                for number in range(first, first + 100):
                    size = 9000 if number % 50 == 0 else 60
                    transaction.put(f"person/{number:04d}.jpg".encode(), b"\xff\xd8\xff" + bytes(size))
    return tmp_path / "db" / "data.mdb"


def root_of(content: bytes) -> int:
    newest = max((struct.unpack_from("<Q", content, page * PAGE + 144)[0], page) for page in (0, 1))[1]
    return struct.unpack_from("<Q", content, newest * PAGE + 128)[0]


def leaf_of(content: bytes) -> int:
    """The first page below the root, and where it begins."""
    start = root_of(content) * PAGE
    (offset,) = struct.unpack_from("<H", content, start + 16)
    low, high, node = struct.unpack_from("<HHH", content, start + offset)
    return (low | high << 16 | node << 32) * PAGE


def test_a_whole_one_is_read(file: Path) -> None:
    check_pages(file)
    assert len(open_source(file.parent)) == 200


def test_an_empty_one_has_no_pages_to_check(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path / "db"), map_size=2**20).close()
    check_pages(tmp_path / "db" / "data.mdb")
    with pytest.raises(DataError, match="holds no images"):
        open_source(tmp_path / "db")


def test_damage_is_found(file: Path) -> None:
    good = file.read_bytes()
    root, leaf = root_of(good) * PAGE, leaf_of(good)
    (first,) = struct.unpack_from("<H", good, leaf + 16)
    assert struct.unpack_from("<H", good, leaf + first + 4)[0] & 1  # image 0 lies elsewhere
    (key,) = struct.unpack_from("<H", good, leaf + first + 6)
    changes = [
        (0, "<H", 10, 0, "does not begin as an LMDB"),
        (0, "<I", 16, 1, "does not begin as an LMDB"),
        (0, "<I", 40, 4095, "a page has 4095 bytes"),
        (PAGE, "<I", 40, 8192, "pages of different sizes"),
        (PAGE, "<H", 92, 4, "several values each"),
        (root, "<Q", 0, 1, "is damaged"),
        (root, "<H", 10, 4, "is damaged"),
        (root, "<H", 12, 8000, "is damaged"),
        (root, "<H", 12, 18, "fewer than two pages"),
        (root, "<H", 16, 5000, "is damaged"),
        (root + struct.unpack_from("<H", good, root + 16)[0], "<H", 0, 60000, "is out of place"),
        (root + struct.unpack_from("<H", good, root + 16)[0], "<H", 0, root // PAGE, "is out of place"),
        (leaf + first, "<H", 2, 9000, "outside the file"),
        (leaf + first, "<H", 4, 3, "a key with several values"),
        (leaf + first, "<H", 4, 0, "larger than the page"),
        (leaf + first + 8 + key, "<Q", 0, 10**9, "outside the file"),
        (leaf + first + 8 + key, "<Q", 0, leaf // PAGE, "outside the file"),
    ]
    for start, form, offset, value, message in changes:
        broken = bytearray(good)
        struct.pack_into(form, broken, start + offset, value)
        file.write_bytes(broken)
        with pytest.raises(ValueError, match=message):
            check_pages(file)
        with pytest.raises(DataError, match=r"is not an LMDB, or a damaged one"):
            open_source(file.parent)
    for length in (0, 10, 100, PAGE + 20, len(good.rstrip(b"\0")) - PAGE):
        file.write_bytes(good[:length])
        with pytest.raises(DataError, match=r"is cut|does not begin"):
            open_source(file.parent)
