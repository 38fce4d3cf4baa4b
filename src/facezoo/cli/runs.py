"""``facezoo report`` and ``compare``: pages about runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from facezoo.cli.options import note, print_result


def add_report(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo report``."""
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--data", type=Path, help="path of its data; default: the path in the run's settings")
    parser.add_argument("--out", type=Path, help="HTML file; default: report.html in the run folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def run_report(options: argparse.Namespace) -> None:
    """Write the page."""
    from facezoo.training.run_report import write_run_report

    path = write_run_report(options.run, data=options.data, out=options.out, device=options.device)
    print_result(options, {"report": str(path)}, f"{path}: open it in a browser; it shows images of the data")


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``facezoo compare``."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, or folders of train --seeds")
    parser.add_argument("--data", type=Path, help="path of their data; default: the path in the runs' settings")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="HTML file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def run_compare(options: argparse.Namespace) -> None:
    """Print the comparison, and write the page."""
    from facezoo.training.run_comparison import compare_runs

    text, path = compare_runs(options.runs, out=options.out, data=options.data, device=options.device)
    print_result(options, {"comparison": str(path), "text": text}, text)
    note(options, f"{path}: the curves")
