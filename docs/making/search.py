"""What a reader who searches finds first: a small ranking over the index that MkDocs' search builds, as the site's search does it.

The site ranks by BM25 over titles and texts, in which a title weighs far more, times the boost of the page, and favors whole pages
and complete matches. That is computed here anew, so that the build can refuse a site on which these words lead elsewhere.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict


class Section(TypedDict):
    """An entry of search_index.json: a page, or a section of one."""

    location: str
    title: str
    text: str
    boost: float


# What is typed, and the page that must come first.
EXPECTED = {
    "equal error rate": "evaluation/",
    "EER": "evaluation/",
    "my own photos": "tutorials/photos/",
    "resume": "training/",
    "Kaggle submission": "evaluation/",
    "eight GPUs": "tutorials/many_gpus/",
    "own margin": "extending/",
}
TITLE = 1000.0  # how much more a word of a title weighs, as the theme has it
K1, B = 1.2, 0.75  # of BM25, the usual ones


def words(text: str) -> list[str]:
    """The words of a text in lower case, without HTML."""
    return re.findall(r"[a-z0-9]+", html.unescape(re.sub(r"<[^>]+>", " ", text)).lower())


def ranked(query: str, sections: Sequence[Section]) -> list[str]:
    """Pages that hold a word of the query, best first, without their anchors; whole pages and complete matches are favored."""
    asked = words(query)
    fields = (("title", TITLE), ("text", 1.0))
    counts = {name: [Counter(words(section[name])) for section in sections] for name, _ in fields}  # type: ignore[literal-required]
    scores = [0.0] * len(sections)
    for name, weight in fields:
        lengths = [count.total() for count in counts[name]]
        mean = max(sum(lengths) / max(len(lengths), 1), 1.0)
        for word in asked:
            holders = sum(word in count for count in counts[name])
            rarity = math.log(1 + abs((len(sections) - holders + 0.5) / (holders + 0.5)))
            for index, count in enumerate(counts[name]):
                often = count[word]
                scores[index] += (
                    weight * rarity * (K1 + 1) * often / (K1 * (1 - B + B * lengths[index] / mean) + often)
                    if often
                    else 0.0
                )
    best: dict[str, float] = {}
    for index, section in enumerate(sections):
        page, _, anchor = section["location"].partition("#")
        complete = all(any(word in counts[name][index] for name, _ in fields) for word in asked)
        favor = 1 + (int(not anchor) + int(complete)) ** 2
        if score := scores[index] * favor * section.get("boost", 1.0):
            best[page] = max(best.get(page, 0.0), score)
    return sorted(best, key=lambda page: -best[page])


def misled(index: Path) -> list[str]:
    """What a built index answers otherwise than ``EXPECTED``, one sentence each."""
    sections = json.loads(index.read_text(encoding="utf-8"))["docs"]
    found = {query: ranked(query, sections)[:3] for query in EXPECTED}
    return [
        f"a search for {query!r} finds {', '.join(pages) or 'nothing'}; {EXPECTED[query]} should come first"
        for query, pages in found.items()
        if pages[:1] != [EXPECTED[query]]
    ]
