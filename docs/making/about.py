"""Pages that are files of the repository's root."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
REPOSITORY = "https://github.com/facezoo/facezoo/blob/main"


def root_page(name: str) -> str:
    """A Markdown file of the root; its links lead to pages of the site, or to the repository."""

    def moved(match: re.Match[str]) -> str:
        target = match[1]
        return f"]({target.removeprefix('docs/')})" if target.startswith("docs/") else f"]({REPOSITORY}/{target})"

    quiet = "---\nsearch:\n  boost: 0.3\n---\n"  # what a page says comes before what once changed
    return quiet + re.sub(r"\]\((?!https?:|#)([^)]+)\)", moved, (ROOT / name).read_text(encoding="utf-8"))


def citation_page() -> str:
    """How to cite, from CITATION.cff."""
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([a-z-]+): \"?(.+?)\"?$", text, flags=re.MULTILINE))
    entry = [
        "@software{facezoo,",
        f"  title = {{{fields['title']}}},",
        "  author = {{The facezoo developers}},",
        f"  version = {{{fields['version']}}},",
        f"  url = {{{fields['repository-code']}}},",
        "}",
    ]
    lines = ["# Citation", "", fields["message"], "", "```bibtex", *entry, "```", ""]
    lines += ["The papers are named on the pages of [models](models.md) and [margins](margins.md).", ""]
    return "\n".join(lines)
