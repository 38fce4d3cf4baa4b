"""The measured sentences of the guides, made from benchmarks/results: each stands between two marks in its page.

``python docs/making/measured.py`` writes them anew, and the README's table with them; a test compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from making import results
from making.results import RESULTS, ROOT, figure, machine, read
from making.text import table

END = "<!-- end of measured -->"


def mark(name: str) -> str:
    """The line above a measured passage."""
    return f"<!-- measured: {name}, made by docs/making/measured.py -->"


def forms() -> str:
    """deployment.md: which form is fastest."""
    column = "over the best eager peer"
    kinds = {"float32": "facezoo in ONNX Runtime, fused", "8 bits": "facezoo in ONNX Runtime, int8"}
    gains = {
        kind: {row["model"]: row[column] for row in read("inference")["rows"] if row["form"] == form}
        for kind, form in kinds.items()
    }
    rows = [
        [f"`{model}`", *(f"{gains[kind][model]:.1f}×" for kind in kinds)]
        for model in sorted(gains["8 bits"], key=lambda model: -gains["8 bits"][model])
    ]
    columns = ["Over the best eager form of anybody", *(f"ONNX Runtime, {kind}" for kind in kinds)]
    where = f"Measured on {machine('inference')} (`benchmarks/results/inference.md`)."
    return "\n".join([*table(columns, rows, numbers=(1, 2)), "", where])


def at_scale() -> str:
    """evaluation.md: all pairs, and streamed scores."""

    def seconds(case: str, size: int) -> float:
        found: float = figure("evaluation", "seconds", case=case, size=size)
        return found

    bare = seconds("pairs, bare products", 100_000)
    memory = figure("evaluation", "peak MiB over the input", case="pairs, exact", size=100_000)
    return (
        f"The five billion pairs of 100,000 embeddings take {seconds('pairs, binned', 100_000) / bare:.1f} times the bare matrix "
        f"products binned and {seconds('pairs, exact', 100_000) / bare:.1f} times exact, with {memory:.0f} MiB over the "
        f"embeddings;\n100 million scores take {seconds('roc, facezoo streamed, exact', 100_000_000):.1f} seconds, scikit-learn's "
        f"`roc_curve` {seconds('roc, scikit-learn', 100_000_000):.0f}. Measured on {machine('evaluation')}\n"
        "(`benchmarks/results/evaluation.md`, which also says how much this varies)."
    )


def coverage() -> str:
    """evaluation.md: how often the intervals held the truth."""
    found = read("coverage")
    columns = {
        "people": "People", "impostor pairs": "Impostor pairs", "spread": "Spread", "figure": "Figure",
        "% held, over pairs": "% held, over pairs", "% held, over people": "% held, over people",
    }  # fmt: skip

    def cell(value: object) -> str:
        return f"{value:,}" if isinstance(value, int) else str(value)

    rows = [[cell(row[column]) for column in columns] for row in found["rows"]]
    return "\n".join(table(list(columns.values()), rows))


def named() -> str:
    """evaluation.md: people named at a threshold that the gallery chose."""
    text = (RESULTS / "identification.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [\d.]+ \| the gallery's own photos, for FPIR 1 % \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    if len(rows) != 1:
        raise ValueError(
            f"identification.md has {len(rows)} rows for FPIR 1 % by the gallery's own photos; one is wanted"
        )
    (tpir, tpir_interval), (fpir, fpir_interval) = (cell.split(" ", 1) for cell in rows[0])
    return (
        f"With published weights and half of 744 people in the gallery, `gallery test` gives a TPIR of {tpir} % {tpir_interval} at "
        f"a measured FPIR of {fpir} % {fpir_interval};\nthe commands are in `benchmarks/results/identification.md`."
    )


# The page, the name of the passage, and what makes it.
def large_sets() -> str:
    """data.md: what a packed folder costs at a million images, and by its growth at 42 million."""
    row = next(row for row in read("packed_scale")["rows"] if row["images"] == 1_000_000)
    order = row["order of an epoch for one of 64 ranks, s"]
    rows = [
        ["shards of 4,096 images, 112×112", f"{row['shards']} files, 38 GB", "10,254 files, 1.6 TB"],
        ["JPEG files kept (`--keep-jpeg`, about 8 KB each)", "8 GB", "0.3 TB"],
        ["to open", f"{row['to open, s']:.1f} s", f"about {42 * row['to open, s']:.0f} s"],
        ["memory", f"{row['memory, MiB']:.0f} MiB", f"about {42 * row['memory, MiB'] / 1024:.1f} GiB"],
        ["order of an epoch for one of 64 ranks", f"{order:.2f} s", f"about {42 * order:.0f} s, 0.3 GB"],
        ["files held open", str(row["handles"]), str(row["handles"])],
        ["address space of the maps", "38 GB", "1.6 TB, of 128 TB"],
    ]
    where = f"The first column was measured on {machine('packed_scale')} (`benchmarks/results/packed_scale.md`)."
    return "\n".join([*table(["", "1 million", "42 million"], rows, numbers=(1, 2)), "", where])


def heads_on_a_gpu() -> str:
    """losses.md: a step of each head."""
    heads = {
        "fused": "facezoo fused",
        "chunked": "facezoo chunked",
        "dense": "facezoo dense",
        "insightface's formulation": "insightface's formulation",
        "the same, compiled": "insightface's formulation, compiled",
    }
    rows = [
        [
            label,
            f"{figure('head_100k_cuda', 'ms (median)', head=head):.1f}",
            f"{figure('head_100k_cuda', 'extra peak MiB', head=head):,}",
        ]
        for label, head in heads.items()
    ]
    columns = ["Head", "ms a step", "MiB beside centers, gradient and momentum"]
    gpu, date = read("head_100k_cuda")["machine"]["gpu"], read("head_100k_cuda")["date"]
    where = (
        f"100,000 identities, 1,024 samples, TF32, measured on {gpu}, {date} (`benchmarks/results/head_100k_cuda.md`;\n"
        "the fused head launches fewer kernels since, and takes more memory for it)."
    )
    return "\n".join([*table(columns, rows, numbers=(1, 2)), "", where])


PASSAGES: tuple[tuple[str, str, Callable[[], str]], ...] = (
    ("docs/data.md", "large sets", large_sets),
    ("docs/deployment.md", "forms", forms),
    ("docs/evaluation.md", "coverage", coverage),
    ("docs/evaluation.md", "at scale", at_scale),
    ("docs/evaluation.md", "named", named),
    ("docs/losses.md", "heads on a GPU", heads_on_a_gpu),
)


def passage(name: str, make: Callable[[], str]) -> str:
    """A passage between its marks, as the page holds it."""
    return f"{mark(name)}\n\n{make()}\n\n{END}"


def write() -> None:
    """Put every passage between its marks."""
    for page, name, make in PASSAGES:
        path = ROOT / page
        before, rest = path.read_text(encoding="utf-8").split(mark(name))
        path.write_text(before + passage(name, make) + rest.split(END, 1)[1], encoding="utf-8")
    results.write_readme()


if __name__ == "__main__":
    sys.exit(write())
