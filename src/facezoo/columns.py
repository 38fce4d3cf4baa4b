"""Tables: aligned lines of text, Markdown, and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence


def aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    """Text with one line per row and aligned columns.

    Args:
        rows: rows with the same number of cells; without rows the text is empty.
        right: align all columns but the first to the right, for numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:{'>' if right and index else '<'}{width}}"
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown. Line breaks in cells become spaces, and bars are escaped."""

    def cell(text: str) -> str:
        return " ".join(text.split()).replace("|", "\\|")

    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows, the header among them, as the text of a CSV file whose lines end in ``\\n``."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
