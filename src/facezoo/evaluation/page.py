"""Pages: headings, texts, tables, plots and pictures, printed as Markdown or as one self-contained HTML file.

Nothing in a page is fetched: pictures are in it. It follows the reader's choice of light or dark, and plots have a form for each.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from facezoo.columns import markdown_table
from facezoo.evaluation.plots import figure_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Images = Mapping[str, bytes]


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 3."""

    level: int
    text: str

    def markdown(self) -> str:
        """As Markdown."""
        return f"{'#' * self.level} {self.text}"

    def html(self, images: Images, dark: Images) -> str:
        """As HTML."""
        return f"<h{self.level}>{html.escape(self.text)}</h{self.level}>"


@dataclass(frozen=True)
class Text:
    """A paragraph of plain text."""

    text: str

    def markdown(self) -> str:
        """As Markdown."""
        return self.text

    def html(self, images: Images, dark: Images) -> str:
        """As HTML."""
        return f"<p>{html.escape(self.text)}</p>"


@dataclass(frozen=True)
class Table:
    """A table; a header of empty texts is left out in HTML. A wide one scrolls by itself."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """As Markdown."""
        return markdown_table(self.header, self.rows)

    def html(self, images: Images, dark: Images) -> str:
        """As HTML."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        head = f"<thead><tr>{head}</tr></thead>\n" if any(self.header) else ""
        return f'<div class="wide" tabindex="0"><table>\n{head}<tbody>\n{body}\n</tbody></table></div>'


@dataclass(frozen=True)
class Plot:
    """A plot by its key among the images of the page."""

    key: str
    caption: str

    def markdown(self) -> str:
        """As Markdown."""
        return f"![{self.caption}](plots/{self.key}.png)"

    def html(self, images: Images, dark: Images) -> str:
        """As HTML: the light form, and the dark one where the reader wants that."""
        caption = html.escape(self.caption)
        other = ""
        if self.key in dark:
            other = f'<source media="(prefers-color-scheme: dark)" srcset="{_data(dark[self.key])}">'
        image = f'<img alt="{caption}" src="{_data(images[self.key])}">'
        return f'<figure class="plot"><picture>{other}{image}</picture><figcaption>{caption}</figcaption></figure>'


@dataclass(frozen=True)
class Pictures:
    """Photos in a row that wraps.

    Attributes:
        caption: what they show.
        groups: each a caption and the keys of its photos, which stay together.
        side: side of a photo, CSS pixels.
    """

    caption: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    side: int = 96

    def markdown(self) -> str:
        """As Markdown: the captions only."""
        return "\n".join([self.caption, "", *(f"- {text}" for text, _ in self.groups)])

    def html(self, images: Images, dark: Images) -> str:
        """As HTML."""
        shown = []
        for text, keys in self.groups:
            photos = "".join(f'<img alt="" width="{self.side}" src="{_data(images[key])}">' for key in keys)
            shown.append(f"<figure><div>{photos}</div><figcaption>{html.escape(text)}</figcaption></figure>")
        return f'<p>{html.escape(self.caption)}</p>\n<div class="photos">{"".join(shown)}</div>'


Block: TypeAlias = "Heading | Text | Table | Plot | Pictures"


@dataclass
class Sheet:
    """What is collected on the way down a page.

    Attributes:
        blocks: from top to bottom.
        images: PNG or JPEG files by key.
        dark: the plots among them in their dark form.
    """

    blocks: list[Block] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    dark: dict[str, bytes] = field(default_factory=dict)

    def plot(self, key: str, figure: Figure, caption: str) -> None:
        """Add a figure, in both of its forms."""
        self.images[key], self.dark[key] = figure_png(figure), figure_png(figure, dark=True)
        self.blocks.append(Plot(key, caption))

    def html(self, title: str) -> str:
        """The whole HTML file, with ``title`` as that of the window."""
        return page(title, self.blocks, self.images, self.dark)


def page(title: str, blocks: Iterable[Block], images: Images, dark: Images) -> str:
    """The whole HTML file.

    Args:
        title: of the window.
        blocks: from top to bottom.
        images: PNG or JPEG files by key.
        dark: the plots among them in their dark form.
    """
    body = "\n".join(block.html(images, dark) for block in blocks)
    return _PAGE.replace("{title}", html.escape(title)).replace("{body}", body)


def _data(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light dark; --line: #d5d7db; --soft: #5b6068; --ground: #ffffff; --text: #1c1e21; }
@media (prefers-color-scheme: dark) { :root { --line: #3a3e45; --soft: #a6acb5; --ground: #16181b; --text: #e7e9ec; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  background: var(--ground); color: var(--text); overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; } h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .9rem .3rem 0; text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; white-space: nowrap; }
td { max-width: 34rem; }
figure { margin: 1rem 0; }
figure.plot { display: inline-block; vertical-align: top; max-width: 100%; margin-right: .25rem; }
@media (max-width: 40rem) { table { font-size: .82rem; } th { white-space: normal; } th, td { padding-right: .5rem; } }
picture img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .9rem; color: var(--soft); }
.photos { display: flex; flex-wrap: wrap; gap: 1rem; }
.photos figure { margin: 0; }
.photos div { display: flex; gap: 2px; }
.photos img { display: block; height: auto; }
.photos figcaption { max-width: 16rem; }
</style>
</head>
<body>
{body}
</body>
</html>
"""
