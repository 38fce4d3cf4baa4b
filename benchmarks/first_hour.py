"""The first hour of a new user, timed, and what the same jobs take elsewhere, counted.

    python benchmarks/first_hour.py                      # a fresh environment, installed by pip from this clone; minutes
    python benchmarks/first_hour.py --environment .venv  # an environment that is there: the installation is not measured

Every step is a command that the documentation shows, in a folder of its own, and is checked by what it says: the search must name
people rightly. Lines of code are counted in first_hour/*.py, job by job: lines that hold a token which is neither a comment nor a
docstring. Writes results/first_hour.{json,md}; --loaded says in them that other work ran beside it.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from common import write_results

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "first_hour"
JOBS = ("trained and evaluated", "a person found", "an own margin trained")
EMBEDDING = (
    "import facezoo, torch; "
    "print(tuple(facezoo.create_model('resnet18').eval().embed(torch.zeros(1, 3, 112, 112)).shape))"
)


def lines_of(program: Path) -> dict[str, int]:
    """Lines of code of a program, by the ``# job:`` above them; blank lines, comments and docstrings do not count."""
    source = program.read_text(encoding="utf-8")
    tree = ast.parse(source)
    used: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.stmt, ast.expr)) and not _is_docstring(node):
            used |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    docstrings = (node for node in ast.walk(tree) if _is_docstring(node))
    used -= {line for node in docstrings for line in range(node.lineno, node.end_lineno + 1)}
    counts: dict[str, int] = {}
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith("# job: "):
            counts[job := line.removeprefix("# job: ")] = 0
        elif number in used and line.strip() and not line.strip().startswith("#"):
            counts[job] += 1
    return counts


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def steps(python: str, work: Path) -> Iterator[tuple[str, int, list[list[str]], str]]:
    """What, lines of Python, the commands, and a pattern that what the last of them prints must hold."""
    facezoo = [str(Path(python).with_name("facezoo"))]
    yield "first embedding", 2, [[python, "-c", EMBEDDING]], r"\(1, 512\)"
    yield (
        JOBS[0] + ": `facezoo demo --fast`",
        0,
        [[*facezoo, "demo", "--fast", "--out", "demo"]],
        "Done in",
    )
    (faces,) = (path for path in (work / "demo").glob("faces-*") if path.is_dir())
    build = [*facezoo, "gallery", "build", str(faces / "cls_data" / "train"), "--network", "demo/run", "--flip", "sum"]
    search = [*facezoo, "identify", "people.safetensors", str(faces / "cls_data" / "test"), "--fpir", "0.1"]
    yield (
        JOBS[1] + ": `gallery build`, `identify`",
        0,
        [[*build, "--out", "people.safetensors"], search],
        r"/(id_\d+)/\d+\.jpg: \1 ",  # .../the person's folder/picture: the name that it was given
    )
    options = ["--model", "resnet18", "--stem", "imagenet", "--img-size", "64", "--epochs", "2", "--batch-size", "32"]
    options += ["--num-workers", "0", "--margin", "soft_arc", "--margin-options", "scale=32", "--out", "runs/own"]
    train = [*facezoo, "--import", "soft_arc", "train", str(faces), *options]
    lines = lines_of(PROGRAMS / "soft_arc.py")[JOBS[2]]
    yield JOBS[2] + ": `facezoo --import soft_arc train`", lines, [train], "finished: 2 epochs"


def run(command: list[str], work: Path) -> str:
    """What a command prints; where it fails, the whole stops with its words."""
    shown = subprocess.run(command, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if shown.returncode:
        sys.exit(f"{' '.join(command)}\n{shown.stdout[-3000:]}")
    return shown.stdout


def install(work: Path) -> tuple[str, float]:
    """A fresh environment with facezoo from this clone, by pip; its interpreter, and the seconds it took."""
    started = time.monotonic()
    run([sys.executable, "-m", "venv", str(work / "venv")], work)
    python = str(work / "venv" / "bin" / "python")
    run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", str(HERE.parent)],
        work,
    )
    return python, time.monotonic() - started


def counted() -> str:
    """The lines and commands of the same jobs elsewhere, as a table."""
    names = {
        "facezoo": {JOBS[0]: "3 commands, 0 lines", JOBS[1]: "2 commands, 0 lines"},
        "torch and torchvision alone, as the course's starter notebook begins": lines_of(PROGRAMS / "plain_torch.py"),
        "timm and pytorch-metric-learning": lines_of(PROGRAMS / "timm_and_pml.py"),
        "insightface's package, weights included (never run here)": lines_of(PROGRAMS / "insightface_package.py"),
    }
    names["facezoo"][JOBS[2]] = f"1 command, {lines_of(PROGRAMS / 'soft_arc.py')[JOBS[2]]} lines"
    table = ["| With | " + " | ".join(JOBS) + " |", "|---|---|---|---|"]
    for name, counts in names.items():
        cells = [f"{counts[job]} lines" if isinstance(counts.get(job), int) else counts.get(job, "–") for job in JOBS]
        table.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, help="an environment with facezoo, in place of a fresh one")
    parser.add_argument("--loaded", action="store_true", help="other work ran beside it: say so in the table")
    options = parser.parse_args()
    rows, right, searched = [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "soft_arc.py").write_text((PROGRAMS / "soft_arc.py").read_text(encoding="utf-8"), encoding="utf-8")
        if options.environment:
            rows.append(
                {"step": "`pip install .`: not measured, an environment that was there", "commands": 2, "lines": 0}
            )
            python = str(options.environment.resolve() / "bin" / "python")
        else:
            python, seconds = install(work)
            rows.append({"step": "`python -m venv`, `pip install .`", "commands": 2, "lines": 0, "s": round(seconds)})
        for what, lines, commands, wanted in steps(python, work):
            started = time.monotonic()
            shown = [run(command, work) for command in commands][-1]
            seconds = time.monotonic() - started
            if not (found := len(re.findall(wanted, shown))):
                sys.exit(f"{what}: {wanted!r} is not in what it printed:\n{shown[-3000:]}")
            rows.append({"step": what, "commands": len(commands), "lines": lines, "s": round(seconds, 1)})
            print(f"{what}: {seconds:.1f} s", flush=True)
            if what.startswith(JOBS[1]):
                right, searched = found, len(re.findall(r"\.jpg: ", shown))
    note = (
        f"{'Loaded: other work ran beside it. ' if options.loaded else ''}One run, each step once, in a new folder; nothing "
        "downloaded beforehand but what pip has. At a false positive identification rate of 0.1 the search named "
        f"{right} of {searched} pictures rightly, which neither training nor gallery had.\n\n"
        "The same jobs elsewhere, in lines of code of "
        "the programs in `benchmarks/first_hour`, written for this count without blank lines, comments and docstrings; the later "
        "jobs use what the earlier ones of the same program define. A dash: the program cannot do it.\n\n" + counted()
    )
    write_results("first_hour", "The first hour of a new user", rows, note=note)


if __name__ == "__main__":
    main()
