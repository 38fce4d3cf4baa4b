"""Drawings as SVG that takes its colors from the page (assets/facezoo.css), light or dark."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

Point = tuple[float, float]


def drawing(width: float, height: float, parts: Iterable[str], title: str) -> str:
    """A picture that shrinks with the page and never grows beyond its size; without blank lines, where Markdown would end it."""
    inner = "\n".join(parts)
    return (
        f'<svg class="fz" viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img">\n'
        f"<title>{html.escape(title)}</title>\n{inner}\n</svg>"
    )


def text(x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> str:
    """Words whose middle (or, by ``anchor``, start or end) is at (x, y)."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{style}">{html.escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, style: str) -> str:
    """A box whose left upper corner is (x, y)."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" class="{style}"/>'


def path(points: Sequence[Point], style: str) -> str:
    """A line through the points."""
    steps = " ".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))
    return f'<path d="{steps}" class="{style}"/>'


def figure(picture: str, caption: str) -> str:
    """A picture with the words below it."""
    return f"<figure>\n{picture}\n<figcaption>{caption}</figcaption>\n</figure>"


class Axes:
    """A plot of lines: ``x`` from ``x_range`` on the horizontal axis, ``y`` from ``y_range`` on the vertical one."""

    def __init__(self, x_range: Point, y_range: Point, *, width: float = 340, height: float = 260) -> None:
        self.x_range, self.y_range = x_range, y_range
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 44.0, width - 16.0, 10.0, height - 36.0

    def place(self, x: float, y: float) -> Point:
        """Where a point lies in the picture."""
        along = (x - self.x_range[0]) / (self.x_range[1] - self.x_range[0])
        up = (y - self.y_range[0]) / (self.y_range[1] - self.y_range[0])
        return self.left + along * (self.right - self.left), self.bottom - up * (self.bottom - self.top)

    def frame(self, x_ticks: dict[float, str], y_ticks: dict[float, str], x_label: str, y_label: str) -> list[str]:
        """The axes with their marks."""
        parts = [box(self.left, self.top, self.right - self.left, self.bottom - self.top, "fz-frame")]
        for value, words in x_ticks.items():
            x, _ = self.place(value, self.y_range[0])
            parts += [path([(x, self.top), (x, self.bottom)], "fz-grid"), text(x, self.bottom + 14, words, "fz-small")]
        for value, words in y_ticks.items():
            _, y = self.place(self.x_range[0], value)
            parts += [path([(self.left, y), (self.right, y)], "fz-grid")]
            parts += [text(self.left - 5, y + 4, words, "fz-small", "end")]
        middle = (self.top + self.bottom) / 2
        parts.append(text((self.left + self.right) / 2, self.height - 4, x_label, "fz-small"))
        turned = text(0, 0, y_label, "fz-small")
        return [*parts, f'<g transform="translate(11 {middle:g}) rotate(-90)">{turned}</g>']

    def line(self, xs: Sequence[float], ys: Sequence[float], style: str) -> str:
        """A line through the points that lie inside."""
        low, high = sorted(self.y_range)
        inside = [self.place(x, y) for x, y in zip(xs, ys, strict=True) if low - 1e-6 <= y <= high + 1e-6]
        return path(inside, style) if len(inside) > 1 else ""
