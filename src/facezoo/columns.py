"""Tables for people to read, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """One line per row, the cells of a column under each other; with ``right`` all but the first column are flush right.

    Args:
        rows: rows of equally many cells. None at all give no lines.
        right: for numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'>' if right and index else '<'}{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
