"""Check the pages of an LMDB before opening it: the LMDB library trusts the offsets in the file and crashes if they are wrong."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_HEADER = 16  # bytes in front of every page: number, padding, flags, and the bounds of its free space
_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_ELSEWHERE, _SEVERAL = 0x01, 0x06  # flags of a node: the value is on pages of its own; a key with several values
_SEVERAL_IN_ALL = 0x04  # flag of a database
_NO_ROOT = 2**64 - 1
_DEEPEST = 32


def check_pages(file: Path) -> None:
    """Follow all pages from the root and check every offset against the size of the file.

    Only the pages that a reader uses are checked: the main database of the newer of the file's two states.

    Args:
        file: ``data.mdb``, or a database in one file.

    Raises:
        ValueError: an offset points outside the file or its page, or the file is not an LMDB, truncated, or has several values
            per key.
        OSError: the file cannot be read.
    """
    with file.open("rb") as opened:
        if file.stat().st_size < 2 * _HEADER:
            raise ValueError("the file is cut")
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _Pages(content).check()


class _Pages:
    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.size, first = self._state(0)
        size, second = self._state(self.size)
        if size != self.size:
            raise ValueError("its two states have pages of different sizes")
        _, self.last, self.root = max(first, second, key=lambda state: state[0])  # of equal ones the first
        if (self.last + 1) * self.size > len(content):
            raise ValueError(f"the file is cut: it has {len(content)} bytes, and {self.last + 1} pages of {self.size}")
        self.seen: set[int] = set()

    def _state(self, start: int) -> tuple[int, tuple[int, int, int]]:
        """Page size; and transaction, last page and root of one of the two states."""
        if start + 152 > len(self.content):
            raise ValueError("the file is cut")
        (page_flags,) = struct.unpack_from("<H", self.content, start + 10)
        magic, version = struct.unpack_from("<II", self.content, start + _HEADER)
        if not page_flags & _META or magic != _MAGIC or version != _VERSION:
            raise ValueError("it does not begin as an LMDB does")
        (size,) = struct.unpack_from("<I", self.content, start + 40)
        (flags,) = struct.unpack_from("<H", self.content, start + 92)
        (root,) = struct.unpack_from("<Q", self.content, start + 128)
        last, transaction = struct.unpack_from("<QQ", self.content, start + 136)
        if size not in (2**power for power in range(9, 17)):
            raise ValueError(f"a page has {size} bytes")
        if flags & _SEVERAL_IN_ALL:
            raise ValueError("its keys have several values each")
        return size, (transaction, last, root)

    def check(self) -> None:
        """Raise :class:`ValueError` at the first number that is wrong."""
        waiting = [] if self.root == _NO_ROOT else [(self.root, 0)]
        while waiting:
            number, depth = waiting.pop()
            if not 2 <= number <= self.last or number in self.seen or depth > _DEEPEST:
                raise ValueError(f"page {number} is out of place")
            self.seen.add(number)
            waiting += [(below, depth + 1) for below in self._page(number)]

    def _page(self, number: int) -> list[int]:
        """Check one page; the pages below it."""
        start = number * self.size
        own, _, flags, lower, upper = struct.unpack_from("<QHHHH", self.content, start)
        count = (lower - _HEADER) // 2
        if own != number or flags & 0x7F not in (_BRANCH, _LEAF) or not _HEADER <= lower <= upper <= self.size:
            raise ValueError(f"page {number} is damaged")
        if flags & _BRANCH and count < 2:
            raise ValueError(f"page {number} leads to fewer than two pages")
        below = []
        for offset in struct.unpack_from(f"<{count}H", self.content, start + _HEADER):
            if not upper <= offset <= self.size - 8:
                raise ValueError(f"page {number} is damaged")
            low, high, node, key = struct.unpack_from("<HHHH", self.content, start + offset)
            if flags & _BRANCH:
                below.append(low | high << 16 | node << 32)
                end = offset + 8 + key
            else:
                end = offset + 8 + key + self._value(number, start + offset + 8 + key, low | high << 16, node)
            if end > self.size:
                raise ValueError(f"page {number} has an entry that is larger than the page")
        return below

    def _value(self, number: int, place: int, length: int, node: int) -> int:
        """Bytes that a value takes on its page."""
        if node & _SEVERAL:
            raise ValueError(f"page {number} has a key with several values")
        if not node & _ELSEWHERE:
            return length
        if place + 8 <= len(self.content):
            (first,) = struct.unpack_from("<Q", self.content, place)
            if 2 <= first <= self.last and first * self.size + _HEADER + length <= (self.last + 1) * self.size:
                own, _, flags, pages = struct.unpack_from("<QHHI", self.content, first * self.size)
                if own == first and flags & _OVERFLOW and pages * self.size >= _HEADER + length:
                    return 8
        raise ValueError(f"page {number} has a value that lies outside the file")
