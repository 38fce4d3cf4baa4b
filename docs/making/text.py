"""Small pieces of Markdown and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def escaped(text: str) -> str:
    """``text`` as HTML, with ``code`` between back quotes."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", html.escape(text, quote=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> list[str]:
    """Lines of a Markdown table; the columns whose index is in ``numbers`` stand on the right."""
    marks = ["--:" if index in numbers else "---" for index in range(len(columns))]
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join(marks)}|"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def amount(value: int) -> str:
    """A count in k, M or G with three digits: ``31.5 M``."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            scaled = value / factor
            return f"{scaled:.{max(0, 3 - len(str(int(scaled))))}f} {unit}"
    return str(value)


def paper_link(paper: str) -> str:
    """A link where ``paper`` is an arXiv number, else the text."""
    number = paper.removeprefix("arXiv ").split(",")[0]
    return f"[{paper}](https://arxiv.org/abs/{number})" if number.replace(".", "").isdigit() else paper
