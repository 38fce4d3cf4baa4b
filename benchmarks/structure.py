"""How many files one idea runs through, and how large the parts are: counted, not estimated.

    python benchmarks/structure.py                                  # this tree, as a table
    python benchmarks/structure.py --before OTHER/src --write       # beside another tree; writes results/structure.md

A file counts as traced when a function of it is called. Each case runs once before it is traced, so that imports do not count. One
update of the trainer is what happens between the ends of two steps of its optimizer, without the reading of images (``data/``),
which is the work of other processes.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "structure.md"
LONG_FILE, LONG_FUNCTION = 500, 60
TITLES = {
    "create_model": 'files traced: `create_model("resnet18")`',
    "forward": "files traced: its forward",
    "arcface": "files traced: ArcFace, dense, forward and backward",
    "update": "files traced: one update of the trainer",
    "lines": "source lines",
    "files": f"files above {LONG_FILE} lines",
    "functions": f"functions above {LONG_FUNCTION} lines",
    "register_margin": "parameters of `register_margin`",
}
GOALS = {"create_model": 12, "forward": 4, "arcface": 6, "update": 12, "files": 0, "functions": 0, "register_margin": 5}


class Trace:
    """The files of the package whose functions are called while it is on."""

    def __init__(self, package: Path) -> None:
        self.package = f"{package}{os.sep}"
        self.files: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(self.package):
            self.files.add(name.removeprefix(self.package))

    def on(self) -> None:
        """Begin."""
        sys.setprofile(self)

    def off(self) -> None:
        """End."""
        sys.setprofile(None)


def traced(package: Path, call: Callable[[], object]) -> list[str]:
    """The files that the second ``call`` runs through."""
    call()
    trace = Trace(package)
    trace.on()
    try:
        call()
    finally:
        trace.off()
    return sorted(trace.files)


def traced_update(package: Path) -> list[str]:
    """The files of one update, taken from a training on a handful of noise."""
    import torch

    trace, steps = Trace(package), [0]
    step = torch.optim.SGD.step

    def counted(self: Any, closure: Any = None) -> Any:
        trace.off()
        result = step(self, closure)
        steps[0] += 1
        if steps[0] == 2:
            trace.on()
        return result

    torch.optim.SGD.step = counted  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            _train(Path(folder))
    finally:
        trace.off()
        torch.optim.SGD.step = step  # type: ignore[method-assign]
    if steps[0] < 3:
        raise RuntimeError(f"the training made {steps[0]} updates; three are needed to trace one")
    return sorted(name for name in trace.files if not name.startswith(f"data{os.sep}"))


def _train(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    from facezoo.training import TrainConfig, Trainer

    draw = np.random.default_rng(0)
    for person in range(4):
        (folder / "faces" / f"id{person}").mkdir(parents=True)
        for image in range(8):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "faces" / f"id{person}" / f"{image}.png")
    settings = {
        "data": str(folder / "faces"), "out": str(folder / "run"), "model": "resnet18", "img_size": 32, "embedding_dim": 8,
        "epochs": 1, "batch_size": 4, "num_workers": 0, "progress": False, "device": "cpu", "warmup_epochs": 0.0,
    }  # fmt: skip
    make = getattr(TrainConfig, "from_options", TrainConfig)  # the settings were flat once
    Trainer(make(**settings)).fit()


def measure() -> dict[str, Any]:
    """All figures of the facezoo that is imported here."""
    import torch

    import facezoo
    from facezoo.margins import register_margin

    package = Path(facezoo.__file__).parent
    model = facezoo.create_model("resnet18", img_size=32, embedding_dim=16).eval()
    head = facezoo.create_margin("arcface", embedding_dim=16, num_classes=40, engine="dense")
    images, embeddings = torch.zeros(1, 3, 32, 32), torch.randn(4, 16, requires_grad=True)
    found: dict[str, Any] = {
        "create_model": traced(package, lambda: facezoo.create_model("resnet18")),
        "forward": traced(package, lambda: model(images)),
        "arcface": traced(package, lambda: head(embeddings, torch.arange(4)).backward()),
        "update": traced_update(package),
    }
    files = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    found["lines"] = sum(len(text.splitlines()) for text in files.values())
    found["files"] = sorted(name for name, text in files.items() if len(text.splitlines()) > LONG_FILE)
    found["functions"] = sorted(name for path, text in files.items() for name in _long_functions(path, text))
    found["register_margin"] = len(inspect.signature(register_margin).parameters)
    return found


def _long_functions(path: str, text: str) -> list[str]:
    return [
        f"{path}: {node.name} ({node.end_lineno - node.lineno + 1})"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONG_FUNCTION
    ]


def measured_in(source: Path) -> dict[str, Any]:
    """The figures of the tree ``source``, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(source.resolve())}
    done = subprocess.run(
        [sys.executable, __file__, "--json"], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(columns: dict[str, dict[str, Any]]) -> str:
    """Markdown: one row per figure, then the names behind the counts of the last column."""

    def count(value: Any) -> str:
        return f"{len(value) if isinstance(value, list) else value:,}"

    lines = [f"| | {' | '.join(columns)} | goal |", "|---|" + "--:|" * (len(columns) + 1)]
    for key, title in TITLES.items():
        cells = [count(column[key]) for column in columns.values()]
        lines.append(f"| {title} | {' | '.join(cells)} | {f'≤ {GOALS[key]}' if key in GOALS else ''} |")
    last = list(columns.values())[-1]
    for key, title in TITLES.items():
        if isinstance(last[key], list) and last[key]:
            lines += ["", f"{title[0].upper()}{title[1:]}: {', '.join(last[key])}."]
    return "\n".join(lines)


def main() -> None:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--before", type=Path, help="the src folder of another version to set beside this one")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    parser.add_argument("--json", action="store_true", help="the figures of the facezoo that Python finds, on one line")
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure()))
        return
    columns = {} if options.before is None else {"before": measured_in(options.before)}
    columns["now"] = measured_in(ROOT / "src")
    text = table(columns)
    if options.write:
        from facezoo.files import write_atomic

        head = "# Structure\n\nCounted by `python benchmarks/structure.py --before OTHER/src --write`; the file says how.\n\n"
        write_atomic(RESULTS, f"{head}{text}\n")
    print(text)


if __name__ == "__main__":
    main()
