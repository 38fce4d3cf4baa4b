"""What was measured: the benchmarks page, and the figures of the README, read from benchmarks/results.

``python docs/making/measured.py`` writes the README's figures anew, and those of the guides; a test compares them.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from pathlib import Path
from typing import Any

REPOSITORY = (
    "https://github.com/facezoo/facezoo"  # links of the README are whole, so that they work on a package index too
)
ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MARKS = ("<!-- measured: made by docs/making/measured.py -->", "<!-- end of measured -->")

# In this order on the page; what is not named here follows, by name.
FIRST = (
    "quality",
    "real_faces",
    "third_party_weights",
    "margins_on_faces",
    "head_cpu",
    "throughput_cpu_peers",
    "inference",
)
TOO_LONG = 40  # rows; longer tables are folded


@functools.cache
def read(name: str) -> dict[str, Any]:
    """A result that a benchmark wrote: title, date, machine, note, rows."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def machine(name: str) -> str:
    """Where and when a result was measured."""
    found = read(name)
    computer = found["machine"]
    threads = f"{computer['threads']} thread{'s' if computer['threads'] != '1' else ''}"
    return f"{computer['cpu']}, {computer['cores']} cores, {threads}, torch {computer['torch']}, {found['date']}"


def benchmarks_page() -> str:
    """Every committed result with its machine and date, one section each."""
    names = {path.stem for path in RESULTS.glob("*.md")}
    order = [name for name in FIRST if name in names] + sorted(names - set(FIRST))
    lines = [
        "---",
        "search:",
        "  boost: 0.3",
        "---",
        "# Benchmarks",
        "",
        "Read from `benchmarks/results` when this site is built. Each section is one script on one machine; figures of different "
        "machines are never in one row. `make bench-quick` measures some of the ratios on your machine in a few minutes and says "
        "where it disagrees; `make bench` measures everything.",
        "",
    ]
    for name in order:
        lines += section(name)
    return "\n".join(lines) + "\n"


def section(name: str) -> list[str]:
    """A result as its Markdown file shows it, one heading lower; a long table is folded."""
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    text = re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)
    text = re.sub(r"!?\[([^\]]*)\]\((?!https?:)([^)]*)\)", r"\1 (`benchmarks/results/\2`)", text)
    text = re.sub(r"^(.*?) ?Settings: (\{.*\})$", _folded_settings, text, flags=re.MULTILINE)
    shown: list[str] = []
    for is_table, group in itertools.groupby(text.rstrip().split("\n"), key=lambda line: line.startswith("|")):
        rows = list(group)
        if is_table and len(rows) > TOO_LONG:
            rows = [f'??? note "Table of {len(rows) - 2} rows"', "", *(f"    {row}" for row in rows)]
        shown += rows
    return [*shown, "", f"From `benchmarks/results/{name}`.", ""]


def _folded_settings(match: re.Match[str]) -> str:
    """The settings of a run, which a benchmark writes as one line of JSON, behind a fold and one a line."""
    settings = json.dumps(json.loads(match[2]), indent=1).split("\n")
    return "\n".join(
        [match[1], "", '??? note "Settings"', "", "    ```json", *(f"    {line}" for line in settings), "    ```"]
    )


def readme_figures() -> str:
    """The README's table of figures: what, how much, and where it was measured."""
    rows = [real_faces(), head(), throughput(), int8(), construction()]
    table = ["| What | Measured | Where and when |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join([MARKS[0], "", *table, "", MARKS[1]])


def figure(name: str, column: str, **where: object) -> Any:
    """One figure of a result: that of the one row with these values."""
    (row,) = (row for row in read(name)["rows"] if all(row.get(key) == value for key, value in where.items()))
    return row[column]


def link(name: str, words: str) -> str:
    """A link to a result from the README."""
    return f"[{words}]({REPOSITORY}/blob/main/benchmarks/results/{name}.md)"


def real_faces() -> tuple[str, str, str]:
    """Trained from scratch on a CPU."""

    def cells(row: str) -> str:
        values = [figure("real_faces", column, figure=row) for column in ("untrained", "cross-entropy", "arcface")]
        return ", ".join(value.split(" (")[0] for value in values)

    accuracy, eer = cells("View 2 10-fold accuracy %"), cells("View 2 EER %")
    words = (
        f"{link('real_faces', 'LFW View 2')}, ResNet-18 from scratch on 13,216 images, an hour of processor time: "
        "untrained, cross-entropy, ArcFace"
    )
    return words, f"accuracy {accuracy} %; EER {eer} %", machine("real_faces")


def head() -> tuple[str, str, str]:
    """The ArcFace head."""
    where = {"identities": 200000, "batch": 256}
    ours = figure("head_cpu", "ms (median)", head="facezoo chunked", **where)
    peer = figure("head_cpu", "ms (median)", head="insightface's formulation", **where)
    memory = [
        figure("head_cpu", "extra peak MiB", head=name, **where)
        for name in ("facezoo chunked", "insightface's formulation")
    ]
    words = f"{link('head_cpu', 'ArcFace step')}, 200,000 identities, batch 256: facezoo, insightface's formulation"
    return (
        words,
        f"{ours:,.0f}, {peer:,.0f} ms; {memory[0]:,.0f}, {memory[1]:,.0f} MiB beyond the weights",
        machine("head_cpu"),
    )


def throughput() -> tuple[str, str, str]:
    """Networks against the same ones elsewhere."""
    column = "over the fastest peer in this form"
    ratios = [
        row[column] for row in read("throughput_cpu_peers")["rows"] if row["library"] == "facezoo" and row.get(column)
    ]
    words = (
        f"{link('throughput_cpu_peers', 'Images per second')} over the faster of timm and torchvision, same networks"
    )
    return words, f"{min(ratios):.2f} to {max(ratios):.2f}", machine("throughput_cpu_peers")


def int8() -> tuple[str, str, str]:
    """8-bit integers."""
    column = "over the best eager peer"
    gains = [
        (row[column], row["model"]) for row in read("inference")["rows"] if row["form"].endswith("int8") and row[column]
    ]
    gains.sort(reverse=True)
    words = f"{link('inference', 'Inference in 8 bits')} over the best eager form of anybody"
    return words, ", ".join(f"{gain:.1f}× ({model})" for gain, model in gains), machine("inference")


def construction() -> tuple[str, str, str]:
    """Random weights."""
    ours, timm = (figure("construction", "ms (median)", model="resnet50", library=name) for name in ("facezoo", "timm"))
    words = f"{link('construction', 'Construction')} of ResNet-50: facezoo, timm"
    return words, f"{ours:.0f}, {timm:.0f} ms", machine("construction")


def write_readme() -> None:
    """Put the figures between their marks in the README."""
    path = ROOT / "README.md"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    path.write_text(before + readme_figures() + rest.split(MARKS[1])[1], encoding="utf-8")
